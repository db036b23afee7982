"""Answers of DNS become backends, and can't make a configuration invalid."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from nftlb.compiler import Compiled
from nftlb.compiler.selection import select
from nftlb.compiler.versions import turns
from nftlb.config import amend, lookups_of, parse_config, resolve
from nftlb.model import MOST_ADDRESSES, Config, Family, FoundServer, HostLookup, after_answer

NS, SRV = HostLookup("ns.example.com"), HostLookup("_dns._udp.example.com", srv=True)
BOTH = '["192.0.2.53:53/udp", "[2001:db8::53]:53/udp"]'


def file(backends: str, listen: str = "192.0.2.53:53/udp", more: str = "", others: str = "") -> Config:
    return parse_config(f"pools: {{dns: {{listen: {listen}, backends: {{{backends}}}{more}}}{others}}}")


def servers(*addresses: str) -> tuple[FoundServer, ...]:
    return tuple(FoundServer(ip_address(address)) for address in addresses)


def made(config: Config, *addresses: str) -> tuple[list[str], list[str]]:
    """The names of the backends of the first pool for an answer with these addresses, and the notes."""
    found = resolve(config, {NS: servers(*addresses)})
    pool = found.config.pools[0]
    return [backend.name for backend in pool.backends], list(found.notes.get(("dns", "ns"), ()))


def test_each_address_is_a_backend() -> None:
    """Backends have the options of their name, and follow the backends with addresses."""
    config = file("ns: {address: NS.example.com, port: 5353, weight: 3, priority: 2}, a: 10.0.0.1", BOTH)
    pool = resolve(config, {NS: servers("10.0.0.11", "2001:db8::11")}).config.pools[0]

    assert ["a", "ns-10.0.0.11", "ns-2001-db8--11"] == [backend.name for backend in pool.backends]
    assert {(5353, 3, 2)} == {(one.port, one.weight, one.priority) for one in pool.backends[1:]}
    assert ("ns-10.0.0.11", "ns-2001-db8--11") == pool.named[0].backends


def test_a_configuration_may_be_resolved_again() -> None:
    """The answer of now replaces the backends of the answer before, in a resolved configuration too."""
    config = file("ns: ns.example.com, a: 10.0.0.1")
    before = resolve(config, {NS: servers("10.0.0.11", "10.0.0.12")}).config

    assert made(config, "10.0.0.12") == made(before, "10.0.0.12") == (["a", "ns-10.0.0.12"], [])


def test_srv_records() -> None:
    """Records give the port, the weight in proportion, and the priority by rank; 0 is the smallest weight."""
    found = tuple(
        FoundServer(ip_address(f"10.0.0.{last}"), port, weight, rank)
        for last, port, weight, rank in ((1, 5060, 65535, 0), (1, 5061, 0, 0), (2, 5060, 100, 300))
    )
    pool = resolve(file("sip: {srv: _dns._udp.example.com, priority: 2}"), {SRV: found}).config.pools[0]

    assert [
        ("sip-10.0.0.1-5060", 5060, 256, 2),
        ("sip-10.0.0.1-5061", 5061, 1, 2),
        ("sip-10.0.0.2-5060", 5060, 1, 255),
    ] == [(one.name, one.port, one.weight, one.priority) for one in pool.backends]


@pytest.mark.parametrize(
    ("address", "note"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address"),  # noqa: S104 - no address to bind
        ("255.255.255.255", "255.255.255.255 is the broadcast address"),
        ("224.0.0.1", "224.0.0.1 is a multicast address"),
        ("::1", "::1 is a loopback address"),
        ("ff02::1", "ff02::1 is a multicast address"),
        ("fe80::1", "fe80::1 is a link-local address"),
        ("::ffff:10.0.0.1", "is an IPv4-mapped address"),
        ("192.0.2.53", "is the listener 192.0.2.53:53/udp"),
        ("10.0.0.1", "10.0.0.1 is also pools.dns.backends.a"),
    ],
)
def test_addresses_that_no_backend_may_have(address: str, note: str) -> None:
    """They are left out with a note, as a file may not have them; the other addresses are used."""
    names, notes = made(file("ns: ns.example.com, a: 10.0.0.1", BOTH), "10.0.0.11", address)

    assert ["a", "ns-10.0.0.11"] == names
    assert 1 == len(notes)
    assert note in notes[0]


def test_the_other_family_is_ignored() -> None:
    """An address of a family that the pool does not listen in is left out with a note."""
    found = made(file("ns: ns.example.com"), "2001:db8::1", "10.0.0.1")

    assert (["ns-10.0.0.1"], ["2001:db8::1 is left out: the pool listens on IPv4 only"]) == found


def test_many_addresses() -> None:
    """The first addresses of a huge answer are used."""
    names, notes = made(file("ns: ns.example.com"), *(f"10.0.{index >> 8}.{index & 255}" for index in range(1, 4001)))

    assert (MOST_ADDRESSES, "4000 addresses were found, and the first 32 are used") == (len(names), notes[0])


def test_rules_between_pools() -> None:
    """An address that would take replies of another pool is left out, also where the file's server comes later."""
    later = ", web: {listen: 192.0.2.54:53/udp, backends: {w: 10.0.0.9}}"
    names, notes = made(file("ns: ns.example.com", more=", forward: stateless", others=later), "10.0.0.9", "10.0.0.8")

    assert ["ns-10.0.0.8"] == names
    assert "stateless would rewrite the replies of nat" in notes[0]


