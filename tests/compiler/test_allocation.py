"""The allocation of zones and marks: owners keep their numbers."""

from __future__ import annotations

import pytest
from fake_kernel import FakeNft
from hypothesis import given
from hypothesis import strategies as st
from pool_builders import DNS, backend, backends, config, pool, sorry

from nftlb.compiler import Allocation, Compiled, read_back
from nftlb.compiler.allocation import LAST_ZONE, BackendZone, FlowZone, ForeignNumbers, allocate
from nftlb.compiler.source_ports import PortRange
from nftlb.errors import NftlbError
from nftlb.model import BackendKey, Config, Family, Forward, Health, Icmp, Per, Protocol
from nftlb.swap import Swapper

LOG = pool("log", "192.0.2.1:514/udp", backends("10.0.0.21", "10.0.0.22"), forward=Forward.DSR)


def test_every_owner_gets_a_number() -> None:
    """Packets: a zone for each target. Flows: one for each pool and family. DSR: a mark for each address."""
    both = pool(
        "both",
        ("192.0.2.1:53/udp", "[2001:db8::1]:53/tcp"),
        (backend("b1", "10.0.0.11:5353"), backend("b6", "[2001:db8::6]:5353")),
        fallback=sorry("10.0.0.99:53"),
    )

    assert Allocation(
        {
            masqueraded("both/b1", "10.0.0.11", 5353, PortRange(1024, 61513)): 1,
            masqueraded("both/_sorry", "10.0.0.99", 53, PortRange(1024, 61513)): 2,
            FlowZone("both", Family.IP6): 3,
        },
        {"10.0.0.21": 60001, "10.0.0.22": 60002},
        {Family.IP: {Protocol.UDP: PortRange(1024, 61513)}},  # 61514 is the alias of port 514
    ) == allocate(config(both, LOG))


def test_the_first_zone_and_mark_are_settings() -> None:
    """Other software may use zones and marks: the first of each is a setting."""
    numbers = allocate(config(DNS, LOG, zones=1000, marks=7))

    assert {1000, 1001, 1002} == set(numbers.zones.values())
    assert {7, 8} == set(numbers.marks.values())


def test_marks_of_checks_are_not_given_to_backends() -> None:
    """The mark of a check is not given to a backend: routing rules would send the check to that backend."""
    first = allocate(config(LOG))
    checks = (Health(check=Icmp(), mark=60001), Health(check=Icmp(), mark=60003))
    checked = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.1:53"), health=checks)

    assert {"10.0.0.21": 60002, "10.0.0.22": 60004} == allocate(config(LOG, checked)).marks
    assert {"10.0.0.21": 60004, "10.0.0.22": 60002} == allocate(config(LOG, checked), first).marks


def test_two_pools_with_the_same_next_hop_share_a_mark() -> None:
    """A mark stands for a next hop, so pools that route to one address share its mark."""
    second_log = pool(
        "other",
        "192.0.2.1:162/udp",
        (backend("b9", "10.0.0.21"), backend("far", "10.9.9.9", via=LOG.backends[1].address)),
        forward=Forward.DSR,
    )

    assert {"10.0.0.21": 60001, "10.0.0.22": 60002} == allocate(config(LOG, second_log)).marks


def masqueraded(name: str, address: str, port: int, ports: PortRange) -> BackendZone:
    """The owner of a zone whose packets are masqueraded."""
    return BackendZone(BackendKey.parse(name), address, port, "masquerade", ports)


def test_owners_keep_their_numbers() -> None:
    """Other backends keep their numbers when backends are added, removed or reordered."""
    first = allocate(config(LOG, DNS))
    more = pool("dns", "192.0.2.53:53/udp", (backend("new", "10.0.0.9:53"), *reversed(DNS.backends)))

    second = allocate(config(LOG, more), first)

    assert {owner: first.zones[owner] for owner in first.zones if owner in second.zones} == {
        owner: second.zones[owner] for owner in second.zones if owner in first.zones
    }
    assert not {masqueraded("dns/new", "10.0.0.9", 53, PortRange(1024, 61513))} & first.zones.keys()
    assert second.zones[masqueraded("dns/new", "10.0.0.9", 53, PortRange(1024, 61513))] not in first.zones.values()


