"""The form of a compiled ruleset, and which objects stay the same."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packet_tracer import Packet, Tracer
from pool_builders import DNS, backend, backends, config, pool, sorry

from nftlb.compiler import Compiled
from nftlb.model import BackendState, Balance, Config, Forward, Membership, Per, Pool
from nftlb.ruleset import TableFamily, file_text

if TYPE_CHECKING:
    from collections.abc import Mapping

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


HERE = Path(__file__).parent


def many(count: int) -> Config:
    """Return a configuration with DNS and this number of other pools."""
    listen = [(f"192.0.2.53:{10000 + number}/udp", f"192.0.2.53:{10000 + number}/tcp") for number in range(count)]
    return config(*(pool(f"p{number}", both, DNS.backends) for number, both in enumerate(listen)), DNS)


def moments(pools: int, packet: Packet) -> int:
    return Tracer(Compiled(many(pools)).ruleset(), ("192.0.2.53",)).send(packet).moments


@pytest.mark.parametrize(
    "packet", [ASK, replace(ASK, protocol="tcp"), replace(ASK, dport=9)], ids=["udp", "tcp", "other"]
)
def test_a_packet_costs_the_same_among_many_pools(packet: Packet) -> None:
    """The number of look-ups and chains that a packet passes does not grow with the number of pools.

    Few services have their own rules, so that a packet passes one look-up less.
    """
    assert moments(0, packet) + 1 == moments(5, packet) == moments(200, packet)


def test_a_packet_to_no_listener_costs_one_lookup() -> None:
    """A packet that goes to no listener costs one comparison or one look-up in each raw chain."""
    (rule,) = Compiled(many(20)).ruleset().tables[IP].chains["prerouting-raw"].rules

    assert rule.startswith("ip daddr 192.0.2.53 jump address/192.0.2.53 comment")


def test_the_same_input_gives_the_same_bytes() -> None:
    """Each process has another hash seed, which changes the order of every set of strings."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent / "support")))
    texts = {
        subprocess.run(
            [sys.executable, "-c", "import test_compiler as t; print(t.text_of_all(), end='')"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            cwd=here.parents[1],
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


def test_the_ruleset_does_not_depend_on_earlier_memberships() -> None:
    """A compiled configuration gives the same ruleset for a membership as a new compilation does."""
    compiled = Compiled(MIXED)

    for membership in STATES:
        assert file_text(Compiled(MIXED).ruleset(membership)) == file_text(compiled.ruleset(membership))


def test_membership_changes_only_the_pools_own_chains() -> None:
    """All other sets, base chains, chains of other pools and chains of backends are the same objects as before."""
    compiled = Compiled(MIXED)
    before = compiled.ruleset().tables[IP]
    after = compiled.ruleset(Membership.with_down([("dns", "b1")])).tables[IP]

    assert {"address/192.0.2.53", "pool/dns", "connect/dns"} == _differing(before.chains, after.chains)
    assert {"pool/dns", "connect/dns"} == {name.rpartition("/")[0] for name in _differing(before.sets, after.sets)}


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}


def _chains(of: Config, membership: Membership | None = None) -> list[Chain]:
    return [chain for table in Compiled(of).ruleset(membership).tables.values() for chain in table.chains.values()]


@pytest.mark.parametrize("membership", STATES[:3])
def test_no_rule_has_an_anonymous_map(membership: Membership) -> None:
    """The elements of a map inside a rule are gone when the rule is replaced; a named map stays while it is needed."""
    assert [] == [rule for chain in _chains(MIXED, membership) for rule in chain.rules if "map {" in rule]


def test_a_map_is_found_in_every_version_of_nft() -> None:
    """Each slot is in the map under two keys, with the same target, because nft 1.1.7 swaps the bytes of keys."""
    maps = [map_ for map_ in Compiled(MIXED).ruleset().tables[IP].sets.values() if "numgen" in map_.key_type]
    assert maps
    for map_ in maps:
        found = {int(element.key): element.data for element in map_.elements}
        slots = int(map_.key_type.split()[-1])
        assert range(slots) == range(sum(key < slots for key in found))
        assert found == {int.from_bytes(key.to_bytes(4, "little"), "big"): data for key, data in found.items()}
        assert map_.size == len(found)


def test_names_fit_the_kernel() -> None:
    """The longest names that a file may have make names and comments that the kernel takes: 255 and 127 bytes."""
    long = "x" * 48
    behind = tuple(backend(f"{number}{'y' * 46}", f"10.0.0.{number}:5353") for number in range(10, 30))
    listen = ("192.0.2.53:16384-16484/udp", "192.0.2.53:53/tcp")

    for chain in _chains(config(pool(long, listen, behind, fallback=sorry("10.0.0.99:1")))):
        assert len(chain.name) <= 127
        assert all(len(part) <= 127 for rule in chain.rules for part in rule.split('"')[1::2])


def test_entry_chains_name_the_backends_in_rotation() -> None:
    """The comment of the entry chain's rule names the backends in rotation, for readers of `nft list ruleset`."""
    weighted = replace(DNS, backends=(replace(DNS.backends[0], weight=3), DNS.backends[1]))

    assert "b1 x3, b2 x1" == _comment(config(weighted), Membership())
    assert "b2" == _comment(config(DNS), Membership.with_down([("dns", "b1")]))
    assert "no backend: reject" == _comment(config(DNS), Membership.with_down([("dns", "b1"), ("dns", "b2")]))


def _comment(of: Config, membership: Membership) -> str:
    chains = Compiled(of).ruleset(membership).tables[IP].chains
    chain = chains.get("pool/dns", chains["prerouting-raw"])
    return chain.rules[0].split('"')[1].removeprefix("1 of 2 services; ")


def test_weight_of_a_backend_that_is_alone_makes_no_map() -> None:
    """The version chain goes directly to a single target, whatever its weight."""
    alone = pool("one", "192.0.2.1:1/udp", (backend("b1", "10.0.0.1:1", weight=7),))

    assert not any("map {" in rule for chain in _chains(config(alone)) for rule in chain.rules)


def test_a_family_without_listeners_has_no_table() -> None:
    """A table is made only for a family in which some pool listens."""
    assert {IP} == Compiled(config(DNS)).ruleset().tables.keys()


def test_without_pools_there_is_no_table() -> None:
    """An empty configuration is an empty ruleset."""
    assert {} == Compiled(Config()).ruleset().tables


def _pool_text(of: Pool) -> str:
    return "\n".join(rule for chain in _chains(config(of)) for rule in chain.rules)


@pytest.mark.parametrize("forward", [Forward.STATELESS, Forward.DSR])
def test_without_flows_or_zones_conntrack_is_left_alone(forward: Forward) -> None:
    """`stateless` and `dsr` make no conntrack entries: no rule uses zones or translates."""
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
    """Two names for one server give one element, because the kernel has no two elements with one key."""
    for found in Compiled(config(twice)).ruleset().tables[IP].sets.values():
        keys = [element.key for element in found.elements]

        assert sorted(set(keys)) == sorted(keys)
