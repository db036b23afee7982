"""What is heard of links and routes."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel.links import Links
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
def links(host: Namespace) -> Iterator[Links]:
    """One that has heard of all links what there is to say: that they run is announced up to a second later."""
    with host.call(Links) as one:
        ip(host, "link add eth0 type veth peer name eth1")
        for name in ("lo", "eth0", "eth1"):
            ip(host, f"link set {name} up")
        ip(host, "address add 10.0.0.1/24 dev eth0")
        ip(host, "address add fd00::1/64 dev eth0 nodad")
        while [RUNNING] * 3 != [flags for _, flags in one._states.values()]:
            assert select.select([one], [], [], 5)[0]
            one.read()
        yield one


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
def test_a_link_that_comes_or_goes(host: Namespace, links: Links, change: str) -> None:
    """Up, down, made, gone; also when it is only the other end."""
    assert not links.read()

    ip(host, change)

    assert [links] == select.select([links], [], [], 0)[0]
    assert links.read()


def test_a_link_that_is_renamed(host: Namespace, links: Links) -> None:
    """The configuration names interfaces."""
    ip(host, "link set eth0 down")
    links.read()
    ip(host, "link set eth0 name wan")

    assert links.read()


def test_other_changes_of_a_link(host: Namespace, links: Links) -> None:
    """Once a link is known, only what matters to us is news."""
    ip(host, "link set eth0 mtu 1300")
    ip(host, "link set eth0 promisc on")

    assert not links.read()


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_of_ours_that_is_removed(host: Namespace, links: Links, version: int) -> None:
    """Known by its protocol number; that it came is no news."""
    via = {4: "10.0.0.2", 6: "fd00::2"}[version]
    ip(host, f"-{version} route add default via {via} table 60001 protocol 110")
    assert not links.read()

    ip(host, f"-{version} route delete default table 60001")
    assert links.read()


@pytest.mark.parametrize("version", [4, 6])
def test_a_rule_of_ours_that_is_removed(host: Namespace, links: Links, version: int) -> None:
    """Known by its protocol number; that it came is no news."""
    ip(host, f"-{version} rule add fwmark 60001 lookup 60001 protocol 110")
    assert not links.read()

    ip(host, f"-{version} rule delete fwmark 60001 lookup 60001 protocol 110")
    assert links.read()


@pytest.mark.parametrize("version", [4, 6])
def test_routes_and_rules_of_others(host: Namespace, links: Links, version: int) -> None:
    """Of routes this process isn't even told: a router may have a million."""
    via = {4: "10.0.0.2", 6: "fd00::2"}[version]
    ip(host, f"-{version} route add default via {via} protocol bgp")
    ip(host, f"-{version} route delete default")
    heard = links._listener.hear()[0]
    assert set() == {kind for kind, _ in heard} & ROUTES

    ip(host, f"-{version} rule add fwmark 7 lookup 7")
    ip(host, f"-{version} rule delete fwmark 7 lookup 7")
    assert not links.read()


def test_an_overrun_counts(host: Namespace, links: Links) -> None:
    """What was lost may have mattered; a link's state is news again afterwards."""
    links._listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for mtu in range(1300, 1310):
        ip(host, f"link set eth0 mtu {mtu}")

    assert links.read()
    assert not links.read()
    ip(host, "link set eth0 mtu 1400")
    assert links.read()
