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


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("links") as namespace:
        ip(namespace, "link add eth0 type veth peer name eth1")
        ip(namespace, "link set lo up")
        ip(namespace, "link set eth0 up")
        ip(namespace, "link set eth1 up")
        ip(namespace, "address add 10.0.0.1/24 dev eth0")
        ip(namespace, "address add fd00::1/64 dev eth0 nodad")
        yield namespace


@pytest.fixture
def links(host: Namespace) -> Iterator[Links]:
    with host.call(Links) as one:
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
    assert not links.read()


def test_a_link_that_is_renamed(host: Namespace, links: Links) -> None:
    """The configuration names interfaces."""
    ip(host, "link set eth0 down")
    links.read()
    ip(host, "link set eth0 name wan")

    assert links.read()


def test_other_changes_of_a_link(host: Namespace, links: Links) -> None:
    """Once a link is known, only what matters to us is news."""
    ip(host, "link set eth0 mtu 1400")
    links.read()
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
    """They don't even wake the reader when they are routes: a router may have a million."""
    via = {4: "10.0.0.2", 6: "fd00::2"}[version]
    ip(host, f"-{version} route add default via {via} protocol bgp")
    ip(host, f"-{version} route delete default")
    assert ([], [], []) == select.select([links], [], [], 0)

    ip(host, f"-{version} rule add fwmark 7 lookup 7")
    ip(host, f"-{version} rule delete fwmark 7 lookup 7")
    assert not links.read()


def test_an_overrun_counts(host: Namespace, links: Links) -> None:
    """What was lost may have mattered; a link's state is news again afterwards."""
    ip(host, "link set eth0 mtu 1400")
    assert links.read()
    links._listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for mtu in range(1300, 1310):
        ip(host, f"link set eth0 mtu {mtu}")

    assert links.read()
    assert not links.read()
    ip(host, "link set eth0 mtu 1400")
    assert links.read()
