"""The rules for first packets: where a time-out is set, and that pools without one have no such rules; and helpers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from pool_builders import DNS, config, pool
from pool_builders import backends as behind

from nftlb.compiler import Compiled
from nftlb.model import Forward, Helper, Per, Pool, SourceKind
from nftlb.ruleset import NamedObject, Table, TableFamily

IP, IP6 = TableFamily.IP, TableFamily.IP6
BOTH = pool("game", ("192.0.2.53:27015/udp", "[2001:db8::53]:27015/udp"), behind("10.0.0.1:1", "[2001:db8::1]:1"))
GAME = replace(BOTH, per=Per.FLOW, session_timeout=30_000)


def tables(*pools: Pool) -> dict[TableFamily, Table]:
    return dict(Compiled(config(*pools)).ruleset().tables)


def timeout(seconds: int, family: str) -> NamedObject:
    policy = f"policy = {{ unreplied : {seconds}, replied : {seconds} }}"
    return NamedObject("ct timeout", f"session-{seconds}s", ("protocol udp", f"l3proto {family}", policy))


@pytest.mark.parametrize("family", [IP, IP6])
def test_only_first_packets_meet_the_rule(family: TableFamily) -> None:
    """The zone of the flows leads to the time-out, and from there to the choice of a backend; no other chain does."""
    table = tables(GAME)[family]

    assert {"ct timeout session-30s": timeout(30, family)} == table.objects
    assert ('ct timeout set "session-30s"', "goto connect/game") == table.chains["first/game"].rules
    assert ["goto first/game"] == [element.data for element in table.sets["flows"].elements]
    assert {"first/game"} == {
        chain.name for chain in table.chains.values() if any("ct timeout" in rule for rule in chain.rules)
    }


def test_pools_with_the_same_seconds_share_a_time_out() -> None:
    """There is one object for each number of seconds, however many pools have it."""
    others = [
        replace(
            GAME,
            name=f"p{number}",
            listen=tuple(replace(listener, first_port=number, last_port=number) for listener in GAME.listen),
        )
        for number in (1, 2, 3)
    ]
    table = tables(GAME, others[0], replace(others[1], session_timeout=5000), replace(others[2], session_timeout=None))[
        IP
    ]

    assert ["ct timeout session-30s", "ct timeout session-5s"] == sorted(table.objects)
    assert {"first/game", "first/p1", "first/p2"} == {name for name in table.chains if name.startswith("first/")}


@pytest.mark.parametrize(
    "without_flows",
    [
        replace(GAME, session_timeout=None),
        replace(GAME, per=Per.PACKET),
        replace(GAME, forward=Forward.STATELESS),
        replace(DNS, session_timeout=30_000),
    ],
    ids=["no time-out", "per packet", "stateless", "only connections of TCP"],
)
def test_no_rule_without_datagram_flows(without_flows: Pool) -> None:
    """Without flows of UDP, for instance with the time-out from `defaults`, the rules are those of any other pool."""
    assert tables(replace(without_flows, session_timeout=None)) == tables(without_flows)
    assert not any(table.objects for table in tables(without_flows).values())


BOOT = replace(GAME, name="boot", session_timeout=None, helper=Helper.TFTP)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, "fib daddr type local ct original zone set 1"),
        ({"source": SourceKind.KEEP}, "ct original zone set 1"),
        (
            {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("192.0.2.9"),)},
            "ip daddr 192.0.2.9 ct original zone set 1",
        ),
    ],
    ids=["masquerade", "keep", "address"],
)
def test_packets_that_a_helper_may_expect_get_the_zone(source: dict[str, Any], expected: str) -> None:
    """Packets of backends to the client that they saw get the zone of the pool; only the service gets a backend."""
    table = tables(replace(BOOT, **source))[IP]

    assert ["10.0.0.1 goto expected/boot"] == [
        f"{element.key} {element.data}" for element in table.sets["helped"].elements
    ]
    assert ("ct state untracked accept", expected) == table.chains["expected/boot"].rules
    assert ["goto asked/boot"] == [element.data for element in table.sets["flows"].elements]
    assert ("ip daddr 192.0.2.53 ip protocol udp udp dport 27015 goto first/boot",) == table.chains["asked/boot"].rules
    assert ('ct helper set "tftp"', "goto connect/boot") == table.chains["first/boot"].rules
    for hook in ("prerouting-raw", "output-raw"):
        assert "meta l4proto udp ip saddr vmap @helped" == table.chains[hook].rules[-1]


def test_a_zone_does_not_undo_notrack() -> None:
    """Beside a `stateless` pool, packets that are not tracked end before a helper's zone."""
    stateless = pool("dns", "192.0.2.53:53/udp", behind("10.0.0.1:53"), forward=Forward.STATELESS)
    table = tables(stateless, BOOT)[IP]

    *before, last = table.chains["prerouting-raw"].rules
    assert "meta l4proto udp ip saddr vmap @helped" == last
    assert any(rule.endswith("notrack") for rule in before)
    assert "ct state untracked accept" == table.chains["expected/boot"].rules[0]
