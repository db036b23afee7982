"""A reload of a list of 100,000 prefixes with the real daemon, while a backend fails and returns."""

from __future__ import annotations

import re
import select
import time
from collections import Counter
from statistics import median
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PATIENCE, VIP, Running, dns
from failover_times import usual
from steady_traffic import Flow, lost, twice

from nftlb.kernel.monitors import RulesetMonitor
from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

PREFIXES = 100_000
BASELINE = 9
SHARE = 3
"""A failover usually takes less than this part of the reload. With a list in a single part, it takes most of it."""


def prefixes(network: int, *more: str) -> str:
    """The lines of a list: prefixes that do not touch, from an IPv4 network of 8 bits on, and then others."""
    spread = (f"{network + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/25" for n in range(PREFIXES))
    return "\n".join([*spread, *more, ""])


def turn(daemon: Running, works: Path) -> float:
    """Let b1 fail or return. Return the seconds from the result of its check to the end of the commit."""
    since = daemon.events[-1].at if daemon.events else 0.0
    if works.exists():
        works.unlink()
        changed = daemon.wait("backend_down", "b1", since=since)
    else:
        works.touch()
        changed = daemon.wait("backend_up", "b1", since=since)
    return daemon.wait("swap", since=changed.at).happened - changed.happened


def deny_lists(lab: Lab) -> set[str]:
    """The names of the deny lists in the kernel."""
    found = lab.balancer.run(["nft", "-t", "list", "table", "ip", "nftlb"])
    return set(re.findall(r"set (guard/dns/deny/\w+) ", found))


@pytest.mark.slow
def test_failovers_while_a_list_is_loaded(tmp_path: Path) -> None:
    """A failover waits for a part of the list; no datagram is lost, and none passes that both lists forbid.

    The server of b1 goes on when its check fails. So a datagram is lost only by a fault of the swap.
    """
    denied, works = tmp_path / "deny.txt", tmp_path / "b1-works"
    works.touch()
    check = ["/bin/sh", "-c", f'[ "$NFTLB_BACKEND" != b1 ] || [ -e {works} ] || exit 2']
    health = {"exec": check, "interval": "100ms", "fast_interval": "100ms", "timeout": "20s", "rise": 1, "fall": 1}
    answers: list[tuple[int, Any]] = []
    with Lab(backends=2, clients=2) as lab, lab.serve() as servers:
        first, second = lab.clients
        denied.write_text(prefixes(20, second.ipv4))
        with (
            Running(lab.balancer, tmp_path, dns(lab, guard={"deny": str(denied)}, health=health)) as daemon,
            Flow(first, (VIP[4], 53), rate=500) as allowed,
            Flow(second, (VIP[4], 53), rate=500) as forbidden,
        ):
            before = [turn(daemon, works) for _ in range(BASELINE)]

            denied.write_text(prefixes(60, second.ipv4))
            reload = Thread(target=lambda: answers.append(daemon.call("POST", "/api/v1/reload")))
            began = time.monotonic()
            reload.start()
            meanwhile = []
            while reload.is_alive():
                meanwhile.append(turn(daemon, works))
            reload.join()
            took = time.monotonic() - began
            sent, refused = allowed.stop(), forbidden.stop()
            arrived = Counter(datagram.sender for datagram in servers.settle())
    print(  # noqa: T201
        f"without a load {1000 * median(before):.1f} ms, while the list was loaded {1000 * usual(meanwhile):.1f} ms, "
        f"at most {1000 * max(meanwhile):.1f} ms; the reload took {took:.1f} s, with {len(meanwhile)} failovers"
    )
    assert [200] == [status for status, _ in answers]
    assert usual(meanwhile) < took / SHARE
    assert ([], []) == (lost(sent), twice(sent))
    assert {first.name: len(sent)} == arrived
    assert 0 < len(refused) == len(lost(refused))


@pytest.mark.slow
def test_a_daemon_that_is_killed_while_it_loads_a_list(tmp_path: Path) -> None:
    """The old list stays in force. The next start deletes the unfinished list if the file has another one by then."""
    denied = tmp_path / "deny.txt"
    with Lab(backends=2, clients=2) as lab, lab.serve() as servers:
        first, second = lab.clients
        old = prefixes(20, second.ipv4)
        denied.write_text(old)
        with (
            Running(lab.balancer, tmp_path, dns(lab, guard={"deny": str(denied)})) as daemon,
            first.connect((VIP[4], 53)) as allowed,
            second.connect((VIP[4], 53)) as forbidden,
        ):
            (in_force,) = deny_lists(lab)
            denied.write_text(prefixes(60, second.ipv4))
            with lab.balancer.call(RulesetMonitor, "nftlb") as monitor, daemon.ask("POST", "/api/v1/reload"):
                assert select.select([monitor], [], [], PATIENCE)[0]
                daemon.kill()
            assert 2 == len(deny_lists(lab))
            forbidden.send(5)
            allowed.send(5)
            assert {first.name: 5} == Counter(datagram.sender for datagram in servers.settle())

            denied.write_text(old)
            daemon.start()
            assert {in_force} == deny_lists(lab)
            forbidden.send(5)
            allowed.send(5)
            assert {first.name: 10} == Counter(datagram.sender for datagram in servers.settle())
