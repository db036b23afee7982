"""What the compiled ruleset looks like, and what stays the same in it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pools import DNS, backend, backends, config, pool, sorry
from tracer import Packet, Tracer

from nftlb.compiler import BackendState, Compiled, Membership
from nftlb.model import Balance, Config, Forward, Per, Pool
from nftlb.ruleset import TableFamily, file_text

if TYPE_CHECKING:
    from nftlb.ruleset import Chain

IP = TableFamily.IP
ASK = Packet("198.51.100.7", 40000, "192.0.2.53", 53)
MIXED = config(
    DNS,
    pool("log", "192.0.2.54:514/udp", backends("10.0.0.21:514", "10.0.0.22:514"), forward=Forward.STATELESS),
    pool("flow", "[2001:db8::53]:443/udp", backends("2001:db8:2::1", "2001:db8:2::2"), per=Per.FLOW),
    pool("game", "192.0.2.55:27000-27100/udp", backends("10.0.0.31", "10.0.0.32"), forward=Forward.DSR),
    pool("hash", "192.0.2.56:53/udp", backends("10.0.0.41:53", "10.0.0.42:53"), balance=Balance.HASH),
)


def many(count: int) -> Config:
    """DNS, and so many pools beside it."""
    listen = [(f"192.0.2.53:{10000 + number}/udp", f"192.0.2.53:{10000 + number}/tcp") for number in range(count)]
    return config(*(pool(f"p{number}", both, DNS.backends) for number, both in enumerate(listen)), DNS)


def moments(pools: int, packet: Packet) -> int:
    return Tracer(Compiled(many(pools)).ruleset(), ("192.0.2.53",)).send(packet).moments


@pytest.mark.parametrize(
    "packet", [ASK, replace(ASK, protocol="tcp"), replace(ASK, dport=9)], ids=["udp", "tcp", "other"]
)
def test_a_packet_costs_the_same_among_many_pools(packet: Packet) -> None:
    """The number of look-ups and chains on a packet's way does not grow with the number of pools."""
    assert moments(0, packet) == moments(1, packet) == moments(200, packet)


def test_a_packet_of_nobody_costs_one_lookup() -> None:
    """What is no listener's is told apart by a single look-up in each raw chain."""
    table = Compiled(many(20)).ruleset().tables[IP]

    assert ("ip daddr . meta l4proto . th dport vmap @services",) == table.chains["prerouting-raw"].rules


def test_the_same_input_gives_the_same_bytes() -> None:
    """In fresh processes, with hash seeds that scramble every set and dictionary of strings."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", "import test_compiler as t; print(t.text_of_all(), end='')"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }

    assert {text_of_all()} == texts


def text_of_all() -> str:
    return file_text(Compiled(MIXED).ruleset(Membership.with_down([("dns", "b1"), ("game", "b2")])))


STATES = [
    Membership(),
    Membership.with_down([("dns", "b1")]),
    Membership.with_down([("dns", "b1"), ("dns", "b2"), ("game", "b1")]),
    Membership({"hash": frozenset({("b1", BackendState(weight=9))})}),
    Membership.with_down([("log", "b2")]),
    Membership.with_down([("dns", "b1")]),
    Membership(),
]


def test_what_was_asked_before_does_not_matter() -> None:
    """A compiled configuration gives, for each membership, what a fresh one gives."""
    compiled = Compiled(MIXED)

    for membership in STATES:
        assert file_text(Compiled(MIXED).ruleset(membership)) == file_text(compiled.ruleset(membership))


def test_membership_changes_only_the_pools_own_chains() -> None:
    """Sets, base chains and other pools' chains are the very same objects; a backend's own chain is, too."""
    compiled = Compiled(MIXED)
    before = compiled.ruleset().tables[IP]
    after = compiled.ruleset(Membership.with_down([("dns", "b1")])).tables[IP]
    differing = {name for name in before.chains.keys() | after.chains.keys() if _differ(before, after, name)}

    assert before.sets is after.sets
    assert {"pool/dns", "connect/dns"} == {"/".join(name.split("/")[:2]) for name in differing}


def _differ(before: object, after: object, name: str) -> bool:
    one, other = before.chains.get(name), after.chains.get(name)  # type: ignore[attr-defined]
    return one is not other


def _chains(of: Config, membership: Membership | None = None) -> list[Chain]:
    return [chain for table in Compiled(of).ruleset(membership).tables.values() for chain in table.chains.values()]


@pytest.mark.parametrize("membership", STATES[:3])
def test_rules_with_maps_stand_in_chains_named_after_them(membership: Membership) -> None:
    """A rule that holds a map is never replaced: its chain's name changes with it. Where it leads to stays."""
    for chain in _chains(MIXED, membership):
        mapped = any("map {" in rule for rule in chain.rules)

        assert not mapped or chain.name.rsplit("/", 1)[0] in {"pool/dns", "connect/dns"} | {
            f"{kind}/{name}" for kind in ("pool", "connect") for name in ("log", "flow", "game", "hash")
        }


