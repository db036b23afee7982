"""A collector with a health check, and the real daemon: copies stop while the collector is down."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, VIP, Running, at

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.lab.host import LabClient

COLLECTOR_PORT = 9995
CHECK = {"icmp": {}, "interval": "200ms", "fast_interval": "100ms", "timeout": "300ms", "rise": 1, "fall": 2}


def pools(lab: Lab, version: int) -> dict[str, Any]:
    b1, b2, archive = lab.backends
    return {
        "dns": {
            "listen": f"{at(VIP[version], 53)}/udp",
            "forward": "stateless",
            "backends": {host.name: at(host.address(version), PORT) for host in (b1, b2)},
            "mirror": {"archive": {"address": archive.address(version), "port": COLLECTOR_PORT, "health": CHECK}},
        }
    }


DEAD = "add table inet dead; add chain inet dead in { type filter hook input priority 0; policy drop; }"
"""Rules of a host that drops all that it gets."""


def pool_with(daemon: Running, copies: int) -> dict[str, Any]:
    """Return the status of the pool once the collector has so many copies: counters may be a second old."""

    def shown(document: dict[str, Any]) -> dict[str, Any] | None:
        (pool,) = document["pools"]
        return dict(pool) if pool["collectors"][0]["packets"] >= copies else None

    found: dict[str, Any] = daemon.poll_status(shown, f"{copies} copies")
    return found


def exchange(client: LabClient) -> None:
    """Exchange datagrams; each gets one reply."""
    assert [1] * 10 == [answer.copies for answer in client.exchange(10)]


@pytest.mark.parametrize("version", [4, 6])
def test_a_collector_dies_and_returns(version: int, tmp_path: Path) -> None:
    """The pool stays ready, all datagrams get replies, and the copies are those of the time in which it was up."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(backends=3))
        stack.enter_context(lab.serve(PORT, backends=lab.backends[:2]))
        archive = stack.enter_context(lab.serve(COLLECTOR_PORT, backends=lab.backends[2:], answer=False))
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, pools(lab, version)))
        client = stack.enter_context(lab.client.connect((VIP[version], 53)))
        exchange(client)

        lab.backends[2].run(["nft", DEAD])
        down = daemon.wait("collector_down", "archive")
        daemon.wait("swap", since=down.at)
        exchange(client)
        pool = pool_with(daemon, 10)
        assert (True, 2) == (pool["ready"], pool["healthy"])
        (shown,) = pool["collectors"]
        assert (False, 10) == (shown["up"], shown["packets"])
        assert shown["reason"].startswith("icmp: ")

        lab.backends[2].run(["nft", "delete table inet dead"])
        up = daemon.wait("collector_up", "archive", since=down.at)
        daemon.wait("swap", since=up.at)
        exchange(client)
        archive.wait(20)
        assert 20 == pool_with(daemon, 20)["collectors"][0]["packets"]
    assert [*range(10), *range(20, 30)] == sorted(copy.sequence or 0 for copy in archive.received)
