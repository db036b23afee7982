"""The ruleset monitor: which tables were changed, and whether ours are certainly unchanged."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from pool_builders import DNS
from real_kernel import real_kernel
from unprivileged import unprivileged

from nftlb.compiler import Compiled
from nftlb.errors import SystemFault
from nftlb.kernel.generation import read_generation
from nftlb.kernel.monitors import RulesetMonitor
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
def monitor(host: Namespace) -> Iterator[RulesetMonitor]:
    with host.call(RulesetMonitor, "nftlb") as monitor:
        yield monitor


def nft(host: Namespace, commands: str) -> None:
    host.run(["nft", "-f", "-"], input=commands)


def overrun(host: Namespace, monitor: RulesetMonitor) -> None:
    """Make more announcements than fit into a buffer of the smallest size."""
    monitor._announcements._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    nft(host, "\n".join(f"add chain ip docker chain-{number}" for number in range(1000)))
    monitor._announcements._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_our_tables_is_reported(host: Namespace, monitor: RulesetMonitor, change: str) -> None:
    """A change of any part of our tables, of any family, is reported once."""
    assert not monitor.read()

    nft(host, change)

    assert [monitor] == select.select([monitor], [], [], 0)[0]
    assert monitor.read()
    assert not monitor.read()


@pytest.mark.parametrize("change", OTHERS)
def test_others_do_not_count(host: Namespace, monitor: RulesetMonitor, change: str) -> None:
    """Objects in foreign tables with our table's name are not reported."""
    nft(host, change)

    assert not monitor.read()


def test_a_change_is_found_among_many_foreign_changes(host: Namespace, monitor: RulesetMonitor) -> None:
    """A change of our table is found among many foreign changes in one transaction."""
    nft(host, f"{THEIRS}\nadd chain ip nftlb more\ndelete table ip docker")

    assert monitor.read()


def test_listings_and_checks_are_not_reported(host: Namespace, monitor: RulesetMonitor) -> None:
    """Listings and checks are not reported."""
    host.run(["nft", "list", "ruleset"])
    host.run(["nft", "--check", "add table ip6 nftlb"])

    assert not monitor.read()


def test_an_overrun_counts_as_a_change(host: Namespace, monitor: RulesetMonitor) -> None:
    """Lost announcements count as a change; later announcements are received as before."""
    overrun(host, monitor)

    assert monitor.read()
    assert not monitor.read()
    nft(host, "delete table ip docker")
    assert not monitor.read()


def test_each_network_namespace_is_separate(monitor: RulesetMonitor) -> None:
    """Changes in another network namespace are not reported."""
    with Namespace("elsewhere") as elsewhere:
        nft(elsewhere, OURS)

    assert not monitor.read()


def test_foreign_transactions_leave_the_tables_unchanged(host: Namespace, monitor: RulesetMonitor) -> None:
    """The tables are unchanged between two generations of which the later is foreign; also for older generations."""
    first = host.call(read_generation)
    assert monitor.vouches(first, first)

    nft(host, "delete table ip docker")
    nft(host, THEIRS)

    assert monitor.vouches(first, first + 2)
    assert monitor.vouches(first + 1, first + 2)


def test_after_a_change_earlier_generations_are_not_confirmed(host: Namespace, monitor: RulesetMonitor) -> None:
    """After a change the tables count as unchanged only since that change."""
    first = host.call(read_generation)
    nft(host, "delete table ip docker")
    nft(host, "add chain ip nftlb more")
    nft(host, THEIRS)

    assert not monitor.vouches(first, first + 3)
    assert not monitor.vouches(first + 1, first + 3)
    assert monitor.vouches(first + 2, first + 3)


def test_generations_before_the_monitor_are_not_confirmed(host: Namespace) -> None:
    """Nothing is known about generations before the monitor existed."""
    before = host.call(read_generation)
    nft(host, "add chain ip nftlb more")
    with host.call(RulesetMonitor, "nftlb") as monitor:
        assert not monitor.vouches(before, before + 1)
        assert monitor.vouches(before + 1, before + 1)


def test_unannounced_generations_are_not_confirmed(host: Namespace, monitor: RulesetMonitor) -> None:
    """The result is False while an announcement may be missing: the kernel increases the number first."""
    now = host.call(read_generation)

    assert not monitor.vouches(now, now + 1)


def test_generations_before_an_overrun_are_not_confirmed(host: Namespace, monitor: RulesetMonitor) -> None:
    """After lost announcements the result is False for earlier generations, and right for later generations."""
    first = host.call(read_generation)
    overrun(host, monitor)
    assert not monitor.vouches(first, first + 1)

    nft(host, "delete table ip docker")
    assert not monitor.vouches(first, first + 2)
    assert monitor.vouches(first + 1, first + 2)


def test_confirming_does_not_consume_changes(host: Namespace, monitor: RulesetMonitor) -> None:
    """A change that `vouches` receives is reported by the next `read`."""
    first = host.call(read_generation)
    nft(host, "flush ruleset")

    assert not monitor.vouches(first, first + 1)
    assert monitor.read()


def test_generations_that_wrap(monitor: RulesetMonitor) -> None:
    """The comparison works when the number of 32 bits wraps."""
    monitor._changed, monitor._announced = 0xFFFFFFFD, 2

    assert monitor.vouches(0xFFFFFFFE, 1)
    assert not monitor.vouches(0xFFFFFFFC, 1)
    assert not monitor.vouches(0xFFFFFFFE, 3)


def test_without_privileges_the_error_says_so(host: Namespace) -> None:
    """Without privileges SystemFault names the fix."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, lambda: RulesetMonitor("nftlb"))


def test_a_swapper_with_a_monitor() -> None:
    """Foreign changes elsewhere cause no new reading; foreign changes of our tables are undone at once."""
    with real_kernel() as kernel, kernel.namespace.call(RulesetMonitor, "nftlb") as monitor:
        swapper = Swapper(kernel, "nftlb", lambda: None, vouches=monitor.vouches)
        target = Compiled(Config(pools=(DNS,))).ruleset()
        swapper.swap(target)
        swapper.present()

        nft(kernel.namespace, THEIRS)
        with patch.object(kernel, "list", side_effect=AssertionError("listed")):
            assert not swapper.swap(target)

        nft(kernel.namespace, "flush chain ip nftlb prerouting-raw")
        assert swapper.swap(target)
        assert not Swapper(kernel, "nftlb", lambda: None).swap(target)