def test_names_fit_the_kernel() -> None:
    """The longest names that a file may have make names and comments that the kernel takes: 255 and 127 bytes."""
    long = "x" * 48
    behind = tuple(backend(f"{number}{'y' * 46}", f"10.0.0.{number}:5353") for number in range(10, 30))
    listen = ("192.0.2.53:16384-16484/udp", "192.0.2.53:53/tcp")

    for chain in _chains(config(pool(long, listen, behind, fallback=sorry("10.0.0.99:1")))):
        assert len(chain.name) <= 127
        assert all(len(part) <= 127 for rule in chain.rules for part in rule.split('"')[1::2])


def test_entry_chains_say_in_words_who_is_in() -> None:
    """The comment is for people who read `nft list ruleset`."""
    weighted = replace(DNS, backends=(replace(DNS.backends[0], weight=3), DNS.backends[1]))

    assert "b1 x3, b2 x1" == _comment(config(weighted), Membership())
    assert "b2" == _comment(config(DNS), Membership.with_down([("dns", "b1")]))
    assert "no backend: reject" == _comment(config(DNS), Membership.with_down([("dns", "b1"), ("dns", "b2")]))


def _comment(of: Config, membership: Membership) -> str:
    return Compiled(of).ruleset(membership).tables[IP].chains["pool/dns"].rules[0].split('"')[1]


def test_weight_of_a_backend_that_is_alone_makes_no_map() -> None:
    """A single target is led to directly, whatever its weight."""
    alone = pool("one", "192.0.2.1:1/udp", (backend("b1", "10.0.0.1:1", weight=7),))

    assert not any("map {" in rule for chain in _chains(config(alone)) for rule in chain.rules)


def test_a_family_without_listeners_has_no_table() -> None:
    """Only what the file asks for is made."""
    assert {IP} == Compiled(config(DNS)).ruleset().tables.keys()


def test_no_pools_is_no_table() -> None:
    """An empty configuration is an empty ruleset."""
    assert {} == Compiled(Config()).ruleset().tables


def _pool_text(of: Pool) -> str:
    return "\n".join(rule for chain in _chains(config(of)) for rule in chain.rules)


@pytest.mark.parametrize("forward", [Forward.STATELESS, Forward.DSR])
def test_without_flows_or_zones_conntrack_is_left_alone(forward: Forward) -> None:
    """`stateless` and `dsr` make no conntrack entry: nothing speaks of zones, nothing translates."""
    text = _pool_text(replace(DNS, listen=DNS.listen[:1], forward=forward, backends=backends("10.0.0.1", "10.0.0.2")))

    assert "notrack" in text
    assert "zone" not in text
    assert "dnat" not in text


@pytest.mark.parametrize(
    "twice",
    [
        pool("a", "192.0.2.1:53/udp", backends("10.0.0.1:53", "10.0.0.1"), forward=Forward.STATELESS),
        pool("a", "192.0.2.1:53/udp", backends("10.0.0.1:9"), forward=Forward.STATELESS, fallback=sorry("10.0.0.1:9")),
        pool("a", "192.0.2.1:53/udp", backends("10.0.0.1:9"), per=Per.FLOW, fallback=sorry("10.0.0.1:9")),
    ],
    ids=["with and without its port", "as sorry server", "as sorry server for flows"],
)
def test_a_server_may_be_there_twice(twice: Pool) -> None:
    """Two names for one server are no two elements of one key, which no kernel would list."""
    for one in Compiled(config(twice)).ruleset().tables[IP].sets.values():
        keys = [element.key for element in one.elements]

        assert sorted(set(keys)) == sorted(keys)
