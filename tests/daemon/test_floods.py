"""Floods of requests without a token: a dead backend leaves in time, probes are answered, and memory stays."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import flooding
from running import PORT, Running, dns

from nftlb.lab import Lab

POOLS, BACKENDS = 300, 10
CHECK = {"udp": {"send": "are you there", "match": "are you there"}, "interval": "200ms", "timeout": "200ms"}
BOUND = 0.2 + 2 * 0.2 + 0.2
"""Seconds until a silent backend is out: interval, fast intervals (`fall` 3), and a time-out."""
LATE = 8.0
"""Seconds more than BOUND on a very busy machine, elsewhere some 50 ms. Where readers go first, minutes."""
SECONDS = 10


def many_pools(lab: Lab) -> dict[str, Any]:
    """Route addresses that nobody has, and give pools of them: the one that is watched, and many more."""
    lab.balancer.run(["ip", "route", "add", "10.99.0.0/16", "via", lab.backends[1].ipv4])
    pools = dns(lab, health={**CHECK, "fast_interval": "200ms"})
    for pool in range(POOLS):
        backends = {f"b{n}": f"10.99.{pool % 250}.{10 * (pool // 250) + n + 1}:53" for n in range(BACKENDS)}
        pools[f"pool{pool}"] = {"listen": f"192.0.{2 + pool // 250}.{pool % 250 + 1}:5300/udp", "backends": backends}
    return pools


def memory(daemon: Running, line: str = "VmRSS") -> int:
    """KiB."""
    found = re.search(rf"{line}:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


class Probing:
    """Asks `/healthz` and `/readyz` in turn, until it is left; `took` has the seconds of each answer."""

    def __init__(self, daemon: Running) -> None:
        self.took: list[float] = []
        self.failed: list[str] = []
        self._daemon = daemon
        self._enough = Event()
        self._thread = Thread(target=self._probe)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _probe(self) -> None:
        while not self._enough.wait(0.05):
            for path in ("/healthz", "/readyz?pool=dns"):
                begin = time.monotonic()
                try:
                    status, text = self._daemon.call("GET", path)
                except (OSError, ValueError) as error:
                    self.failed.append(f"{path}: {error!r}")
                    continue
                self.took.append(time.monotonic() - begin)
                if status != HTTPStatus.OK:
                    self.failed.append(f"{path}: {status} {text}")


def test_nobody_is_held_up(tmp_path: Path) -> None:
    """Requests abandoned, unread and endless: the next commit, probes, a change and the end come in time."""
    with (
        Lab(backends=2) as lab,
        lab.serve(PORT, backends=[lab.backends[1]]),
        ExitStack() as dying,
        Running(lab.balancer, tmp_path, many_pools(lab)) as daemon,
    ):
        dying.enter_context(lab.serve(PORT, backends=[lab.backends[0]]))
        for path in ("/api/v1/status", "/metrics", "/api/v1/ruleset"):  # what one of each takes belongs to its rest
            assert daemon.call("GET", path)[0] == HTTPStatus.OK
        rest = memory(daemon)
        attack = [sys.executable, flooding.__file__, f"unix:{daemon.socket}", str(SECONDS)]
        with lab.balancer.popen(attack, stdout=subprocess.PIPE) as flood, Probing(daemon) as probing:
            assert flood.stdout is not None
            assert "begun\n" == flood.stdout.readline()
            time.sleep(2)
            killed = time.monotonic()
            dying.close()
            down = daemon.wait("backend_down", "b1", since=killed)
            swap = daemon.wait("swap", since=down.at - 1e-3)
            begin = time.monotonic()
            answer, _ = daemon.call("PATCH", "/api/v1/pools/pool1/backends/b1", {"weight": 2})
            changed = time.monotonic() - begin
            told = flood.stdout.read()
        peak = memory(daemon, "VmHWM")
        begin = time.monotonic()
        assert daemon.stop() == 0
        ended = time.monotonic() - begin
    took = sorted(probing.took)
    late = took[int(0.95 * len(took))]
    print(  # noqa: T201
        f"\nflood: {told.strip()}\n{len(took)} probes: median {took[len(took) // 2] * 1e3:.0f} ms, "
        f"p95 {late * 1e3:.0f} ms, most {took[-1] * 1e3:.0f} ms\n"
        f"out in the kernel {swap.happened - killed:.3f} s after its end (bound {BOUND:g}); a change {changed:.3f} s\n"
        f"memory at rest {rest >> 10} MiB, at most {peak >> 10} MiB; ended within {ended:.3f} s"
    )
    assert (HTTPStatus.OK, []) == (answer, probing.failed)
    assert swap.happened - killed <= BOUND + LATE
    assert max(changed, ended, late) <= LATE
    assert peak < 2 * rest
