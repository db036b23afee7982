"""The form of the rules by which packets find their service: rules for few services, and a map for more."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from packet_tracer import Packet, Tracer
from pool_builders import backends, config, pool

from nftlb.compiler import Compiled
from nftlb.compiler.layout import MOST_DIRECT, Layout, choose
from nftlb.compiler.services import ServicePort, by_fields
from nftlb.compiler.versions import MOST_MAPS
from nftlb.config import parse_config
from nftlb.model import Backend, Config, Forward, Listener, Membership, Pool, Protocol
from nftlb.ruleset import Ruleset, TableFamily

IP = TableFamily.IP
VIP = "192.0.2.53"
ASK = Packet("198.51.100.7", 40000, VIP, 53)


def pools(number: int, *listen: str, forward: Forward = Forward.NAT) -> Config:
    behind = backends("10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353")
    others = (
        pool(f"p{index}", f"{VIP}:{1000 + index}/udp", backends(f"10.0.1.{index}:53"), forward=forward)
        for index in range(1, number)
    )
    return config(pool("dns", listen or f"{VIP}:53/udp", behind, forward=forward), *others)


def rules(of: Config, membership: Membership | None = None, chain: str = "prerouting-raw") -> tuple[str, ...]:
    return Compiled(of).ruleset(membership).tables[IP].chains[chain].rules


def services(*keys: tuple[int, int]) -> dict[str, ServicePort]:
    """Services by their keys; a pair is the number of the address and the port."""
    listeners = (Listener(ip_address("192.0.2.0") + number, port, port, Protocol.UDP) for number, port in keys)
    return {service.key: service for service in (by_fields(listener, "pool/dns", "dns") for listener in listeners)}


@pytest.mark.parametrize("number", [1, MOST_DIRECT])
def test_few_services_have_a_rule_each(number: int) -> None:
    """Up to the limit, packets pass one rule after the other."""
    found = services(*((1, address) for address in range(1, number + 1)))

    assert Layout("1 service" if number == 1 else "1 of 4 services", flat=(*found.values(),)) == choose(found)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("addresses", [1, MOST_DIRECT, MOST_DIRECT + 1, 1000])
def test_more_services_are_found_by_the_address(addresses: int, many: bool) -> None:
    """One service more, and each address leads to its services. Very many pools at many addresses share a look-up."""
    found = services(*((address, port) for address in range(1, addresses + 1) for port in range(1, MOST_DIRECT + 2)))

    layout = choose(found, many=many)

    if many and addresses > MOST_DIRECT:
        assert Layout("very many pools: one look-up for all", looked_up=(*found.values(),)) == layout
    else:
        assert [MOST_DIRECT + 1] * addresses == [
            len(services_of_address) for services_of_address in layout.addresses.values()
        ]
        assert (*found.values(),) == layout.in_maps
        assert ("over 4 services, up to 4 addresses" if addresses <= MOST_DIRECT else "over 4 addresses") == layout.why


def test_aliases_come_last() -> None:
    """Packets for aliases are rare, and do not raise the cost of the services of clients."""
    found = rules(pools(2, forward=Forward.STATELESS))

    assert ["pool/dns", "pool/p1", "own-answers", "own-answers"] == [
        next(
            chain
            for chain in ("pool/dns", "pool/p1", "own-answers")
            if chain in rule or f"backend/{chain[5:]}/" in rule
        )
        for rule in found[:4]
    ]


def test_the_rule_of_a_service_draws_the_slot() -> None:
    """A packet passes no chain between the rule of its service and the chain of its backend."""
    (rule,) = rules(pools(1))
    assert rule.startswith(f"ip daddr {VIP} ip protocol udp udp dport 53 numgen inc mod 3 vmap @pool/dns/")
    assert rule.endswith(' comment "1 service; b1, b2, b3"')


def test_the_reason_is_in_the_output() -> None:
    """The comments say why the rules have this form: at the address, and in its chain."""
    assert rules(pools(5)) == (f'ip daddr {VIP} jump address/{VIP} comment "over 4 services, up to 4 addresses"',)
    assert rules(pools(5), chain=f"address/{VIP}") == (
        'ip daddr . ip protocol . th dport vmap @services comment "over 4 services at the address"',
    )


def test_a_change_of_membership_changes_the_rule_of_the_service() -> None:
    """With one backend, the rule leads to this backend; with none, to the chain that refuses."""
    compiled = Compiled(pools(1))
    three = compiled.ruleset()
    ruleset = compiled.ruleset(Membership.with_down([("dns", "b1"), ("dns", "b2")]))
    none = compiled.ruleset(Membership.with_down([("dns", "b1"), ("dns", "b2"), ("dns", "b3")]))

    assert "goto backend/dns/b3 comment" in first(ruleset)
    assert 'goto pool/dns comment "1 service; dns"' in first(none)
    assert "numgen inc mod 3" in first(three)
    assert three == compiled.ruleset()


def first(ruleset: Ruleset) -> str:
    return ruleset.tables[IP].chains["prerouting-raw"].rules[0]


def on_addresses(number: int, *more: Pool) -> Config:
    """Many pools with one service each, at port 53 of separate addresses, from 192.0.2.1 on."""
    behind = backends("10.0.0.11:5353", "10.0.0.12:5353")
    return config(
        *(pool(f"p{index}", f"{ip_address('192.0.2.0') + index}:53/udp", behind) for index in range(1, number + 1)),
        *more,
    )


def test_many_addresses_with_one_service_each() -> None:
    """The address leads to the chain of the pool, which compares protocol and port; other ports are left alone."""
    compiled = Compiled(on_addresses(9))
    (rule,) = compiled.ruleset().tables[IP].chains["prerouting-raw"].rules
    assert rule == 'ip daddr vmap @addresses comment "over 4 addresses"'
    ask = replace(ASK, destination="192.0.2.7")
    host = Tracer(compiled.ruleset(), ("192.0.2.7",))

    assert ["10.0.0.11", "10.0.0.12"] == [host.send(ask).packet.destination for _ in range(2)]
    for packet in (replace(ask, dport=54), replace(ask, protocol="tcp")):
        assert ("local", 0) == (host.send(packet).verdict, host.send(packet).zone)

    host.load(compiled.ruleset(Membership.with_down([("p7", "b1"), ("p7", "b2")])))
    assert "rejected" == host.send(ask).verdict
    assert "local" == host.send(replace(ask, dport=54)).verdict


def test_a_range_at_the_address_of_another_service() -> None:
    """A packet for another port of the address goes on to the ranges."""
    ranged = pool("more", "192.0.2.7:100-200/udp", backends("10.0.0.13"))
    host = Tracer(Compiled(on_addresses(9, ranged)).ruleset(), ("192.0.2.7",))

    assert "10.0.0.13" == host.send(replace(ASK, destination="192.0.2.7", dport=150)).packet.destination
    assert "10.0.0.11" == host.send(replace(ASK, destination="192.0.2.7")).packet.destination


@pytest.mark.parametrize(
    ("listen", "forward", "expected"),
    [
        ("192.0.2.1:54/udp", Forward.NAT, ["udp dport 53 numgen", "udp dport 54 numgen"]),
        ("192.0.2.1:53/tcp", Forward.NAT, ["udp dport 53 numgen", "tcp dport 53 goto flow/more"]),
        ("192.0.2.1:54-60/udp", Forward.NAT, ["udp dport 53 numgen", "udp dport 54-60 numgen"]),
        (
            "192.0.2.1:54/udp",
            Forward.STATELESS,
            ["udp dport 53 goto pool/p1", "udp dport 54 goto pool/more", "udp dport 61054 goto own-answers"],
        ),
    ],
    ids=["another port", "connections", "a range", "an alias"],
)
def test_several_services_at_an_address(listen: str, forward: Forward, expected: list[str]) -> None:
    """The chain of the address has a rule for each service, and the other addresses have no more rules than before."""
    of = on_addresses(9, pool("more", listen, backends("10.0.0.13:53", "10.0.0.14:53"), forward=forward))
    expected = [rule.replace("numgen", "goto pool/more" if "54" in rule else "goto pool/p1") for rule in expected]
    if "tcp" in listen:  # the other service needs no chain that draws slots: the pool's only rule draws them
        expected[0] = "udp dport 53 numgen inc mod 2 vmap @pool/p1/"

    assert 'ip daddr vmap @addresses comment "over 4 addresses"' == rules(of)[0]
    found = [rule.removeprefix("ip protocol udp ").removeprefix("ip protocol tcp ") for rule in at("192.0.2.1", of)]
    assert [True] * len(expected) == [rule.startswith(begin) for rule, begin in zip(found, expected, strict=True)]
    assert 1 == len(at("192.0.2.2", of))


def at(address: str, of: Config) -> tuple[str, ...]:
    return rules(of, chain=f"address/{address}")


@pytest.mark.parametrize("forward", [Forward.NAT, Forward.STATELESS])
def test_many_services_and_ranges_at_one_of_many_addresses(forward: Forward) -> None:
    """The chain of the address looks ports and ranges up; packets reach their pools, and other ports reach none."""
    crowd = [
        pool(f"q{port}", f"192.0.2.1:{port}/udp", backends(f"10.0.1.{port}:53"), forward=forward)
        for port in range(60, 70)
    ]
    ranged = pool("range", "192.0.2.1:5000-5200/udp", backends("10.0.2.1"), forward=forward)
    of = on_addresses(9, *crowd, ranged)
    compiled = Compiled(of)
    host = Tracer(compiled.ruleset(), ("192.0.2.1",))

    key = "ip daddr . ip protocol . th dport vmap"
    assert [f"{key} @services", f"{key} @service-ranges"] == [
        rule.partition(" comment")[0] for rule in at("192.0.2.1", of)
    ]
    for port, backend in (*((port, f"10.0.1.{port}") for port in range(60, 70)), (5100, "10.0.2.1")):
        asked = replace(ASK, destination="192.0.2.1", dport=port)
        assert backend == host.send(asked).packet.destination
        assert "192.0.2.1" == host.send(replace(asked, protocol="tcp")).packet.destination
    assert "local" == host.send(replace(ASK, destination="192.0.2.1", dport=70)).verdict


def test_very_many_pools_have_no_chains_of_addresses() -> None:
    """A chain for each of many thousand addresses would make loads slow: one look-up finds all services."""
    tables = Compiled(on_addresses(MOST_MAPS + 1)).ruleset().tables[IP]

    assert ('ip daddr . ip protocol . th dport vmap @services comment "very many pools: one look-up for all"',) == (
        tables.chains["prerouting-raw"].rules
    )
    assert not any(name.startswith("address/") for name in tables.chains)


def test_a_pool_at_two_addresses_shares_its_turns() -> None:
    """The chains of both addresses lead to the chain of the pool, which draws the slots."""
    both = pool("both", ("192.0.2.101:53/udp", "192.0.2.102:53/udp"), backends("10.0.0.13:53", "10.0.0.14:53"))
    host = Tracer(Compiled(on_addresses(9, both)).ruleset(), ("192.0.2.101", "192.0.2.102"))

    sent = [host.send(replace(ASK, destination=f"192.0.2.10{last}")).packet.destination for last in (1, 2, 1, 2)]

    assert ["10.0.0.13", "10.0.0.14"] * 2 == sent


BEHIND = backends("10.0.0.11", "10.0.0.12", device="eth1")
BEHIND_6 = backends("2001:db8:1::1", "2001:db8:1::2", device="eth1")


def ingress(
    number: int,
    address: str = "192.0.2.{0}",
    behind: tuple[Backend, ...] = BEHIND,
    interfaces: tuple[str, ...] = ("eth0",),
    more: tuple[Pool, ...] = (),
) -> Compiled:
    """Many DSR pools of one service each, with the fast path on these interfaces, and more pools."""
    every = (
        pool(f"p{index}", f"{address.format(index)}:{1000 + index}/udp", behind, forward=Forward.DSR)
        for index in range(1, number + 1)
    )
    return Compiled(config(*(replace(dsr_pool, ingress=interfaces) for dsr_pool in every), *more))


def ingress_rule(compiled: Compiled) -> str:
    (rule,) = compiled.ruleset().tables[TableFamily.NETDEV].chains["ingress-eth0"].rules
    return rule


def test_the_comment_explains_compared_words() -> None:
    """At the ingress hook, the rule of a service compares words, and its comment has the fields."""
    rule = ingress_rule(ingress(1))
    assert rule.startswith("@nh,128,32 0xc0000201 @nh,48,32 & 0x3fff00ff == 0x00000011 @nh,64,32 & 0xfe000000 != 0x0")
    assert rule.endswith('"1 service; ip daddr 192.0.2.1 udp dport 1001, ip ttl > 1, no fragment; b1, b2"')


def test_many_services_with_separate_addresses_are_found_by_the_address() -> None:
    """The key has four bytes, and the chain of a pool compares the rest; packets reach their pools."""
    compiled = ingress(9)
    assert ingress_rule(compiled).startswith("@nh,128,32 vmap @addresses-ip-eth0 comment")
    host = Tracer(compiled.ruleset(), ("192.0.2.3",), routed_marks=frozenset(compiled.allocation.marks.values()))
    ask = replace(ASK, destination="192.0.2.3", dport=1003)

    assert ["10.0.0.11", "10.0.0.12", "10.0.0.11"] == [host.send(ask).via for _ in range(3)]
    others = (replace(ask, dport=1004), replace(ask, protocol="tcp"), replace(ask, destination="198.51.100.1"))
    assert {""} == {host.send(packet).via for packet in others}
    assert {""} == {host.send(odd).via for odd in (replace(ask, ttl=1), replace(ask, fragment="first"))}


def test_many_services_at_one_address_of_the_fast_path() -> None:
    """A rule compares the address, which costs other packets less than a look-up; the chain looks the port up."""
    compiled = ingress(9, "192.0.2.53")
    assert ingress_rule(compiled).startswith("@nh,128,32 0xc0000235 jump address/192.0.2.53-ip-eth0 comment")
    host = Tracer(compiled.ruleset(), (VIP,), routed_marks=frozenset(compiled.allocation.marks.values()))

    assert ["10.0.0.11", "10.0.0.12"] == [host.send(replace(ASK, dport=1003)).via for _ in range(2)]
    assert "" == host.send(replace(ASK, dport=1003, ttl=1)).via


@pytest.mark.parametrize(
    "options",
    ["guard: null", "guard: {rate: 9/s}", "hairpin: true", "templates: all", "balance: hash, key: payload@4+8"],
)
@pytest.mark.parametrize(
    ("services", "comparing"),
    [
        (["192.0.2.53:53"], ["ingress-eth0"]),
        (["192.0.2.53:53", "192.0.2.53:54"], ["ingress-eth0"]),
        ([f"192.0.2.{at}:{at}" for at in range(1, 8)], [f"address/192.0.2.{at}" for at in range(1, 8)]),
        ([f"192.0.2.53:{port}" for port in range(1, 8)], ["first"]),
        (["192.0.2.54:53", *(f"192.0.2.53:{port}" for port in range(1, 8))], ["address/192.0.2.54", "first"]),
    ],
    ids=["one", "two", "addresses", "look-up", "both"],
)
def test_only_one_rule_compares_what_the_fast_path_needs(
    options: str, services: list[str], comparing: list[str]
) -> None:
    """The rule of a service does so; if a map leads to the pool, the first chain of the pool does so."""
    listen = [f"{service}/udp" for service in services]
    text = f"{{pools: {{dns: {{listen: {listen}, forward: stateless, ingress: eth0, {options}, "
    text += "backends: {a: {address: 10.0.0.1, device: eth1}, b: {address: 10.0.0.2, device: eth1}}}}}"
    first = "fast/dns/ip" if "rate" in options else "pool/dns/ip"
    chains = Compiled(parse_config(text, "test.yaml")).ruleset().tables[TableFamily.NETDEV].chains.values()

    found = [chain.name.removesuffix("-ip-eth0") for chain in chains if "0x3fff00ff" in "".join(chain.rules)]
    assert sorted(first if name == "first" else name for name in comparing) == sorted(found)


def test_addresses_of_ipv6_on_the_fast_path() -> None:
    """The key has the 16 bytes of the address, without a comparison of the type of the frame before."""
    compiled = ingress(9, "[2001:db8::{0}]", behind=BEHIND_6)
    assert ingress_rule(compiled).startswith("@nh,192,128 vmap @addresses-ip6-eth0 comment")
    host = Tracer(compiled.ruleset(), ("2001:db8::3",), routed_marks=frozenset(compiled.allocation.marks.values()))
    ask = Packet("2001:db8:9::1", 40000, "2001:db8::3", 1003)

    assert ["2001:db8:1::1", "2001:db8:1::2"] == [host.send(ask).via for _ in range(2)]
    others = (replace(ask, dport=1004), replace(ask, destination="2001:db8:9::9"), replace(ask, ttl=1))
    assert {""} == {host.send(packet).via for packet in (*others, replace(ask, extended=True))}


def test_interfaces_share_the_chains_of_addresses() -> None:
    """Packets of both interfaces take turns in one rule. A service of only one interface has a separate chain."""
    chains = ingress(9, interfaces=("eth0", "eth2")).ruleset().tables[TableFamily.NETDEV].chains
    assert 9 == sum(name.startswith("address/") for name in chains)
    assert "numgen inc mod 2" in chains["address/192.0.2.1"].rules[0]

    more = replace(pool("more", "192.0.2.1:9/udp", BEHIND, forward=Forward.DSR), ingress=("eth2",))
    chains = ingress(9, interfaces=("eth0", "eth2"), more=(more,)).ruleset().tables[TableFamily.NETDEV].chains
    assert [1, 2] == [len(chains[f"address/192.0.2.1-ip-{interface}"].rules) for interface in ("eth0", "eth2")]
    assert 10 == sum(name.startswith("address/") for name in chains)


def test_two_families_on_an_interface_of_the_fast_path() -> None:
    """The look-up of IPv6 addresses has a type, so that IPv4 packets fail a comparison."""
    more = (
        replace(pool(f"six{index}", f"[2001:db8::{index}]:53/udp", BEHIND_6, forward=Forward.DSR), ingress=("eth0",))
        for index in range(1, 6)
    )
    found = ingress(9, more=tuple(more)).ruleset().tables[TableFamily.NETDEV].chains["ingress-eth0"].rules

    assert ["@nh,128,32 vmap @addresses-ip-eth0", "ip6 daddr vmap @addresses-ip6-eth0"] == [
        rule.partition(" comment")[0] for rule in found
    ]


def test_the_map_of_addresses_is_seldom_replaced() -> None:
    """A set can't change its size. So there is room for as many addresses again."""
    sizes = {
        ingress(number).ruleset().tables[TableFamily.NETDEV].sets["addresses-ip-eth0"].size for number in range(8, 16)
    }
    assert {32} == sizes


