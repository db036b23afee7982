"""Measures the daemon under floods of requests without a token: `python bench/floods.py [POOLS [SECONDS]]`.

So many pools (1,000) of 10 backends, each checked over UDP every 5 s; first alone, then for so many seconds (30) under
tests/flooding.py. In both, backends of 20 pools go silent: how much later than its bound the last was out of the rules.
Also what probes took, and memory. At the end, how long the daemon takes to end.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from checks import BACKENDS, INTERVAL, end, get, listen, moment, p99, serving
from pools import text

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOODING = Path(__file__).parents[1] / "tests" / "flooding.py"
SILENCED = 20
HEALTH = "{udp: {send: are you there, match: there}, interval: 5s, fast_interval: 500ms, timeout: 1s, fall: 2}"
BOUND = 5 + 1 + 1
"""Seconds: interval, a time-out between two checks, and the last one's."""


def main() -> None:
    userns.ensure()
    pools, seconds = [*map(int, sys.argv[1:]), *(1000, 30)[len(sys.argv) - 1 :]]

    def content(folder: Path) -> str:
        head = f"state_dir: {folder}/state\napi: {{listen: 'unix:{folder}/api.sock'}}\ndefaults: {{health: {HEALTH}}}\n"
        return head + text(pools, BACKENDS)

    with serving("floods", content) as scene:
        daemon, folder = scene.daemon, scene.folder
        time.sleep(2 * INTERVAL)  # every backend has had its first check
        chance = random.Random(1)  # noqa: S311 - the same in every run
        chosen = chance.sample(range(pools), 2 * SILENCED)
        for path in ("/api/v1/status", "/metrics", "/api/v1/ruleset"):  # one of each belongs to the rest
            get(folder, path).read()
        rest = memory(daemon.pid, "VmRSS")
        print(f"{pools} pools of {BACKENDS}; memory at rest {rest:.0f} MB")
        measure("alone", folder, scene.orders, chosen[:SILENCED], seconds)
        attack = [sys.executable, str(FLOODING), f"unix:{folder}/api.sock", str(seconds)]
        with scene.namespace.popen(attack) as flood:
            time.sleep(1)
            measure("under the flood", folder, scene.orders, chosen[SILENCED:], seconds)
            flood.wait()
        print(f"  memory at most {memory(daemon.pid, 'VmHWM'):.0f} MB, of {rest:.0f} at rest")
        print(f"ended within {end(daemon):.2f} s of SIGTERM")


def measure(what: str, folder: Path, orders: int, pools: Sequence[int], seconds: float) -> None:
    """Silence a backend of each of these pools, and probe meanwhile."""
    enough = Event()
    took: list[float] = []
    probing = Thread(target=probe, args=(folder, enough, took))
    probing.start()
    gone = {f"pool{pool}" for pool in pools}
    events = listen(folder)
    begin = time.time()
    Thread(target=silence, args=(pools, orders, seconds / 3), daemon=True).start()
    out, ends = {}, []
    for event in events:
        if event["kind"] == "backend_down" and event["pool"] in gone:
            gone.discard(event["pool"])
            out[event["pool"]] = moment(event)
        elif event["kind"] == "swap":
            ends.append(moment(event))
            if not gone:
                break
    silenced = {f"pool{pool}": begin + seconds / 3 * place / len(pools) for place, pool in enumerate(pools)}
    late = [min(end for end in ends if end >= out[pool]) - silenced[pool] - BOUND for pool in out]
    enough.set()
    probing.join()
    print(
        f"{what}:\n  out in the kernel, beside the bound of {BOUND} s: last {max(late) * 1e3:+.0f} ms, first "
        f"{min(late) * 1e3:+.0f} ms\n  {len(took)} times /healthz and /readyz: median "
        f"{statistics.median(took) * 1e3:.0f} ms, p99 {p99(took) * 1e3:.0f} ms, most {max(took) * 1e3:.0f} ms",
        flush=True,
    )


def silence(pools: Sequence[int], orders: int, seconds: float) -> None:
    begin = time.monotonic()
    for place, pool in enumerate(pools):
        time.sleep(max(0.0, begin + seconds * place / len(pools) - time.monotonic()))
        os.write(orders, f"-10.{pool // 250}.{pool % 250}.1\n".encode())


def probe(folder: Path, enough: Event, took: list[float]) -> None:
    while not enough.wait(0.05):
        for path in ("/healthz", "/readyz"):
            begin = time.monotonic()
            get(folder, path).read()
            took.append(time.monotonic() - begin)


def memory(pid: int, line: str) -> float:
    """MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith(line)) / 1024


if __name__ == "__main__":
    main()
