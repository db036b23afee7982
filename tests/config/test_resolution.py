"""Answers of DNS become backends, and can't make a configuration invalid."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from nftlb.compiler import Compiled
from nftlb.compiler.selection import select
from nftlb.compiler.versions import turns
from nftlb.config import amend, lookups_of, parse_config, resolve
from nftlb.model import Config, Family, FoundServer, HostLookup, after_answer

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


@pytest.mark.parametrize(
    ("four", "six", "used"), [(4000, 0, (32, 0)), (40, 40, (16, 16)), (40, 3, (29, 3)), (3, 40, (3, 29))]
)
def test_many_addresses(four: int, six: int, used: tuple[int, int]) -> None:
    """The first addresses of a huge answer are used, and one family leaves places for the other."""
    addresses = [f"10.1.{index >> 8}.{index & 255}" for index in range(four)]
    addresses += [f"2001:db8:1::{index:x}" for index in range(six)]
    names, notes = made(file("ns: ns.example.com", BOTH), *addresses)

    assert used == (sum("ns-10." in name for name in names), sum("ns-2001-" in name for name in names))
    assert [f"{four + six} addresses were found, and 32 of them are used"] == notes


def test_addresses_that_are_left_out_take_no_place() -> None:
    """The limit counts only addresses that can be used."""
    taken = ", ".join(f"s{last}: 10.0.0.{last}" for last in range(1, 33))
    names, _ = made(file(f"{taken}, ns: ns.example.com"), *(f"10.0.0.{last}" for last in range(1, 35)))

    assert ["ns-10.0.0.33", "ns-10.0.0.34"] == names[32:]


def test_records_of_the_same_server() -> None:
    """They are one backend, with the best rank and all the weight in this rank."""
    records = ((5, 1), (10, 0), (20, 0), (7, 2))
    found = tuple(FoundServer(ip_address("10.0.0.1"), 5060, weight, rank) for weight, rank in records)
    pool = resolve(file("sip: {srv: _dns._udp.example.com}"), {SRV: found}).config.pools[0]

    assert [("sip-10.0.0.1-5060", 30, 1)] == [(one.name, one.weight, one.priority) for one in pool.backends]


OTHER = HostLookup("other.example.com")
SORRY = """pools:
  a: {listen: 192.0.2.53:53/udp, forward: stateless, backends: {ns: ns.example.com}}
  b: {listen: 192.0.2.54:53/udp, forward: stateless, backends: {x: 10.0.0.50}, fallback: '10.0.0.99:53'}
  c: {listen: 192.0.2.55:53/udp, backends: {m: other.example.com}}
"""
OUTBOUND = """pools:
  a: {listen: 192.0.2.53:53/udp, outbound: true, backends: {ns: ns.example.com}}
  b: {listen: 192.0.2.54:53/udp, outbound: true, backends: {x: 10.0.0.99}}
  c: {listen: 192.0.2.55:53/udp, backends: {m: other.example.com}}
"""
OUTBOUND_NAMES = OUTBOUND.replace("x: 10.0.0.99", "x: 10.0.0.98, m: other.example.com")


@pytest.mark.parametrize(
    ("text", "left_out", "note"),
    [
        (SORRY, {("a", "ns"), ("c", "m")}, "replies have the same source as those of pools.a.backends.ns-10.0.0.99"),
        (OUTBOUND, {("a", "ns")}, "requests of 10.0.0.99 could also leave from 192.0.2.53 of pools.a.listen[0]"),
        (OUTBOUND_NAMES, {("b", "m")}, "requests of 10.0.0.99 could also leave from 192.0.2.53 of pools.a.listen[0]"),
    ],
)
def test_only_the_address_in_fault_is_left_out(text: str, left_out: set[tuple[str, str]], note: str) -> None:
    """An address that breaks a rule, for an option or the fallback of another pool, takes no other address away."""
    found = resolve(parse_config(text), {NS: servers("10.0.0.1", "10.0.0.99"), OTHER: servers("10.0.0.2", "10.0.0.99")})

    for pool in found.config.pools:
        for named in pool.named:
            both = 1 if (pool.name, named.name) in left_out else 2
            assert (both, both == 1) == (len(named.backends), bool(found.notes[pool.name, named.name]))
    assert f"10.0.0.99 is left out: {note}" in found.notes[min(left_out)]


def test_an_answer_full_of_faults() -> None:
    """The search for the addresses in fault is bounded, and other names keep their addresses."""
    first = ", ".join(f"x{last}: 10.0.0.{last}" for last in range(100))
    config = parse_config(
        f"""pools:
  first: {{listen: 192.0.2.52:53/udp, outbound: true, backends: {{{first}}}}}
  dns: {{listen: 192.0.2.53:53/udp, outbound: true, backends: {{ns: ns.example.com, m: other.example.com}}}}
"""
    )
    answers = {NS: servers(*(f"10.0.0.{last}" for last in range(100))), OTHER: servers("10.0.1.1", "10.0.0.7")}
    found = resolve(config, answers)

    assert ["m-10.0.1.1"] == [backend.name for backend in found.config.pools[1].backends]
    assert (
        "10.0.0.99 is left out: too many addresses of the answers break rules between pools" in found.notes["dns", "ns"]
    )


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
