"""The announcements of links and routes."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel.monitors import LinkMonitor
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


RUNNING = 0x41  # IFF_UP, IFF_RUNNING
ROUTES = {24, 25}  # RTM_NEWROUTE, RTM_DELROUTE


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("links") as namespace:
        yield namespace


@pytest.fixture
def links(host: Namespace) -> Iterator[LinkMonitor]:
    """Return a monitor that has received all pending announcements: "running" is announced up to a second late."""
    with host.call(LinkMonitor) as monitor:
        ip(host, "link add eth0 type veth peer name eth1")
        for name in ("lo", "eth0", "eth1"):
            ip(host, f"link set {name} up")
        ip(host, "address add 10.0.0.1/24 dev eth0")
        ip(host, "address add fd00::1/64 dev eth0 nodad")
        while [RUNNING] * 3 != [flags for _, flags in monitor._states.values()]:
            assert select.select([monitor], [], [], 5)[0]
            monitor.read()
        yield monitor


def ip(host: Namespace, command: str) -> None:
    host.run(["ip", *command.split()])


@pytest.mark.parametrize(
    "change",
    [
        "link set eth0 down",
        "link set eth1 down",
        "link add eth2 type veth peer name eth3",
        "link delete eth0",
        "link set lo down",
    ],
)
def test_a_link_that_comes_or_goes(host: Namespace, links: LinkMonitor, change: str) -> None:
    """A link that goes up or down, appears or vanishes is reported, also if only its other end changes."""
    assert not links.read()

    ip(host, change)

    assert [links] == select.select([links], [], [], 0)[0]
    assert links.read()


def test_a_link_that_is_renamed(host: Namespace, links: LinkMonitor) -> None:
    """A renamed link is reported, because the configuration has names of interfaces."""
    ip(host, "link set eth0 down")
    links.read()
    ip(host, "link set eth0 name wan")

    assert links.read()


def test_other_changes_of_a_link(host: Namespace, links: LinkMonitor) -> None:
    """Other changes of a known link are not reported."""
    ip(host, "link set eth0 mtu 1300")
    ip(host, "link set eth0 promisc on")

    assert not links.read()


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_of_ours_that_is_removed(host: Namespace, links: LinkMonitor, version: int) -> None:
    """Only the deletion is reported, for objects with our protocol number."""
    via = {4: "10.0.0.2", 6: "fd00::2"}[version]
    ip(host, f"-{version} route add default via {via} table 60001 protocol 110")
    assert not links.read()

    ip(host, f"-{version} route delete default table 60001")
    assert links.read()


@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_of_ours_that_is_removed(host: Namespace, links: LinkMonitor, version: int) -> None:
    """Only the deletion is reported, for objects with our protocol number."""
    ip(host, f"-{version} rule add fwmark 60001 lookup 60001 protocol 110")
    assert not links.read()

    ip(host, f"-{version} rule delete fwmark 60001 lookup 60001 protocol 110")
    assert links.read()


@pytest.mark.parametrize("version", [4, 6])
def test_routes_and_rules_of_others(host: Namespace, links: LinkMonitor, version: int) -> None:
    """Announcements of foreign routes do not reach this process: a router may have a million."""
    via = {4: "10.0.0.2", 6: "fd00::2"}[version]
    ip(host, f"-{version} route add default via {via} protocol bgp")
    ip(host, f"-{version} route delete default")
    received = links._announcements.receive()[0]
    assert set() == {kind for kind, _ in received} & ROUTES

    ip(host, f"-{version} rule add fwmark 7 lookup 7")
    ip(host, f"-{version} rule delete fwmark 7 lookup 7")
    assert not links.read()


def test_an_overrun_counts(host: Namespace, links: LinkMonitor) -> None:
    """Lost announcements count as a change, and afterwards the first announcement of a link is reported again."""
    links._announcements._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for mtu in range(1300, 1310):
        ip(host, f"link set eth0 mtu {mtu}")

    assert links.read()
    assert not links.read()
    ip(host, "link set eth0 mtu 1400")
    assert links.read()