@pytest.mark.parametrize("text", ["10.0.0.99:5353", "10.0.0.11:53", "10.0.0.11"])
def test_a_new_address_or_port_gets_a_new_zone(text: str) -> None:
    """A conntrack entry keeps the NAT of its first packet, so a backend that has moved gets a new zone."""
    moved = pool("dns", "192.0.2.53:53/udp", (backend("b1", text), DNS.backends[1]))
    first = allocate(config(DNS))

    assert set(allocate(config(moved), first).zones.values()) - set(first.zones.values())


def test_numbers_of_removed_owners_are_reused_last() -> None:
    """While other numbers are free, a new owner does not get the number of a removed owner."""
    first = allocate(config(pool("a", "192.0.2.1:1/udp", backends("10.0.0.1:1")), zones=LAST_ZONE - 2))
    second = allocate(config(pool("b", "192.0.2.1:1/udp", backends("10.0.0.1:1")), zones=LAST_ZONE - 2), first)
    third = allocate(
        config(pool("c", "192.0.2.1:1/udp", backends("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")), zones=LAST_ZONE - 2),
        second,
    )

    assert {masqueraded("a/b1", "10.0.0.1", 1, PortRange(1024, 65535)): LAST_ZONE - 2} == first.zones
    assert {masqueraded("b/b1", "10.0.0.1", 1, PortRange(1024, 65535)): LAST_ZONE - 1} == second.zones
    assert [LAST_ZONE - 2, LAST_ZONE, LAST_ZONE - 1] == list(third.zones.values())


def test_too_few_numbers_is_an_error() -> None:
    """The error says how many numbers are needed."""
    with pytest.raises(NftlbError, match="3 conntrack zones are needed, but 65534 to 65535 are too few"):
        allocate(config(DNS, zones=LAST_ZONE - 1))


def test_numbers_below_the_first_are_not_kept() -> None:
    """When the file moves the first number, no number below it stays in use."""
    assert min(allocate(config(DNS, zones=100), allocate(config(DNS))).zones.values()) == 100


FLOWS = pool("flows", "192.0.2.2:53/udp", backends("10.0.0.31", "10.0.0.32"), per=Per.FLOW)
SIX = pool("six", "[2001:db8::1]:53/udp", backends("[2001:db8::6]:5353", "2001:db8::7"), fallback=sorry("[::9]:53"))


@given(pools=st.sets(st.sampled_from([DNS, LOG, FLOWS, SIX])).map(lambda chosen: tuple(sorted(chosen, key=str))))
def test_the_allocation_is_read_back_from_the_kernel(pools: tuple[()]) -> None:
    """What was compiled with an allocation can be read back as that allocation."""
    kernel, compiled = FakeNft(), Compiled(Config(pools=pools))
    Swapper(kernel, "nftlb", wait=lambda: None).swap(compiled.ruleset())

    assert compiled.allocation == read_back(kernel.list("nftlb"))


def test_a_fresh_process_keeps_the_numbers_of_the_kernel() -> None:
    """A compilation with the allocation that was read back gives the same numbers, in any order of pools."""
    kernel = FakeNft()
    running = Compiled(config(SIX, DNS, LOG, FLOWS))
    Swapper(kernel, "nftlb", wait=lambda: None).swap(running.ruleset())

    again = Compiled(config(FLOWS, LOG, DNS, SIX), read_back(kernel.list("nftlb")))

    assert dict(running.allocation.zones) == dict(again.allocation.zones)


def test_numbers_of_another_daemon_are_not_used() -> None:
    """Neither new owners nor previous owners get numbers of another daemon."""
    taken = ForeignNumbers(zones=frozenset((1, 3)), marks=frozenset((60001,)))
    for previous in (None, allocate(config(DNS, LOG))):
        given = allocate(config(DNS, LOG), previous, taken)
        assert not taken.zones & set(given.zones.values())
        assert not taken.marks & set(given.marks.values())
    other = Allocation({FlowZone("a", Family.IP): 1, FlowZone("b", Family.IP): 3}, {"c": 60001})
    assert given == allocate(config(DNS, LOG), given, ForeignNumbers.by([other]))
