"""Measures the web page in a browser, with the real daemon: how long it loads, and how soon a change is on the screen.

`python bench/page.py [POOLSxBACKENDS]` (default 200x10). The daemon runs in a network namespace with the rules in its
kernel. Loading is the time from the start of the navigation to the first status in the table, in a new session without
a cache; "modules" and "status" are the parts of this time until the code of the page and the status have arrived. The
daemon pauses after each status, so that readers do not delay checks; each round begins after the pause. A change is the
time from the request that drains a backend to its new state on the screen, so it includes the swap of the rules.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.lab import Lab, userns
from nftlb.web.shared import LONGEST_REST

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from browser import browser, load_time, opened, seen_at, tcp_address, watch_for
from daemon_process import Running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser

ROUNDS = 20
PARTS = """() => ["/page/[^u]", "/api/v1/status$"].map(path => Math.max(...performance.getEntriesByType("resource")
    .filter(one => one.name.match(path)).map(one => one.responseEnd)))"""
"""When the last byte was there, in milliseconds from the start of the navigation."""


def main(size: str) -> None:
    pools, backends = map(int, size.split("x"))
    userns.ensure()
    with tempfile.TemporaryDirectory() as folder, Lab(backends=1) as lab:
        configured = {
            f"pool-{pool:03}": {
                "listen": f"192.0.2.53:{pool + 1}/udp",
                "backends": {f"b{one}": f"10.{pool}.1.{one + 1}:53" for one in range(backends)},
            }
            for pool in range(pools)
        }
        directory = Path(folder)
        # Without a route, the backends are down and the pools are not ready.
        lab.balancer.run(["ip", "route", "add", "10.0.0.0/8", "via", lab.backends[0].address(4)])
        with (
            Running(lab.balancer, directory, configured) as daemon,
            tcp_address(daemon.socket) as url,
            browser(directory) as running,
        ):
            print(f"{pools} pools of {backends} backends, {ROUNDS} times, {os.cpu_count()} processors")
            for what, times in zip(("load", "modules", "status"), zip(*loads(running, url), strict=True), strict=True):
                report(what, times)
            report("change", change(running, url, daemon))


def loads(running: Browser, url: str) -> Iterator[tuple[float, ...]]:
    for _ in range(ROUNDS):
        time.sleep(LONGEST_REST)  # the daemon pauses after each status, and a load must not wait for that pause
        with opened(running, url) as (page, _):
            yield load_time(page), *page.evaluate(PARTS)


def change(running: Browser, url: str, daemon: Running) -> list[float]:
    """Drain and enable a backend of a pool that is open in the table, again and again; only drains count."""
    times = []
    with opened(running, url) as (page, _):
        load_time(page)
        page.get_by_label("Backends of pool-007").click()
        path = "/api/v1/pools/pool-007/backends/b3"
        for _ in range(ROUNDS):
            watch_for(page, "drained")
            began = time.time()
            daemon.call("PATCH", path, {"admin": "drain"})
            times.append(seen_at(page) - 1000 * began)
            daemon.call("PATCH", path, {"admin": "enabled"})
            page.locator("#rows").get_by_text("drained", exact=False).wait_for(state="detached")
    return times


def report(what: str, times: Sequence[float]) -> None:
    ordered = sorted(times)
    print(f"{what:<8} median {statistics.median(ordered):.0f} ms, lowest {ordered[0]:.0f}, highest {ordered[-1]:.0f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "200x10")
