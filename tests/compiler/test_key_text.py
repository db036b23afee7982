"""The rules of `balance: hash` with a key, walked by the packet tracer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from packet_tracer import Packet, Tracer
from pool_builders import backends, config, pool, sorry

from nftlb.compiler import Compiled
from nftlb.config.reading import read_hash_key
from nftlb.model import Admin, BackendState, Balance, Forward, Membership, Pool
from nftlb.ruleset import TableFamily

VIP = "192.0.2.53"
THREE = backends("10.0.0.11", "10.0.0.12", "10.0.0.13", device="eth1")
IDS = tuple(replace(server, server_id=bytes([number])) for number, server in enumerate(THREE, 1))
ASK = Packet("198.51.100.7", 40000, VIP, 53)


def keyed(key: str, **options: Any) -> Pool:
    behind = options.pop("behind", THREE)
    return pool("dns", f"{VIP}:53/udp", behind, balance=Balance.HASH, key=read_hash_key(key), **options)


def rules(of: Pool, family: TableFamily = TableFamily.IP, membership: Membership | None = None) -> list[str]:
    """Return the rules that draw slots, without their comments and the names of maps."""
    table = Compiled(config(of)).ruleset(membership).tables[family]
    found = [rule for chain in table.chains.values() for rule in chain.rules]
    # The same rule is at two hooks if no chain of the pool is between.
    return list(dict.fromkeys(rule.partition(" vmap")[0] for rule in found if " vmap @pool/" in rule))


def test_a_pool_without_a_key_has_the_same_rules_as_before() -> None:
    """`key: source` and the default seed are the rules of the versions without keys."""
    assert rules(keyed("source")) == [
        f"ip daddr {VIP} ip protocol udp udp dport 53 jhash ip saddr mod 256 seed 0x6e66746c"
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("source/24", [f"ip daddr {VIP} ip protocol udp udp dport 53 jhash ip saddr & 255.255.255.0"]),
        ("source-port", ["jhash ip saddr . th sport"]),
        ("payload@0+3", ["jhash @th,64,24", "numgen inc mod 3"]),
        (
            "gtp-teid",
            [
                "@th,64,8 & 0xf0 == 0x30 @th,96,32 != 0 jhash @th,96,32",
                "@th,64,8 & 0xe8 == 0x48 @th,96,32 != 0 jhash @th,96,32",
                "numgen inc mod 3",
            ],
        ),
        (
            "netflow-source-id",
            [
                "@th,64,16 9 jhash ip saddr . @th,192,32",
                "@th,64,16 10 jhash ip saddr . @th,160,32",
                "@th,64,16 5 jhash ip saddr . @th,224,16",
                "numgen inc mod 3",
            ],
        ),
    ],
)
def test_the_rules_of_a_key(key: str, expected: list[str]) -> None:
    """A rule for each place of the key, and one for datagrams without the key."""
    assert expected == [rule.removesuffix(" mod 256 seed 0x7") for rule in rules(keyed(key, seed=7))]


@pytest.mark.parametrize("behind", [THREE, IDS], ids=["hash", "ids"])
def test_the_length_of_short_datagrams_is_compared_on_the_fast_path_only(behind: Any) -> None:
    """At the ingress hook a short frame of IPv4 still has its padding. Longer datagrams have none."""
    short = keyed("payload@10+8", forward=Forward.DSR, ingress=("eth0",))
    assert rules(short, TableFamily.NETDEV)[0].startswith("@th,32,16 >= 26 jhash")
    assert rules(short)[0].startswith("jhash")
    long = keyed("payload@11+8", forward=Forward.DSR, ingress=("eth0",))
    assert rules(long, TableFamily.NETDEV)[0].startswith("jhash")
    quic = keyed("quic-cid", forward=Forward.DSR, ingress=("eth0",), behind=behind)
    assert all("@th,32,16 >=" in rule or "numgen" in rule for rule in rules(quic, TableFamily.NETDEV))
    assert not any("@th,32,16" in rule for rule in rules(quic))


def sent(of: Pool, payloads: list[bytes], membership: Membership | None = None) -> list[str]:
    """Return the destination of each datagram, or its verdict if there is none."""
    compiled = Compiled(config(of))
    tracer = Tracer(
        compiled.ruleset(membership), (VIP, "10.0.0.1"), hash_of=lambda value, modulus: len(value) * 7 % modulus
    )
    journeys = [tracer.send(replace(ASK, payload=payload)) for payload in payloads]
    return [journey.packet.destination if journey.verdict == "forwarded" else journey.verdict for journey in journeys]


def test_turns_without_a_key_are_exact_by_weight() -> None:
    """Datagrams without a key take turns by weight, whatever the slots of the table."""
    behind = (replace(THREE[0], weight=3), replace(THREE[1], weight=2), THREE[2])
    found = sent(keyed("payload@0+8", behind=behind), [b"short"] * 60)
    assert Counter({"10.0.0.11": 30, "10.0.0.12": 20, "10.0.0.13": 10}) == Counter(found)


def id_of(number: int) -> bytes:
    """A packet with a short header for the backend with a server id."""
    return bytes([0x40, 0x08, number]) + bytes(8)


STATES = {
    "drain": BackendState(admin=Admin.DRAIN),
    "maintenance": BackendState(admin=Admin.MAINTENANCE),
    "down": BackendState(up=False),
    "weight 0": BackendState(weight=0),
}


@pytest.mark.parametrize(
    ("state", "keeps"), [("drain", True), ("weight 0", True), ("maintenance", False), ("down", False)]
)
def test_a_backend_keeps_its_connections_unless_it_is_gone(state: str, keeps: bool) -> None:
    """Packets with a server id reach a backend that gets no others; also if no backend gets any."""
    of = keyed("quic-cid", behind=IDS)
    one = Membership({"dns": frozenset({("b2", STATES[state])})})
    assert keeps is (sent(of, [id_of(2)], one) == ["10.0.0.12"])
    assert "10.0.0.12" not in sent(of, [b"", b"\x40", id_of(9), b"\xc0" + bytes(40)] * 8, one)
    every = Membership({"dns": frozenset((name, STATES[state]) for name in ("b1", "b2", "b3"))})
    expected = [f"10.0.0.1{number}" if keeps else "rejected" for number in (1, 2, 3)]
    assert [*expected, "rejected"] == sent(of, [id_of(1), id_of(2), id_of(3), id_of(4)], every)
    served = replace(of, fallback=sorry("10.0.0.99:53"))
    assert ["10.0.0.12" if keeps else "10.0.0.99", "10.0.0.99"] == sent(served, [id_of(2), id_of(4)], every)


def test_a_priority_that_stands_by_keeps_its_connections() -> None:
    """A connection stays where it is when another priority serves."""
    behind = (IDS[0], replace(IDS[1], priority=2), IDS[2])
    of = keyed("quic-cid", behind=behind)
    assert ["10.0.0.11", "10.0.0.12", "10.0.0.13"] == sent(of, [id_of(1), id_of(2), id_of(3)])
    assert "10.0.0.12" not in sent(of, [b"", b"\x40" + bytes(30)] * 9)


def test_the_config_id_is_compared() -> None:
    """A connection id of another configuration is hashed."""
    of = keyed("quic-cid", behind=IDS, quic_lb_config=6)
    assert ["10.0.0.12"] == sent(of, [bytes([0x40, 0xC8, 2]) + bytes(8)])
    assert 1 == len({*sent(of, [id_of(1)]), *sent(of, [id_of(2)])})
