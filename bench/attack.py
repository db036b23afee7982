"""Measures the daemon while backends answer their checks with harmful data: `python bench/attack.py [SECONDS]`.

1,000 pools of 10 backends on the loopback of a network namespace. Most are checked over UDP every 5 s, as in
bench/checks.py; HOSTILE pools have backends of bench/hostile.py, of all kinds in turn. Then servers stop answering, one
at a time. The results are the seconds until each is out of the rules, the memory of the daemon, and the seconds from
SIGTERM to the end of the daemon.
"""

from __future__ import annotations

import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from checks import (
    BACKENDS,
    HEALTH,
    INTERVAL,
    POOLS,
    address,
    cpu,
    end,
    listen,
    moment,
    resident,
    serving,
)
from hostile import KINDS

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Sequence

HOSTILE = int(os.environ.get("HOSTILE", "100"))
"""The number of pools with hostile backends, which are the last pools."""
PORT = 9000
SILENCED, SPACED = 20, 0.5
BOUND = INTERVAL + 1.0 + 1.0 + 1.0
"""Seconds until a silent server is out: the interval, a time-out, `fast_interval`, and another time-out."""


def text(folder: Path) -> str:
    lines = [f"state_dir: {folder}/state", f"api: {{listen: 'unix:{folder}/api.sock'}}", "pools:"]
    for pool in range(POOLS):
        kind, port, health = 0, 5353, HEALTH
        if pool >= POOLS - HOSTILE:
            kind = pool % len(KINDS)
            port, health = PORT + kind, f"{{{str(KINDS[kind][0])[1:-1]}, interval: 5s, timeout: 1s}}"
            health = health.replace("True", "true").replace("False", "false")
        lines += [
            f"  pool{pool}:",
            f"    listen: 192.0.{pool // 250}.{pool % 250 + 1}:53/udp",
            f"    health: {health}",
            "    backends:",
        ]
        lines += [f"      b{n}: {address(pool, n)}:{port}" for n in range(BACKENDS)]
    return "\n".join(lines) + "\n"


def main() -> None:
    userns.ensure()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with serving("attack", text) as scene:
        daemon = scene.daemon
        time.sleep(
            2 * INTERVAL
        )  # every backend has had its first check; until now, the ports of the hostile backends were closed
        rest = resident(daemon.pid)
        hostile = scene.namespace.popen(
            [sys.executable, str(Path(__file__).with_name("hostile.py")), str(PORT)], stdout=subprocess.PIPE
        )
        try:
            if hostile.stdout is not None:
                hostile.stdout.readline()
            began, used = time.monotonic(), cpu(daemon.pid)
            time.sleep(seconds)
            share = (cpu(daemon.pid) - used) / (time.monotonic() - began)
            times = silenced(scene.folder, scene.orders)
            highest = peak(daemon.pid)
            ended = end(daemon)
        finally:
            hostile.kill()
            hostile.wait()
    print(f"{HOSTILE * BACKENDS} hostile backends of {POOLS * BACKENDS}")
    print(f"{'processor':<46} {share:.1%} of one core")
    print(f"{'memory':<46} {rest:.0f} MB at rest, at most {highest:.0f} MB")
    values = f"median {statistics.median(times):.2f} s, longest {max(times):.2f} s, bound {BOUND:.2f} s"
    print(f"{f'silent until out ({len(times)} of {SILENCED})':<46} {values}")
    print(f"{'SIGTERM until the end':<46} {ended:.2f} s")


def silenced(folder: Path, orders: int) -> Sequence[float]:
    """Return, for each server, the seconds from the order to stop answering until the rules are without the server."""
    chance = random.Random(1)  # noqa: S311 - the same in every run
    places = [(pool, chance.randrange(BACKENDS)) for pool in chance.sample(range(POOLS - HOSTILE), SILENCED)]
    began: dict[tuple[str, str], float] = {}
    events = listen(folder)

    def silence() -> None:
        for pool, backend in places:
            began[f"pool{pool}", f"b{backend}"] = time.time()
            os.write(orders, f"-{address(pool, backend)}\n".encode())
            time.sleep(SPACED)

    Thread(target=silence, daemon=True).start()
    times = []
    for event in events:
        place = (event.get("pool", ""), event.get("backend", ""))
        if event["kind"] == "backend_down" and place in began:
            times.append(moment(event) - began[place])
            if len(times) == SILENCED:
                break
    return times


def peak(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()
