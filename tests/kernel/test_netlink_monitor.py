"""The netlink monitor: how much it reads at a time, and when it reports losses."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel.monitors import NetlinkMonitor
from nftlb.kernel.netlink import NETLINK_ROUTE
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

LINKS, IPV4_ADDRESSES = 1, 5
NEWLINK, NEWADDR = 16, 20


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("listener") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        yield namespace


def announce(host: Namespace, *hosts: int) -> None:
    commands = "".join(f"address add 10.0.0.{number}/32 dev lo\n" for number in hosts)
    host.run(["ip", "-batch", "-"], input=commands)


def test_only_chosen_groups_are_received(host: Namespace) -> None:
    """Only announcements of the chosen groups are received."""
    with host.call(NetlinkMonitor, NETLINK_ROUTE, IPV4_ADDRESSES) as listener:
        host.run(["ip", "link", "set", "lo", "mtu", "1400"])
        announce(host, 1)
        received, lost = listener.receive()
    assert ([NEWADDR], False) == ([kind for kind, _ in received], lost)


def test_reading_never_waits(host: Namespace) -> None:
    """Without announcements the result is empty."""
    with host.call(NetlinkMonitor, NETLINK_ROUTE, LINKS) as listener:
        assert ([], False) == listener.receive()


def test_the_rest_stays_for_the_next_time(host: Namespace) -> None:
    """In a flood only a part is read at a time, and the socket stays readable."""
    with host.call(NetlinkMonitor, NETLINK_ROUTE, IPV4_ADDRESSES) as listener:
        announce(host, 1, 2, 3)
        assert 2 == len(listener.receive(2)[0])
        assert [listener] == select.select([listener], [], [], 0)[0]
        assert 1 == len(listener.receive(2)[0])
        assert [] == select.select([listener], [], [], 0)[0]


def test_losses_are_reported_until_the_buffer_was_empty(host: Namespace) -> None:
    """The kernel reports a loss once, and may lose more until the buffer is empty: all that counts as lost."""
    with host.call(NetlinkMonitor, NETLINK_ROUTE, IPV4_ADDRESSES) as listener:
        listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        announce(host, *range(1, 100))
        listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received = 0
        messages, lost = listener.receive(1)
        while lost:
            received += len(messages)
            messages, lost = listener.receive(1)
        assert 0 < received < 99
        assert ([], False) == (messages, lost)

        announce(host, 100)
        messages, lost = listener.receive()
        assert ([NEWADDR], False) == ([kind for kind, _ in messages], lost)


def test_a_filter_drops_announcements(host: Namespace) -> None:
    """The kernel applies the filter. Here it drops announcements with more than one address."""
    prefix_length = 16 + 1  # in ifaddrmsg, behind nlmsghdr
    filter_ = ((0x30, 0, 0, prefix_length), (0x15, 0, 1, 32), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
    with host.call(NetlinkMonitor, NETLINK_ROUTE, IPV4_ADDRESSES, instructions=filter_) as listener:
        host.run(["ip", "address", "add", "10.0.1.1/24", "dev", "lo"])
        assert ([], False) == listener.receive()
        announce(host, 1)
        assert 1 == len(listener.receive()[0])
