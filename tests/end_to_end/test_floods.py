"""Floods of requests without a token: a dead backend leaves in time, probes are answered, memory does not grow."""

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

import api_flood as flooding
from daemon_process import PORT, Running, dns
from machine_stalls import Stalls

from nftlb.lab import Lab

POOLS, BACKENDS = 300, 10
CHECK = {"udp": {"send": "are you there", "match": "are you there"}, "interval": "200ms", "timeout": "200ms"}
BOUND = 0.2 + 2 * 0.2 + 0.2
"""Seconds until a silent backend is out: interval, fast intervals (`fall` 3), and a time-out."""
LATE = 8.0
"""Seconds more than BOUND on a very busy machine, elsewhere some 50 ms. Where readers go first, minutes."""
SECONDS = 10
UNREAD = 60
ENDED = 2.0
"""Seconds from SIGTERM to the end, on a machine of our own."""


def many_pools(lab: Lab) -> dict[str, Any]:
    """Route unused addresses, and return pools with them: the watched pool, and many more."""
    lab.balancer.run(["ip", "route", "add", "10.99.0.0/16", "via", lab.backends[1].ipv4])
    pools = dns(lab, health={**CHECK, "fast_interval": "200ms"})
    for pool in range(POOLS):
        backends = {f"b{n}": f"10.99.{pool % 250}.{10 * (pool // 250) + n + 1}:53" for n in range(BACKENDS)}
        pools[f"pool{pool}"] = {"listen": f"192.0.{2 + pool // 250}.{pool % 250 + 1}:5300/udp", "backends": backends}
    return pools


def memory(daemon: Running, line: str = "VmRSS") -> int:
    """Return the memory in KiB."""
    found = re.search(rf"{line}:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


class Probing:
    """Requests `/healthz` and `/readyz` in turn inside `with`. `took`: the seconds of each response."""

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


def stopped(daemon: Running) -> float:
    """End it while many do not take what they asked for; return the seconds that this took, without its stalls."""
    with ExitStack() as unread, Stalls(lambda: [daemon.process.pid]) as stalls:
        for _ in range(UNREAD):
            unread.enter_context(daemon.ask("GET", "/api/v1/ruleset", token=None)).recv(1)
        mark, begin = stalls.mark(), time.monotonic()
        assert daemon.stop() == 0
        return time.monotonic() - begin - stalls.since(mark, 10)


def test_floods_of_requests_delay_nothing(tmp_path: Path) -> None:
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
            output = flood.stdout.read()
        peak = memory(daemon, "VmHWM")
        ended = stopped(daemon)
    took = sorted(probing.took)
    late = took[int(0.95 * len(took))]
    print(  # noqa: T201
        f"\nflood: {output.strip()}\n{len(took)} probes: median {took[len(took) // 2] * 1e3:.0f} ms, "
        f"p95 {late * 1e3:.0f} ms, most {took[-1] * 1e3:.0f} ms\n"
        f"out in the kernel {swap.happened - killed:.3f} s after its end (bound {BOUND:g}); a change {changed:.3f} s\n"
        f"memory at rest {rest >> 10} MiB, at most {peak >> 10} MiB; ended within {ended:.3f} s"
    )
    assert (HTTPStatus.OK, []) == (answer, probing.failed)
    assert swap.happened - killed <= BOUND + LATE
    assert max(changed, late) <= LATE
    assert ended <= ENDED
    assert peak < 2 * rest