def test_listeners_of_a_pool_share_its_turns() -> None:
    """A pool with two listeners keeps a separate chain, in which packets of both take turns."""
    host = Tracer(Compiled(pools(1, f"{VIP}:53/udp", f"{VIP}:54/udp")).ruleset(), (VIP,))

    sent = [host.send(replace(ASK, dport=port)).packet.destination for port in (53, 54, 53)]

    assert ["10.0.0.11", "10.0.0.12", "10.0.0.13"] == sent


def test_a_range_shares_the_turns_of_its_pool() -> None:
    """A pool with a port and a range has one order of turns for both."""
    host = Tracer(Compiled(pools(1, f"{VIP}:53/udp", f"{VIP}:5000-5010/udp")).ruleset(), (VIP,))

    sent = [host.send(replace(ASK, dport=port)).packet.destination for port in (53, 5000, 53, 5010, 53)]

    assert ["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.11", "10.0.0.12"] == sent


@pytest.mark.parametrize("number", [1, 2, MOST_DIRECT, MOST_DIRECT + 1])
def test_a_base_chain_draws_for_one_pool_only(number: int) -> None:
    """A swap of a pool replaces no rule that draws slots of another pool, whose turns would begin again."""
    compiled = Compiled(pools(number))
    drawn = [rule for rule in compiled.ruleset().tables[IP].chains["prerouting-raw"].rules if "numgen" in rule]

    assert (1 if number == 1 else 0) == len(drawn)


