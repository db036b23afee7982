"""The rules of `guard`: what stands before the turn of a packet, and which changes keep what the kernel knows."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pool_builders import DNS, config

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.model import Guard, Membership, SourceEntry
from nftlb.ruleset import TableFamily

if TYPE_CHECKING:
    from nftlb.ruleset import Table

IP, IP6, NETDEV = TableFamily.IP, TableFamily.IP6, TableFamily.NETDEV


def tables(
    guard: str, more: str = "", listen: str = "[192.0.2.53:53/udp, '[2001:db8::53]:53/udp']"
) -> dict[str, Table]:
    """The tables of a pool with this guard, by family."""
    text = f"""
pools:
  dns:
    listen: {listen}
    backends: {{a: {{address: 10.0.0.1, device: eth1}}, b: {{address: 'fd00::1', device: eth1}}}}
    {more}
    guard: {guard}
"""
    return {str(family): table for family, table in Compiled(parse_config(text)).ruleset().tables.items()}


def names(table: Table, what: str) -> list[str]:
    return [name for name in table.sets if name.startswith(f"guard/dns/{what}")]


def test_the_order_of_a_guard() -> None:
    """Clients are counted first; `allow` is before `deny`; both are before bans, and bans before the limit."""
    table = tables("{rate: 100/s, burst: 7, ban: 90s, clients: true, allow: 10.0.0.0/8, deny: 192.0.2.0/24}")["ip"]
    (allow,), (deny,), (sources,), (limits,) = (names(table, what) for what in ("allow", "deny", "sources", "limits"))

    assert (
        "update @guard/dns/clients { ip saddr timeout 3600s counter }",
        f"ip saddr @{allow} goto pool/dns",
        f"ip saddr @{deny} goto guarded/dns/denied",
        "ip saddr @guard/dns/banned goto guarded/dns/banned",
        f"update @{sources} {{ ip saddr timeout 10s }} goto limit/pool/dns",
        'jump shared/dns comment "no room for its source"',
        "goto pool/dns",
    ) == table.chains["guard/pool/dns"].rules
    assert ("limit rate over 100/second burst 7 packets goto guarded/dns/full",) == table.chains["shared/dns"].rules
    limit = "timeout 10s limit rate 100/second burst 7 packets"
    assert (
        f'update @{limits} {{ ip saddr {limit} }} goto pool/dns comment "within the limit of its source"',
        "add @guard/dns/banned { ip saddr timeout 90s } goto guarded/dns/rate",
        "goto guarded/dns/rate",
    ) == table.chains["limit/pool/dns"].rules
    assert (65536, 131072) == (table.sets[sources].size, table.sets[limits].size)
    assert all(table.sets[name].dynamic for name in (sources, limits, "guard/dns/banned"))


def test_a_guard_has_only_what_it_asks_for() -> None:
    """A list alone adds one look-up, also for a family that the list does not have; no guard adds nothing."""
    found = tables("{deny: 192.0.2.0/24}")
    (deny,) = names(found["ip"], "deny")

    assert (f"ip saddr @{deny} goto guarded/dns/denied", "goto pool/dns") == found["ip"].chains["guard/pool/dns"].rules
    assert ("goto pool/dns",) == found["ip6"].chains["guard/pool/dns"].rules
    assert not any("guard" in name for table in tables("null").values() for name in (*table.chains, *table.sets))


def test_connections_are_limited_by_their_first_packet() -> None:
    """In the chain of connections, later packets pass the limit, but not the lists."""
    listen = "[192.0.2.53:53/udp, 192.0.2.53:53/tcp, 192.0.2.53:53/sctp, '[2001:db8::53]:53/udp']"
    table = tables("{rate: 5/m, deny: 192.0.2.0/24}", listen=listen)["ip"]

    denied, tcp, sctp, *_ = table.chains["guard/flow/dns"].rules
    limit = table.chains["limit/flow/dns"].rules[0]
    assert denied.endswith("goto guarded/dns/denied")
    assert "meta l4proto tcp @th,104,8 & 0x12 != 0x2 goto flow/dns" == tcp
    assert "meta l4proto sctp @th,96,8 != 0x1 goto flow/dns" == sctp
    assert "limit rate 5/minute burst 5 packets } goto flow/dns" in limit
    assert not any("l4proto" in rule for rule in table.chains["guard/pool/dns"].rules)


def test_one_shared_limit_for_all_ways_into_a_pool() -> None:
    """Single packets, connections and each listener of a pool with copies share one limit for sources without room."""
    listen = "[192.0.2.53:53/udp, 192.0.2.53:54/udp, 192.0.2.53:53/tcp, '[2001:db8::53]:53/udp']"
    for more in ("", "source: keep\n    mirror: {archive: 10.0.0.9:9995}"):
        chains = tables("{rate: 5/m, shared_rate: 9/m}", more, listen)["ip"].chains
        guards = [chain.rules for name, chain in chains.items() if name.startswith("guard/")]
        assert len(guards) >= 2
        assert {'jump shared/dns comment "no room for its source"'} == {rules[-2] for rules in guards}
        assert ["shared/dns"] == [name for name, chain in chains.items() if "limit rate over" in "".join(chain.rules)]


def test_without_a_backend_the_fast_path_counts_nothing() -> None:
    """The ordinary chains then drop, reject or redirect all packets, behind their own guard."""
    text = "{pools: {dns: {listen: 192.0.2.53:53/udp, forward: dsr, ingress: [eth0], guard: {rate: 1/s}, "
    text += "backends: {a: {address: 10.0.0.1, device: eth1}}}}}"
    compiled = Compiled(parse_config(text))
    serving, none = (
        compiled.ruleset(Membership.with_down(down)).tables[NETDEV].chains for down in ((), (("dns", "a"),))
    )
    assert "goto guard/pool/dns/ip" in serving["ingress-eth0"].rules[0]
    assert "goto fast/dns/ip" in none["ingress-eth0"].rules[0]
    assert ("accept",) == none["fast/dns/ip"].rules


def test_prefixes_are_sources() -> None:
    """`per` gives the bits that count; a family without a length has addresses as sources."""
    found = tables("{rate: 1/s, ban: 5s, per: source/20}")

    assert "{ ip saddr & 255.255.240.0 timeout" in found["ip"].chains["limit/pool/dns"].rules[0]
    assert ["guard/dns/banned/20"] == names(found["ip"], "banned")
    assert "{ ip6 saddr timeout" in found["ip6"].chains["limit/pool/dns"].rules[0]
    assert "{ ip6 saddr & ffff:ffff:ffff:ff00:: timeout" in "".join(
        tables("{rate: 1/s, per: source/56}")["ip6"].chains["guard/pool/dns"].rules
    )


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        ("{rate: 1/s, ban: 5s}", "{rate: 2/s, ban: 9s, sources: 99}", {"banned"}),
        ("{rate: 1/s, ban: 5s}", "{rate: 1/s, ban: 9s, shared_rate: 7/s}", {"banned", "sources", "limits"}),
        ("{rate: 1/s, burst: 3}", "{rate: 1/s, burst: 4}", set()),
        ("{rate: 1/s, deny: 10.0.0.1}", "{rate: 1/s, deny: [10.0.0.1, 10.0.0.2]}", {"sources", "limits"}),
        ("{deny: [10.0.0.0/25, 10.0.0.128/25]}", "{deny: 10.0.0.0/24}", {"deny"}),
    ],
)
def test_which_sets_a_change_keeps(first: str, then: str, kept: set[str]) -> None:
    """A set of sources stays if its limit stays; bans always stay; a list has another name if its addresses change."""
    before, after = (set(tables(guard)["ip"].sets) for guard in (first, then))

    assert kept == {name.split("/")[2] for name in before & after if name.startswith("guard/")}


def test_a_source_keeps_its_place_until_its_burst_is_back() -> None:
    """A source that is forgotten gets a whole burst: so it is forgotten only when it would have that anyway."""
    table = tables("{rate: 10/m, burst: 100}")["ip"]

    assert "timeout 601s limit rate 10/minute burst 100 packets" in table.chains["limit/pool/dns"].rules[0]
    assert any("timeout 601s } goto limit/pool/dns" in rule for rule in table.chains["guard/pool/dns"].rules)


def test_only_packets_of_the_fast_path_meet_its_guard() -> None:
    """At the ingress hook, packets that the ordinary chains have to forward do not get to the guard."""
    table = tables("{rate: 1/s}", "forward: stateless\n    ingress: eth0")["netdev"]

    assert ("meta pkttype host goto guard/pool/dns/ip",) == table.chains["fast/dns/ip"].rules
    (rule,) = (rule for rule in table.chains["ingress-eth0"].rules if "goto fast/dns/ip " in rule)
    assert "@nh,48,32 & 0x3fff00ff == 0x00000011 @nh,64,32 & 0xfe000000 != 0x00000000 " in rule
    assert {"guard/dns/ip", "guard/dns/ip6"} == {name.rsplit("/", 2)[0] for name in names(table, "")}


def test_a_replaced_list_leaves_no_memory_behind() -> None:
    """Ten lists of 2,000 ranges, one after another, leave less than one of them, which has 0.4 MB."""

    def replaced(number: int) -> None:
        spans = tuple((first, first + 7) for first in range(number << 24, (number << 24) + 32_000, 16))
        Compiled(config(replace(DNS, guard=Guard(deny=(SourceEntry(ip=spans),))))).ruleset()

    replaced(9)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(10, 20):
            replaced(number)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 300_000
