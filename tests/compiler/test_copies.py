"""The rules of `mirror` and `templates`: what changes with the states of servers, and what does not."""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address

import pytest

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.model import Membership
from nftlb.ruleset import Ruleset, TableFamily
from nftlb.swap.plan import make

POOL = """
pools:
  flows:
    listen: ["192.0.2.20:2055/udp", "192.0.2.20:2055/tcp"]
    forward: {forward}
    balance: hash
    {more}
    mirror:
      archive: 10.0.9.9:9995
      sample: {{address: 10.0.9.8, one_in: 10}}
    backends: {{a: 10.0.0.51{port}, b: 10.0.0.52{port}}}
"""
COPIES = "copies/flows/192.0.2.20/udp/2055"
SPREAD = "templates/flows/192.0.2.20/udp/2055"


def compiled(forward: str = "stateless", *, templates: bool = True) -> Compiled:
    more = "templates: all" if templates else ""
    more += ", source: keep" if forward == "nat" else ""
    more = more.strip(", ").replace(", ", "\n    ")
    return Compiled(parse_config(POOL.format(forward=forward, more=more, port="" if forward == "dsr" else ":9995")))


def chains(ruleset: Ruleset) -> dict[str, tuple[str, ...]]:
    return {name: chain.rules for name, chain in ruleset.tables[TableFamily.IP].chains.items()}


@pytest.mark.parametrize("forward", ["nat", "stateless", "dsr"])
def test_templates_go_to_the_backends_in_rotation(forward: str) -> None:
    """All but one backend get a copy, and the last gets the datagram; with one backend, templates are no exception."""
    rules = compiled(forward)
    assert (
        "jump template/flows/a/192.0.2.20/udp/2055",
        "goto backend/flows/b",
    ) == chains(rules.ruleset())[SPREAD]
    alone = chains(rules.ruleset(Membership.with_down([("flows", "a")])))
    assert SPREAD not in alone
    assert not any("templates" in rule for rule in alone[COPIES])


def test_a_collector_that_is_down_gets_no_copies() -> None:
    """The jump to its chain is gone; its replies and errors about earlier copies are still dropped."""
    before = chains(compiled().ruleset())
    after = chains(compiled().ruleset(Membership.with_down([("flows", "archive")])))
    jump = "jump collector/flows/archive/192.0.2.20/udp/2055"
    assert jump in before[COPIES]
    assert {COPIES} == {name for name in before if before[name] != after[name]}
    assert jump not in after[COPIES]


@pytest.mark.parametrize(
    ("ranges", "joined"),
    [
        (["100-200"], ["100-200"]),
        (["150-250", "100-200"], ["100-250"]),
        (["100-300", "150-200", "301-400"], ["100-300", "301-400"]),
        (["1-65535", "5-6"], ["1-65535"]),
    ],
)
def test_overlapping_ranges_are_joined(ranges: list[str], joined: list[str]) -> None:
    """Two listeners with overlapping ranges may share a collector without a port."""
    listen = [f"192.0.2.{number}:{ports}/udp" for number, ports in enumerate(ranges, 1)]
    text = f"pools: {{a: {{listen: {listen}, mirror: {{x: 10.0.9.9}}, backends: {{b: 10.0.0.2}}}}}}"
    found = Compiled(parse_config(text)).ruleset().tables[TableFamily.IP].sets["collector-ranges"].elements
    assert [f"10.0.9.9 . {ports}" for ports in joined] == [element.key for element in found]


def test_connections_are_not_copied() -> None:
    """A listener for TCP leads to the same pool without copies."""
    assert ("goto pool/flows",) == chains(compiled().ruleset())["copies/flows/192.0.2.20/tcp/2055"]


def test_a_swap_of_a_collector_replaces_one_chain() -> None:
    """No chain of a backend, and no set, is part of the transaction."""
    rules = compiled()
    change = make(rules.ruleset(), rules.ruleset(Membership.with_down([("flows", "archive")])))
    assert {COPIES} == {line.split()[4] for line in change.text.splitlines()}


def test_pools_without_copies_have_no_rule_of_them() -> None:
    """What a pool does not ask for costs nothing."""
    text = "pools: {a: {listen: '192.0.2.53:53/udp', forward: stateless, backends: {b: '10.0.0.2:53'}}}"
    ruleset = Compiled(parse_config(text)).ruleset()
    table = ruleset.tables[TableFamily.IP]
    assert "output-raw" not in table.chains
    assert not [name for name in (*table.chains, *table.sets) if "cop" in name or "collector" in name]


MATCH = re.compile(r"@th,(\d+),(\d+) (?:& (\S+) )?(!= )?(\S+)")


def drops(rule: str, packet: bytes) -> bool:
    """Whether a rule that compares bits of the packet drops the packet."""

    def holds(match: re.Match[str]) -> bool:
        start, length, mask, unequal, value = match.groups()
        bits = int.from_bytes(packet) >> 8 * len(packet) - int(start) - int(length) & (1 << int(length)) - 1
        return (bits & int(mask or "-1", 0) == int(value, 0)) is not bool(unequal)

    found = list(MATCH.finditer(rule))
    return rule.endswith(" drop") and bool(found) and all(map(holds, found))


def error_about(address: str, port: int, *, fragment: int | None = None, protocol: int = 17) -> bytes:
    """An ICMPv6 error about a datagram, or about a fragment at this offset in bytes, without the header of IPv6."""
    udp = struct.pack("!HHHH", 4000, port, 8, 0)
    between = b"" if fragment is None else struct.pack("!BBHI", protocol, 0, fragment | 1, 7)
    content = between + (udp if not fragment else bytes([39, 6] * 8))
    header = struct.pack("!IHBB", 6 << 28, len(content), protocol if fragment is None else 44, 64)
    ends = ip_address("2001:db8::7").packed + ip_address(address).packed
    return struct.pack("!BBHI", 1, 3, 0, 0) + header + ends + content


def test_errors_about_copies_in_fragments_are_dropped() -> None:
    """Over IPv6, errors quote a fragment header before the ports, or no ports. Those about others pass."""
    collector = "2001:db8:9::9"
    text = "pools: {a: {listen: '[2001:db8::1]:53/udp', mirror: {m: '[2001:db8:9::9]:9995'}, backends: {b: fd00::2}}}"
    rules = Compiled(parse_config(text)).ruleset().tables[TableFamily.IP6].chains["refused-copies"].rules
    for packet, expected in (
        (error_about(collector, 9995), True),
        (error_about(collector, 9995, fragment=0), True),
        (error_about(collector, 9995, fragment=1448), True),
        (error_about(collector, 9996), False),
        (error_about(collector, 9996, fragment=0), False),
        (error_about("2001:db8:9::8", 9995, fragment=0), False),
        (error_about("2001:db8:9::8", 9995, fragment=1448), False),
        (error_about(collector, 9995, protocol=6), False),
        (error_about(collector, 9995, fragment=1448, protocol=6), False),
    ):
        assert expected is any(drops(rule, packet) for rule in rules), packet.hex()