def test_the_form_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of the rules is chosen as often for many pools as for few: each choice looks at all services."""
    chosen = []

    def counted(services: Any, **options: Any) -> Layout:
        chosen.append(services)
        return choose(services, **options)

    monkeypatch.setattr("nftlb.compiler.tables.choose", counted)
    numbers = []
    for number in (10, 200):
        chosen.clear()
        compiled = Compiled(on_addresses(number))
        for _ in range(10):
            compiled.ruleset(Membership.with_down([("p1", "b1")]))
            compiled.ruleset()
        numbers.append(len(chosen))

    assert numbers[0] == numbers[1]


def test_clients_on_the_host_find_the_pool_by_the_same_rules() -> None:
    """Packets of the host itself take turns too. A pool needs no separate chain if both hooks draw its slots."""
    compiled = Compiled(pools(1))

    assert rules(pools(1)) == rules(pools(1), chain="output-raw")
    assert "pool/dns" not in compiled.ruleset().tables[IP].chains
    assert (
        "pool/dns"
        in compiled.ruleset(Membership.with_down([("dns", f"b{index}") for index in (1, 2, 3)])).tables[IP].chains
    )


def test_clients_on_the_host_beside_stateless_pools() -> None:
    """Only `nat` pools can serve the host itself, so its packets have separate rules and maps."""
    more = pool("more", "192.0.2.99:53/udp", backends("10.0.0.13:53", "10.0.0.14:53"), forward=Forward.STATELESS)
    of = on_addresses(9, more)

    assert ('ip daddr vmap @local-addresses comment "over 4 addresses"',) == rules(of, chain="output-raw")
    assert 9 == sum(name.startswith("local-address/") for name in Compiled(of).ruleset().tables[IP].chains)
    assert rules(of, chain="address/192.0.2.1") == rules(of, chain="local-address/192.0.2.1")


def test_a_service_that_comes_or_goes_leaves_the_other_rules() -> None:
    """The base chain stays, and so do the chains of other addresses."""
    before, after = (Compiled(on_addresses(number)).ruleset().tables[IP].chains for number in (9, 10))

    assert dict(before) == {name: after[name] for name in before}
    assert {"address/192.0.2.10", "backend/p10/b1", "backend/p10/b2"} == after.keys() - before.keys()


@pytest.mark.parametrize("ip6", [False, True], ids=["ip", "ip6"])
@pytest.mark.parametrize(
    "options",
    [
        "forward: nat",
        "forward: nat, source: keep",
        "forward: nat, outbound: true",
        "forward: nat, per: flow",
        "forward: nat, count_replies: true",
        "forward: nat, guard: {{rate: 9/s}}",
        "forward: nat, mirror: {{x: {mirror}}}",
        "forward: nat, balance: hash",
        "forward: stateless, hairpin: true",
        "forward: nat, source: keep, templates: all",
        "forward: nat, source: {balancer}",
        "forward: nat, per: flow, session_timeout: 9s",
        "forward: nat, per: flow, balance: hash, key: source/24/56",
        "forward: stateless",
        "forward: stateless, replies: prerouting",
        "forward: stateless, ingress: eth0",
        "forward: stateless, outbound: true",
        "forward: stateless, count_replies: true",
        "forward: stateless, guard: {{rate: 9/s}}",
        "forward: stateless, mirror: {{x: {mirror}}}",
        "forward: stateless, ingress: eth0, guard: {{rate: 9/s}}",
        "forward: stateless, templates: all",
        "forward: dsr",
        "forward: dsr, ingress: eth0",
        "forward: dsr, encap: ipip",
        "forward: dsr, mirror: {{x: {mirror}}}",
        "forward: dsr, encap: ipip, ingress: eth0",
        "forward: dsr, guard: {{rate: 9/s}}",
        "forward: dsr, templates: all",
    ],
)
def test_base_chains_do_not_grow_with_pools(options: str, *, ip6: bool) -> None:
    """Packets of others, and packets that this host sends, meet as many rules with 80 pools as with 40."""
    mirror, balancer = ("'[2001:db8::9]:9'", "'2001:db8::8'") if ip6 else ("'203.0.113.9:9'", "203.0.113.8")
    options = options.format(mirror=mirror, balancer=balancer)
    found = []
    for count in (40, 80):
        lines = []
        for n in range(1, count + 1):
            service, backend = (f"[2001:db8:1::{n}]", f"2001:db8:2::{n}") if ip6 else (f"192.0.2.{n}", f"10.0.0.{n}")
            port = "" if "dsr" in options else ", port: 53"
            device = ", device: eth1" if "ingress" in options and "encap" not in options else ""
            behind = f"backends: {{a: {{address: '{backend}'{port}{device}}}}}"
            lines.append(f"  p{n}: {{listen: '{service}:53/udp', {behind}, {options}}}")
        tables = Compiled(parse_config("\n".join(["pools:", *lines]), "test.yaml")).ruleset().tables
        chains = [(family, chain) for family, table in tables.items() for chain in table.chains.values()]
        found.append({(family, chain.name): len(chain.rules) for family, chain in chains if chain.hook})
    assert found[0] == found[1]