def test_ports_of_records_obey_dsr() -> None:
    """With dsr, a record with another port than the listener is left out."""
    found = (FoundServer(ip_address("10.0.0.1"), 53, 1), FoundServer(ip_address("10.0.0.2"), 54, 1))
    answer = resolve(file("s: {srv: _dns._udp.example.com}", more=", forward: dsr"), {SRV: found})

    assert ["s-10.0.0.1-53"] == [backend.name for backend in answer.config.pools[0].backends]
    assert "dsr does not change ports" in answer.notes["dns", "s"][0]


@pytest.mark.parametrize("forward", ["nat", "stateless", "dsr"])
@pytest.mark.parametrize("fallback", ["reject", "all", "10.0.0.99:53"])
def test_a_name_without_an_answer(forward: str, fallback: str) -> None:
    """A pool without a backend compiles: its fallback gets the packets."""
    config = file("ns: ns.example.com", more=f", forward: {forward}, fallback: '{fallback}'")

    assert ([], []) == made(config)
    assert Compiled(resolve(config, {}).config).ruleset()


def test_lookups() -> None:
    """A name of several pools is looked up once, for the families of all of them."""
    other = f", web: {{listen: '[2001:db8::54]:53/udp', backends: {{x: ns.EXAMPLE.com, s: {{srv: {SRV.name}}}}}}}"

    assert {NS: frozenset(Family), SRV: frozenset([Family.IP6])} == lookups_of(file("ns: ns.example.com", others=other))


def test_names_are_added_and_removed() -> None:
    """A name of the file can be removed at run time, and another one be added."""
    config = amend(file("ns: ns.example.com, a: 10.0.0.1"), "dns", remove=["ns"])

    assert ((), ["a"]) == (config.pools[0].named, [one.name for one in config.pools[0].entries])


V4, V6 = servers("10.0.0.1"), servers("2001:db8::1")


@pytest.mark.parametrize(
    ("before", "answered", "after"),
    [
        ((), {Family.IP: V4}, V4),
        (V4, {Family.IP6: V6}, V4 + V6),
        (V4 + V6, {Family.IP: V4, Family.IP6: ()}, V4),
        (V4 + V6, {Family.IP: (), Family.IP6: ()}, None),
        (V4 + V6, {Family.IP: ()}, V6),
        (V4, {Family.IP: ()}, None),
        (V4, {}, V4),
        ((), {}, None),
        ((), {Family.IP: servers("10.0.0.2", "10.0.0.1", "10.0.0.2")}, servers("10.0.0.1", "10.0.0.2")),
    ],
)
def test_after_an_answer(
    before: tuple[FoundServer, ...], answered: dict[Family, tuple[FoundServer, ...]], after: object
) -> None:
    """Families without an answer stay; an answer without any address changes nothing; the order is always the same."""
    assert after == after_answer(before, answered)


def test_an_address_of_a_collector_is_left_out() -> None:
    """Replies of a collector are dropped, so its address can't be a backend; the other addresses are used."""
    config = file("ns: ns.example.com", more=", mirror: {archive: 10.0.0.12}")
    names, notes = made(config, "10.0.0.11", "10.0.0.12")

    assert ["ns-10.0.0.11"] == names
    assert len(notes) == 1
    assert notes[0].startswith("10.0.0.12 is left out: ")


def test_an_address_keeps_the_keys_of_its_clients() -> None:
    """The hash depends on the addresses, and not on their order in the answer."""
    config = file("ns: ns.example.com", more=", balance: hash, key: source-port")
    there = resolve(config, {NS: servers("10.0.0.11", "10.0.0.12")}).config.pools[0]
    back = resolve(config, {NS: servers("10.0.0.12", "10.0.0.11")}).config.pools[0]
    slots = [
        [selection.targets[index][0].name for index in turns(pool, Family.IP, selection)]
        for pool in (there, back)
        for selection in [select(pool, Family.IP, frozenset())]
    ]

    assert {"ns-10.0.0.11", "ns-10.0.0.12"} == {*slots[0]}
    assert slots[0] == slots[1]
