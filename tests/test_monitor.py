"""The monitor: whose tables were changed, and what it can vouch for."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from pools import DNS
from real_kernel import real_kernel
from unprivileged import unprivileged

from nftlb.compiler import Compiled
from nftlb.errors import SystemFault
from nftlb.kernel.generation import generation
from nftlb.kernel.monitor import Monitor
from nftlb.lab import Namespace
from nftlb.model import Config
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = """
table ip nftlb {
    set allowed { type ipv4_addr; }
    chain pool { counter accept; }
    chain base { type filter hook input priority 0; goto pool; }
}
table ip6 nftlb {
    chain pool { accept; }
}
"""
THEIRS = "table ip docker { set allowed { type ipv4_addr; }; chain pool { accept; }; }"
CHANGES = [
    "flush ruleset",
    "delete table ip6 nftlb",
    "add table netdev nftlb",
    "add chain ip nftlb more",
    "delete chain ip6 nftlb pool",
    "insert rule ip nftlb pool drop",
    "flush chain ip nftlb base",
    "add element ip nftlb allowed { 192.0.2.1 }",
    "add set ip nftlb more { type ipv4_addr; }",
    "delete set ip nftlb allowed",
    "add counter ip nftlb more",
]
OTHERS = [
    "table ip other { chain nftlb { accept; }; }",
    "table ip nftlb2 { set nftlb { type ipv4_addr; elements = { 192.0.2.1 }; }; }",
    "delete table ip docker",
    "flush chain ip docker pool",
    "add element ip docker allowed { 192.0.2.1 }",
]


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("monitor") as namespace:
        nft(namespace, OURS)
        nft(namespace, THEIRS)
        yield namespace


@pytest.fixture
def monitor(host: Namespace) -> Iterator[Monitor]:
    with host.call(Monitor, "nftlb") as one:
        yield one


def nft(host: Namespace, commands: str) -> None:
    host.run(["nft", "-f", "-"], input=commands)


def overrun(host: Namespace, monitor: Monitor) -> None:
    """Announce more than fits into a buffer that is as small as can be."""
    monitor._listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    nft(host, "\n".join(f"add chain ip docker chain-{number}" for number in range(1000)))
    monitor._listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_ours_is_noticed(host: Namespace, monitor: Monitor, change: str) -> None:
    """Whatever part of a table of ours is concerned, of whatever family; told once."""
    assert not monitor.read()

    nft(host, change)

    assert [monitor] == select.select([monitor], [], [], 0)[0]
    assert monitor.read()
    assert not monitor.read()


@pytest.mark.parametrize("change", OTHERS)
def test_others_do_not_count(host: Namespace, monitor: Monitor, change: str) -> None:
    """Nor do their objects with our table's name."""
    nft(host, change)

    assert not monitor.read()


def test_one_of_many(host: Namespace, monitor: Monitor) -> None:
    """A change of ours among many of theirs in one transaction."""
    nft(host, f"{THEIRS}\nadd chain ip nftlb more\ndelete table ip docker")

    assert monitor.read()


def test_what_is_only_looked_at_or_checked(host: Namespace, monitor: Monitor) -> None:
    """Listings and checks change nothing."""
    host.run(["nft", "list", "ruleset"])
    host.run(["nft", "--check", "add table ip6 nftlb"])

    assert not monitor.read()


def test_an_overrun_counts_as_a_change(host: Namespace, monitor: Monitor) -> None:
    """What was lost may have been about us; afterwards things are as before."""
    overrun(host, monitor)

    assert monitor.read()
    assert not monitor.read()
    nft(host, "delete table ip docker")
    assert not monitor.read()


def test_it_belongs_to_the_namespace_of_the_thread(monitor: Monitor) -> None:
    """What happens in another namespace is not heard."""
    with Namespace("elsewhere") as elsewhere:
        nft(elsewhere, OURS)

    assert not monitor.read()


def test_it_vouches_for_what_others_left_alone(host: Namespace, monitor: Monitor) -> None:
    """Between two generations, of which somebody else made the later; also when asked for an older one again."""
    first = host.call(generation)
    assert monitor.vouches(first, first)

    nft(host, "delete table ip docker")
    nft(host, THEIRS)

    assert monitor.vouches(first, first + 2)
    assert monitor.vouches(first + 1, first + 2)


def test_it_does_not_vouch_over_a_change_of_ours(host: Namespace, monitor: Monitor) -> None:
    """Only from the change on."""
    first = host.call(generation)
    nft(host, "delete table ip docker")
    nft(host, "add chain ip nftlb more")
    nft(host, THEIRS)

    assert not monitor.vouches(first, first + 3)
    assert not monitor.vouches(first + 1, first + 3)
    assert monitor.vouches(first + 2, first + 3)


def test_it_does_not_vouch_for_what_was_before_it(host: Namespace) -> None:
    """What happened before it listened is not known to it."""
    before = host.call(generation)
    nft(host, "add chain ip nftlb more")
    with host.call(Monitor, "nftlb") as monitor:
        assert not monitor.vouches(before, before + 1)
        assert monitor.vouches(before + 1, before + 1)


def test_it_does_not_vouch_for_what_is_not_announced_yet(host: Namespace, monitor: Monitor) -> None:
    """The kernel moves the number first: an announcement may still be on its way."""
    now = host.call(generation)

    assert not monitor.vouches(now, now + 1)


def test_it_does_not_vouch_over_an_overrun(host: Namespace, monitor: Monitor) -> None:
    """What was lost may have been about us; from then on it can vouch again."""
    first = host.call(generation)
    overrun(host, monitor)
    assert not monitor.vouches(first, first + 1)

    nft(host, "delete table ip docker")
    assert not monitor.vouches(first, first + 2)
    assert monitor.vouches(first + 1, first + 2)


def test_vouching_takes_no_news_away(host: Namespace, monitor: Monitor) -> None:
    """What was heard while vouching is told by the next reading."""
    first = host.call(generation)
    nft(host, "flush ruleset")

    assert not monitor.vouches(first, first + 1)
    assert monitor.read()


def test_generations_that_wrap(monitor: Monitor) -> None:
    """The number has 32 bits, and leaves out zero."""
    monitor._changed, monitor._announced = 0xFFFFFFFD, 2

    assert monitor.vouches(0xFFFFFFFE, 1)
    assert not monitor.vouches(0xFFFFFFFC, 1)
    assert not monitor.vouches(0xFFFFFFFE, 3)


def test_without_privileges_it_says_so(host: Namespace) -> None:
    """The kernel tells only those who may change the tables."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, lambda: Monitor("nftlb"))


def test_a_swapper_with_a_monitor() -> None:
    """It reads nothing anew for what others do elsewhere, and mends at once what they do to our tables."""
    with real_kernel() as kernel, kernel.namespace.call(Monitor, "nftlb") as monitor:
        swapper = Swapper(kernel, "nftlb", lambda: None, vouches=monitor.vouches)
        target = Compiled(Config(pools=(DNS,))).ruleset()
        swapper.swap(target)
        swapper.present()

        nft(kernel.namespace, THEIRS)
        with patch.object(kernel, "list", side_effect=AssertionError("listed")):
            assert not swapper.swap(target)

        nft(kernel.namespace, "flush chain ip nftlb pool/dns")
        assert swapper.swap(target)
        assert not Swapper(kernel, "nftlb", lambda: None).swap(target)
