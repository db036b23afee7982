"""The states of neighbours in the kernel: announcements and requests to verify them."""

from __future__ import annotations

import errno
import select
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel.neighbours import USABLE, Neighbour, NeighbourMonitor, State, ask_neighbours
from nftlb.kernel.netlink import Netlink
from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.lab import Namespace

PATIENCE = 10.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(backends=1) as lab:
        for version in (4, 6):
            for name in ("retrans_time_ms", "delay_first_probe_time"):
                lab.balancer.sysctl(f"net.ipv{version}.neigh.b1.{name}", 50 if name.endswith("ms") else 1)
        yield lab


@pytest.fixture
def neighbours(lab: Lab) -> Iterator[NeighbourMonitor]:
    with lab.balancer.call(NeighbourMonitor) as monitor:
        yield monitor


def on_b1(lab: Lab, address: str) -> Neighbour:
    return Neighbour(lab.balancer.call(socket.if_nametoindex, "b1"), ip_address(address))


def announced(neighbours: NeighbourMonitor, wanted: Neighbour, state: State) -> bool:
    """Wait until this state of the neighbour is announced."""
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0 and select.select([neighbours], [], [], left)[0]:
        if any(neighbour == wanted and found & state for neighbour, found in neighbours.read()):
            return True
    return False


def states(host: Namespace, neighbour: Neighbour) -> State:
    return host.call(ask_neighbours, [neighbour]).states.get(neighbour, State.NONE)


@pytest.mark.parametrize("version", [4, 6])
def test_a_neighbour_that_answers_is_verified(lab: Lab, neighbours: NeighbourMonitor, version: int) -> None:
    """The first request finds the neighbour, the second verifies it."""
    there = on_b1(lab, lab.backends[0].address(version))
    lab.balancer.run(["ip", f"-{version}", "neigh", "flush", "dev", "b1"])

    assert "" == lab.balancer.call(ask_neighbours, [there]).trouble
    assert announced(neighbours, there, USABLE)
    assert states(lab.balancer, there) & USABLE
    assert announced(neighbours, there, State.REACHABLE)


@pytest.mark.parametrize("version", [4, 6])
def test_an_absent_neighbour_fails(lab: Lab, neighbours: NeighbourMonitor, version: int) -> None:
    """An absent neighbour fails. Each further request fails again, and each failure is announced."""
    away = on_b1(lab, {4: "10.0.1.77", 6: "fd00:1::77"}[version])

    for _ in range(2):
        lab.balancer.call(ask_neighbours, [away])
        assert announced(neighbours, away, State.FAILED)
        assert State.FAILED is states(lab.balancer, away)
        assert announced(neighbours, away, State.FAILED)


@pytest.mark.parametrize("version", [4, 6])
def test_a_static_neighbour_is_not_verified(lab: Lab, version: int) -> None:
    """A static entry is left alone: verification could make it fail."""
    static = on_b1(lab, {4: "10.0.1.78", 6: "fd00:1::78"}[version])
    lladdr = ["lladdr", "02:00:00:00:00:78", "dev", "b1", "nud", "permanent"]
    lab.balancer.run(["ip", "neigh", "replace", str(static.address), *lladdr])

    for _ in range(2):
        assert State.PERMANENT is states(lab.balancer, static)


def test_a_running_search_is_not_restarted(lab: Lab, neighbours: NeighbourMonitor) -> None:
    """Frequent requests do not restart a search, which would then never fail."""
    away = on_b1(lab, "10.0.1.79")
    lab.balancer.run(
        ["ip", "neigh", "replace", "10.0.1.79", "lladdr", "02:00:00:00:00:79", "dev", "b1", "nud", "stale"]
    )
    for _ in range(5):
        lab.balancer.call(ask_neighbours, [away])

    assert announced(neighbours, away, State.FAILED)


def test_a_table_that_is_full(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the table of neighbours is full, the message names the limit. A test must not fill the shared table."""
    refused = OSError(errno.ENOBUFS, "No buffer space available")
    monkeypatch.setattr(Netlink, "change_all", lambda *_: iter([refused]))

    assert "gc_thresh3" in lab.balancer.call(ask_neighbours, [on_b1(lab, "10.0.1.80")]).trouble


def test_an_interface_that_is_gone(lab: Lab) -> None:
    """A neighbour on a deleted interface causes no error: the link monitor reports the interface."""
    gone = Neighbour(99999, ip_address("10.0.1.2"))
    asked = lab.balancer.call(ask_neighbours, [gone])

    assert ({}, "") == (asked.states, asked.trouble)
