"""Measures the daemon under floods of requests without a token: `python bench/floods.py [POOLS [SECONDS]]`.

POOLS pools (1,000 by default) of 10 backends, each checked over UDP every 5 s: first without a flood, then for SECONDS
(30 by default) under tests/support/api_flood.py, then under tests/support/api_churn.py. In each part, backends of 20
pools stop answering. The results are the seconds after the limit at which the last backend was out of the rules, the
duration of probes, the memory, and at the end the duration of the daemon's shutdown.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from checks import BACKENDS, INTERVAL, end, get, listen, moment, p99, serving
from pools import text

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from checks import Scene

_SUPPORT = Path(__file__).parents[1] / "tests" / "support"
FLOOD, CHURN = _SUPPORT / "api_flood.py", _SUPPORT / "api_churn.py"
SILENCED = 20
HEALTH = "{udp: {send: are you there, match: there}, interval: 5s, fast_interval: 500ms, timeout: 1s, fall: 2}"
BOUND = 5 + 1 + 1
"""Seconds: the interval, a time-out between two checks, and the time-out of the last check."""


@dataclass(frozen=True)
class Measured:
    """The seconds after the limit until each silent backend was out of the rules, and the seconds of each probe."""

    late: list[float]
    probes: list[float]


def main() -> None:
    userns.ensure()
    pools, seconds = [*map(int, sys.argv[1:]), *(1000, 30)[len(sys.argv) - 1 :]]
    with scene(pools) as served:
        daemon, folder = served.daemon, served.folder
        chosen = choose(pools, 3)
        rest = memory(daemon.pid, "VmRSS")
        print(f"{pools} pools of {BACKENDS}; memory at rest {rest:.0f} MB")
        show("alone", measure(folder, served.orders, chosen[0], seconds))
        for what, script, silent in (("the flood", FLOOD, chosen[1]), ("the churn", CHURN, chosen[2])):
            with attack(served, script, seconds) as flood:
                show(f"under {what}", measure(folder, served.orders, silent, seconds))
                flood.wait()
            print(f"  memory at most {memory(daemon.pid, 'VmHWM'):.0f} MB, of {rest:.0f} at rest")
        print(f"ended within {end(daemon):.2f} s of SIGTERM")


@contextmanager
def scene(pools: int) -> Iterator[Scene]:
    """Run a daemon that has checked all backends, and has made each large response once."""

    def content(folder: Path) -> str:
        head = f"state_dir: {folder}/state\napi: {{listen: 'unix:{folder}/api.sock'}}\ndefaults: {{health: {HEALTH}}}\n"
        return head + text(pools, BACKENDS)

    with serving("floods", content) as served:
        time.sleep(2 * INTERVAL)  # every backend has had its first check
        for path in ("/api/v1/status", "/metrics", "/api/v1/ruleset"):  # one of each belongs to the rest
            get(served.folder, path).read()
        yield served


def choose(pools: int, times: int) -> list[list[int]]:
    """Return SILENCED pools for each measurement."""
    chosen = random.Random(1).sample(range(pools), times * SILENCED)  # noqa: S311 - the same in every run
    return [chosen[begin : begin + SILENCED] for begin in range(0, times * SILENCED, SILENCED)]


@contextmanager
def attack(served: Scene, script: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Attack the API for so many seconds, and end the attack at the end of `with`."""
    command = [sys.executable, str(script), f"unix:{served.folder}/api.sock", str(seconds)]
    with served.namespace.popen(command, stdout=subprocess.PIPE) as attacking:
        try:
            assert attacking.stdout is not None  # noqa: S101 - for mypy
            attacking.stdout.readline()  # it has begun
            yield attacking
        finally:
            attacking.kill()


def measure(folder: Path, orders: int, pools: Sequence[int], seconds: float) -> Measured:
    """Silence a backend of each of these pools within a third of `seconds`, and probe meanwhile."""
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
    enough.set()
    probing.join()
    return Measured([min(end for end in ends if end >= out[pool]) - silenced[pool] - BOUND for pool in out], took)


def show(what: str, measured: Measured) -> None:
    late, took = measured.late, measured.probes
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
    """Return the value of a line of /proc/PID/status, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(entry.split()[1]) for entry in lines if entry.startswith(line)) / 1024


if __name__ == "__main__":
    main()
