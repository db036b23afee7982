"""Numbers that must not change hands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import DNS, backend, backends, config, pool, sorry

from nftlb.compiler import Allocation, Compiled, read_back
from nftlb.compiler.allocation import LAST_ZONE, Taken, allocate
from nftlb.compiler.source_ports import PortRange
from nftlb.errors import NftlbError
from nftlb.kernel.fake import FakeNft
from nftlb.model import Config, Family, Forward, Health, Icmp, Per, Protocol
from nftlb.swap import Swapper

LOG = pool("log", "192.0.2.1:514/udp", backends("10.0.0.21", "10.0.0.22"), forward=Forward.DSR)


def test_everybody_who_needs_a_number_gets_one() -> None:
    """Packets: a zone for each target. Flows: one for each pool and family. DSR: a mark for each address."""
    both = pool(
        "both",
        ("192.0.2.1:53/udp", "[2001:db8::1]:53/tcp"),
        (backend("b1", "10.0.0.11:5353"), backend("b6", "[2001:db8::6]:5353")),
        fallback=sorry("10.0.0.99:53"),
    )

    assert Allocation(
        {
            "both/b1 10.0.0.11 5353 masquerade:1024-61513": 1,
            "both/_sorry 10.0.0.99 53 masquerade:1024-61513": 2,
            "both ip6": 3,
        },
        {"10.0.0.21": 60001, "10.0.0.22": 60002},
        {Family.IP: {Protocol.UDP: PortRange(1024, 61513)}},  # 61514 is the alias of port 514
    ) == allocate(config(both, LOG))


def test_numbers_begin_where_the_file_says() -> None:
    """Other software may use zones and marks: the first of each is a setting."""
    numbers = allocate(config(DNS, LOG, zones=1000, marks=7))

    assert {1000, 1001, 1002} == set(numbers.zones.values())
    assert {7, 8} == set(numbers.marks.values())


def test_marks_of_checks_are_theirs() -> None:
    """A check that leaves with a mark must not be steered to the backend whose mark that is."""
    first = allocate(config(LOG))
    checks = (Health(check=Icmp(), mark=60001), Health(check=Icmp(), mark=60003))
    checked = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.1:53"), health=checks)

    assert {"10.0.0.21": 60002, "10.0.0.22": 60004} == allocate(config(LOG, checked)).marks
    assert {"10.0.0.21": 60004, "10.0.0.22": 60002} == allocate(config(LOG, checked), first).marks


def test_two_pools_may_route_to_one_address_with_one_mark() -> None:
    """A mark says where a packet is routed to, whichever pool it is of; a next hop is where it is routed to."""
    other = pool(
        "other",
        "192.0.2.1:162/udp",
        (backend("b9", "10.0.0.21"), backend("far", "10.9.9.9", via=LOG.backends[1].address)),
        forward=Forward.DSR,
    )

    assert {"10.0.0.21": 60001, "10.0.0.22": 60002} == allocate(config(LOG, other)).marks


def test_who_has_a_number_keeps_it() -> None:
    """Backends that come, go, or change places leave the numbers of the others alone."""
    first = allocate(config(LOG, DNS))
    more = pool("dns", "192.0.2.53:53/udp", (backend("new", "10.0.0.9:53"), *reversed(DNS.backends)))

    second = allocate(config(LOG, more), first)

    assert {owner: first.zones[owner] for owner in first.zones if owner in second.zones} == {
        owner: second.zones[owner] for owner in second.zones if owner in first.zones
    }
    assert not {"dns/new 10.0.0.9 53 masquerade:1024-61513"} & first.zones.keys()
    assert second.zones["dns/new 10.0.0.9 53 masquerade:1024-61513"] not in first.zones.values()


@pytest.mark.parametrize("text", ["10.0.0.99:5353", "10.0.0.11:53", "10.0.0.11"])
def test_another_address_or_port_is_another_owner(text: str) -> None:
    """A conntrack entry keeps the NAT it was born with, so a backend that has moved gets a zone that is new."""
    moved = pool("dns", "192.0.2.53:53/udp", (backend("b1", text), DNS.backends[1]))
    first = allocate(config(DNS))

    assert set(allocate(config(moved), first).zones.values()) - set(first.zones.values())


def test_a_number_that_was_given_up_is_taken_last() -> None:
    """While others are left, a new owner does not get the number of one that has just gone."""
    first = allocate(config(pool("a", "192.0.2.1:1/udp", backends("10.0.0.1:1")), zones=LAST_ZONE - 2))
    second = allocate(config(pool("b", "192.0.2.1:1/udp", backends("10.0.0.1:1")), zones=LAST_ZONE - 2), first)
    third = allocate(
        config(pool("c", "192.0.2.1:1/udp", backends("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")), zones=LAST_ZONE - 2),
        second,
    )

    assert {"a/b1 10.0.0.1 1 masquerade:1024-65535": LAST_ZONE - 2} == first.zones
    assert {"b/b1 10.0.0.1 1 masquerade:1024-65535": LAST_ZONE - 1} == second.zones
    assert [LAST_ZONE - 2, LAST_ZONE, LAST_ZONE - 1] == list(third.zones.values())


def test_too_few_numbers_is_an_error() -> None:
    """It is said how many are needed."""
    with pytest.raises(NftlbError, match="3 conntrack zones are needed, but 65534 to 65535 are too few"):
        allocate(config(DNS, zones=LAST_ZONE - 1))


def test_numbers_below_the_first_are_given_up() -> None:
    """When the file moves the first number, no number below it stays in use."""
    assert min(allocate(config(DNS, zones=100), allocate(config(DNS))).zones.values()) == 100


FLOWS = pool("flows", "192.0.2.2:53/udp", backends("10.0.0.31", "10.0.0.32"), per=Per.FLOW)
SIX = pool("six", "[2001:db8::1]:53/udp", backends("[2001:db8::6]:5353", "2001:db8::7"), fallback=sorry("[::9]:53"))


@given(pools=st.sets(st.sampled_from([DNS, LOG, FLOWS, SIX])).map(lambda chosen: tuple(sorted(chosen, key=str))))
def test_the_kernel_remembers_the_allocation(pools: tuple[()]) -> None:
    """What was compiled with an allocation can be read back as that allocation."""
    kernel, compiled = FakeNft(), Compiled(Config(pools=pools))
    Swapper(kernel, "nftlb", wait=lambda: None).swap(compiled.ruleset())

    assert compiled.allocation == read_back(kernel.list("nftlb"))


def test_a_fresh_process_keeps_the_numbers_of_the_kernel() -> None:
    """Compiling again with what was read back gives the same ruleset, though the file's order would give others."""
    kernel = FakeNft()
    running = Compiled(config(SIX, DNS, LOG, FLOWS))
    Swapper(kernel, "nftlb", wait=lambda: None).swap(running.ruleset())

    again = Compiled(config(FLOWS, LOG, DNS, SIX), read_back(kernel.list("nftlb")))

    assert dict(running.allocation.zones) == dict(again.allocation.zones)


def test_numbers_of_another_daemon_are_given_to_nobody() -> None:
    """Neither anew, nor to who had them before."""
    taken = Taken(zones=frozenset((1, 3)), marks=frozenset((60001,)))
    for previous in (None, allocate(config(DNS, LOG))):
        given = allocate(config(DNS, LOG), previous, taken)
        assert not taken.zones & set(given.zones.values())
        assert not taken.marks & set(given.marks.values())
    assert given == allocate(config(DNS, LOG), given, Taken.by([Allocation({"a": 1, "b": 3}, {"c": 60001})]))
