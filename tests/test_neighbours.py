"""What the kernel believes of neighbours, heard and asked, in a namespace beside another."""

from __future__ import annotations

import errno
import select
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel.neighbours import USABLE, Neighbour, Neighbours, State, ask
from nftlb.kernel.netlink import Netlink
from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.lab import Namespace

PATIENCE = 10.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(backends=1) as one:
        for version in (4, 6):
            for name in ("retrans_time_ms", "delay_first_probe_time"):
                one.balancer.sysctl(f"net.ipv{version}.neigh.b1.{name}", 50 if name.endswith("ms") else 1)
        yield one


@pytest.fixture
def neighbours(lab: Lab) -> Iterator[Neighbours]:
    with lab.balancer.call(Neighbours) as one:
        yield one


def on_b1(lab: Lab, address: str) -> Neighbour:
    return Neighbour(lab.balancer.call(socket.if_nametoindex, "b1"), ip_address(address))


def heard(neighbours: Neighbours, wanted: Neighbour, state: State) -> bool:
    """Listen until that is announced of it."""
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0 and select.select([neighbours], [], [], left)[0]:
        if any(one == wanted and found & state for one, found in neighbours.read()):
            return True
    return False


def states(host: Namespace, neighbour: Neighbour) -> State:
    return host.call(ask, [neighbour]).states.get(neighbour, State.NONE)


@pytest.mark.parametrize("version", [4, 6])
def test_one_that_answers(lab: Lab, neighbours: Neighbours, version: int) -> None:
    """It is found when it is asked first, and verified when it is asked again."""
    there = on_b1(lab, lab.backends[0].address(version))
    lab.balancer.run(["ip", f"-{version}", "neigh", "flush", "dev", "b1"])

    assert "" == lab.balancer.call(ask, [there]).trouble
    assert heard(neighbours, there, USABLE)
    assert states(lab.balancer, there) & USABLE
    assert heard(neighbours, there, State.REACHABLE)


@pytest.mark.parametrize("version", [4, 6])
def test_one_that_is_away(lab: Lab, neighbours: Neighbours, version: int) -> None:
    """It is looked for, and fails; asked again, it fails again, and that is told too."""
    away = on_b1(lab, {4: "10.0.1.77", 6: "fd00:1::77"}[version])

    for _ in range(2):
        lab.balancer.call(ask, [away])
        assert heard(neighbours, away, State.FAILED)
        assert State.FAILED is states(lab.balancer, away)
        assert heard(neighbours, away, State.FAILED)


@pytest.mark.parametrize("version", [4, 6])
def test_a_static_one_is_left_alone(lab: Lab, version: int) -> None:
    """Else asking would make it one that can fail."""
    static = on_b1(lab, {4: "10.0.1.78", 6: "fd00:1::78"}[version])
    lladdr = ["lladdr", "02:00:00:00:00:78", "dev", "b1", "nud", "permanent"]
    lab.balancer.run(["ip", "neigh", "replace", str(static.address), *lladdr])

    for _ in range(2):
        assert State.PERMANENT is states(lab.balancer, static)


def test_one_being_asked_is_not_asked_anew(lab: Lab, neighbours: Neighbours) -> None:
    """Else whoever asks more often than the kernel gives up would never learn that nobody answers."""
    away = on_b1(lab, "10.0.1.79")
    lab.balancer.run(
        ["ip", "neigh", "replace", "10.0.1.79", "lladdr", "02:00:00:00:00:79", "dev", "b1", "nud", "stale"]
    )
    for _ in range(5):
        lab.balancer.call(ask, [away])

    assert heard(neighbours, away, State.FAILED)


def test_a_table_that_is_full(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting that limits it is named. All namespaces share the table: a test must not fill it."""
    refused = OSError(errno.ENOBUFS, "No buffer space available")
    monkeypatch.setattr(Netlink, "change_all", lambda *_: iter([refused]))

    assert "gc_thresh3" in lab.balancer.call(ask, [on_b1(lab, "10.0.1.80")]).trouble


def test_an_interface_that_is_gone(lab: Lab) -> None:
    """It is no trouble: others notice."""
    gone = Neighbour(99999, ip_address("10.0.1.2"))
    asked = lab.balancer.call(ask, [gone])

    assert ({}, "") == (asked.states, asked.trouble)
