"""The socket that is told things: how much it takes at a time, and when it knows that it missed something."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel.listener import Listener
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


def test_it_hears_of_its_groups_only(host: Namespace) -> None:
    """Links are another group than addresses."""
    with host.call(Listener, NETLINK_ROUTE, IPV4_ADDRESSES) as listener:
        host.run(["ip", "link", "set", "lo", "mtu", "1400"])
        announce(host, 1)
        heard, lost = listener.hear()
    assert ([NEWADDR], False) == ([kind for kind, _ in heard], lost)


def test_it_never_waits(host: Namespace) -> None:
    """There may be nothing."""
    with host.call(Listener, NETLINK_ROUTE, LINKS) as listener:
        assert ([], False) == listener.hear()


def test_the_rest_stays_for_the_next_time(host: Namespace) -> None:
    """A flood does not keep the caller: so much at a time, and the socket stays readable."""
    with host.call(Listener, NETLINK_ROUTE, IPV4_ADDRESSES) as listener:
        announce(host, 1, 2, 3)
        assert 2 == len(listener.hear(2)[0])
        assert [listener] == select.select([listener], [], [], 0)[0]
        assert 1 == len(listener.hear(2)[0])
        assert [] == select.select([listener], [], [], 0)[0]


def test_what_is_lost_is_said_until_the_buffer_was_empty(host: Namespace) -> None:
    """The kernel says it once, and may lose more while there is still something to read."""
    with host.call(Listener, NETLINK_ROUTE, IPV4_ADDRESSES) as listener:
        listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        announce(host, *range(1, 100))
        listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        heard = 0
        messages, lost = listener.hear(1)
        while lost:
            heard += len(messages)
            messages, lost = listener.hear(1)
        assert 0 < heard < 99
        assert ([], False) == (messages, lost)

        announce(host, 100)
        messages, lost = listener.hear()
        assert ([NEWADDR], False) == ([kind for kind, _ in messages], lost)


def test_a_filter_keeps_back_what_is_not_wanted(host: Namespace) -> None:
    """It is carried out in the kernel: here, whatever is for more than one address is stopped."""
    prefix_length = 16 + 1  # in ifaddrmsg, behind nlmsghdr
    filter_ = ((0x30, 0, 0, prefix_length), (0x15, 0, 1, 32), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
    with host.call(Listener, NETLINK_ROUTE, IPV4_ADDRESSES, instructions=filter_) as listener:
        host.run(["ip", "address", "add", "10.0.1.1/24", "dev", "lo"])
        assert ([], False) == listener.hear()
        announce(host, 1)
        assert 1 == len(listener.hear()[0])
