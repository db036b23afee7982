# ruff: noqa: E101 - nft mixes tabs and blanks
"""The nft text of objects, and listings parsed to objects."""

from __future__ import annotations

import pytest
from nft_listing import parse_hook, parse_table

from nftlb.ruleset import (
    Chain,
    Count,
    Element,
    Elements,
    Hook,
    NamedObject,
    Operation,
    Rules,
    Ruleset,
    Set,
    Table,
    TableFamily,
    Verb,
    canonical_rule,
    file_text,
)
from nftlb.ruleset.text import table_lines

SERVICES = Set(
    "services",
    "type ipv4_addr . inet_proto . inet_service",
    "verdict",
    elements=(
        Element("192.0.2.53 . udp . 53", "goto pool/dns", "dns"),
        Element("192.0.2.53 . tcp . 53", "goto flow/dns"),
    ),
)
RANGES = Set("ranges", "type ipv4_addr . inet_service", interval=True, elements=(Element("192.0.2.53 . 16384-16484"),))
COUNTED = Set("counted", "typeof ct original zone", counter=True, elements=(Element("1", comment="dns/ns1"),))
TRANSLATED = Set(
    "translated", "typeof ct original zone", "ip daddr . th dport", elements=(Element("1", "10.0.0.11 . 5353"),)
)
BASE = Chain(
    "base",
    ("ip daddr . meta l4proto . th dport vmap @services",),
    Hook("filter", "prerouting", "raw"),
)
TURNS = Set(
    "turns",
    "typeof numgen inc mod 4",
    "verdict",
    elements=tuple(Element(f"{slot}", f"goto backend/dns/{slot % 2}-{'x' * 20}") for slot in range(4)),
    size=7,
)
POOL = Chain("pool/dns", ('goto pool/dns/v1 comment "ns1 x2, ns2 { }"', "counter drop"))
SETS, CHAINS = (
    (SERVICES, RANGES, COUNTED, TRANSLATED, TURNS, Set("bare", "type ipv4_addr")),
    (BASE, POOL, Chain("empty")),
)
TIMEOUT = NamedObject("ct timeout", "session-2s", ("protocol udp", "policy = { unreplied : 2, replied : 2 }"))
TABLE = Table(
    TableFamily.IP,
    "nftlb",
    {set_.name: set_ for set_ in SETS},
    {chain.name: chain for chain in CHAINS},
    {TIMEOUT.key: TIMEOUT},
)

FILE = """\
#!/usr/sbin/nft -f
# Compiled by nftlb. Load it with `nft -f`; `nftlb apply` loads it without a gap.

table ip nftlb
delete table ip nftlb
table ip6 nftlb
delete table ip6 nftlb
table netdev nftlb
delete table netdev nftlb

table ip nftlb {
	ct timeout session-2s {
		protocol udp
		policy = { unreplied : 2, replied : 2 }
	}

	map services {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 192.0.2.53 . udp . 53 comment "dns" : goto pool/dns,
			     192.0.2.53 . tcp . 53 : goto flow/dns }
	}

	set ranges {
		type ipv4_addr . inet_service
		flags interval
		elements = { 192.0.2.53 . 16384-16484 }
	}

	set counted {
		typeof ct original zone
		counter
		elements = { 1 comment "dns/ns1" }
	}

	map translated {
		typeof ct original zone : ip daddr . th dport
		elements = { 1 : 10.0.0.11 . 5353 }
	}

	map turns {
		typeof numgen inc mod 4 : verdict
		size 7
		elements = { 0 : goto backend/dns/0-xxxxxxxxxxxxxxxxxxxx, 1 : goto backend/dns/1-xxxxxxxxxxxxxxxxxxxx,
			     2 : goto backend/dns/0-xxxxxxxxxxxxxxxxxxxx, 3 : goto backend/dns/1-xxxxxxxxxxxxxxxxxxxx }
	}

	set bare {
		type ipv4_addr
	}

	chain base {
		type filter hook prerouting priority raw; policy accept;
		ip daddr . meta l4proto . th dport vmap @services
	}

	chain pool/dns {
		goto pool/dns/v1 comment "ns1 x2, ns2 { }"
		counter drop
	}

	chain empty {
	}
}
"""

# What nft 1.0.6 prints; it differs from the file in counts, in the flow of elements, and in set flags.
LISTED = """\
table ip nftlb { # handle 4
	map services { # handle 1
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 192.0.2.53 . udp . 53 comment "dns" : goto pool/dns,
			     192.0.2.53 . tcp . 53 : goto flow/dns }
	}

	set counted {
		typeof ct original zone
		counter
		elements = { 1 counter packets 7 bytes 700 comment "dns/ns1",
			     2 counter packets 1 bytes 30 comment "dns/ns1", 3 counter packets 9 bytes 9 }
	}

	counter mine {
		packets 0 bytes 0
	}

	chain base {
		type filter hook prerouting priority raw; policy accept;
		meta mark set 0x0000ea61 comment "10.0.0.11"
	}

	chain backend/dns/ns2 {
		counter packets 3 bytes 90 accept
	}
}
"""


def test_the_text_of_a_file_replaces_all_tables() -> None:
    """The text deletes all tables of the name, present or not, and writes the new tables as nft lists them."""
    assert FILE == file_text(Ruleset("nftlb", {TableFamily.IP: TABLE}))


def test_tables_stand_in_a_fixed_order() -> None:
    """The order does not depend on the mapping's."""
    tables = {family: Table(family, "nftlb") for family in reversed(TableFamily)}
    text = file_text(Ruleset("nftlb", tables))

    assert ["table ip nftlb {", "table ip6 nftlb {", "table netdev nftlb {"] == [
        line for line in text.splitlines() if line.endswith("{")
    ]


def test_text_reads_back_as_the_same_table() -> None:
    """A table that is written as text and parsed is equal."""
    assert TABLE == parse_table("\n".join(table_lines(TABLE))).table


def test_a_listing_reads_as_objects() -> None:
    """Handles and counts are not part of an object. An object that nftlb never makes is kept, so that it differs."""
    table = parse_table(LISTED).table

    assert (TableFamily.IP, "nftlb") == (table.family, table.name)
    assert SERVICES == table.sets["services"]
    assert (Element("1", "", "dns/ns1"), Element("2", "", "dns/ns1"), Element("3")) == table.sets["counted"].elements
    assert {"counter mine": NamedObject("counter", "mine")} == table.objects
    assert {"base", "backend/dns/ns2"} == table.chains.keys()


def test_a_host_that_knows_no_names_of_protocols() -> None:
    """Without /etc/protocols nft writes numbers; it is the same table, and ports and addresses stay as they are."""
    numbers = "\n".join(table_lines(TABLE)).replace(" . udp . ", " . 17 . ").replace(" . tcp . ", " . 6 . ")

    assert TABLE == parse_table(numbers).table
    assert ("1.2.3.4 . 17",) == tuple(
        element.key
        for element in parse_table(
            "table ip x { # handle 1\n\tset ranges {\n\t\ttype ipv4_addr . inet_service\n"
            "\t\telements = { 1.2.3.4 . 17 }\n\t}\n}"
        )
        .table.sets["ranges"]
        .elements
    )


def test_counts_go_by_comment_or_by_chain() -> None:
    """Elements with one comment add up. A rule counts for its chain. Elements without comment are left out."""
    assert {"dns/ns1": Count(8, 730), "backend/dns/ns2": Count(3, 90)} == parse_table(LISTED).counts


@pytest.mark.parametrize(
    ("listed", "compiled"),
    [
        ("counter packets 3 bytes 90 accept", "counter accept"),
        ("meta mark set 0x0000ea61", "meta mark set 0xea61"),
        ("ip frag-off & 0x3fff == 0x0 accept", "ip frag-off & 16383 == 0 accept"),
        ('fwd ip to 10.0.0.1 device "eth1"', "fwd ip to 10.0.0.1 device eth1"),
        ("meta l4proto 17 dnat to 10.0.0.1:17", "meta l4proto udp dnat to 10.0.0.1:17"),
        ("ip6 nexthdr 132 ct protocol 6 accept", "ip6 nexthdr sctp ct protocol tcp accept"),
    ],
)
def test_rules_that_only_look_different_are_the_same(listed: str, compiled: str) -> None:
    """Rules are equal if they differ only in counts, quotes and the base of numbers."""
    assert canonical_rule(compiled) == canonical_rule(listed)


@pytest.mark.parametrize(("first", "second"), [("counter drop", "drop"), ("ct mark set 0x1", "ct mark set 0x2")])
def test_rules_that_are_different_look_different(first: str, second: str) -> None:
    """Rules differ if only one has a counter, or if a number differs."""
    assert canonical_rule(first) != canonical_rule(second)


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (Hook("filter", "prerouting", "raw"), "type filter hook prerouting priority raw; policy accept;"),
        (Hook("nat", "output", "-100"), "type nat hook output priority -100; policy accept;"),
        (
            Hook("filter", "ingress", "filter", ("eth0",)),
            'type filter hook ingress device "eth0" priority filter; policy accept;',
        ),
        (
            Hook("filter", "ingress", "dstnat + 10", ("a", "b"), "drop"),
            'type filter hook ingress device "a" device "b" priority dstnat + 10; policy drop;',
        ),
    ],
)
def test_a_hook_has_one_text(hook: Hook, text: str) -> None:
    """The text of a hook is nft's line, and the parser makes the same value of the line."""
    assert text == str(hook)
    assert hook == parse_hook(text)


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (Hook("filter", "ingress", "filter", ("eth0",)), True),
        (Hook("filter", "prerouting", "raw"), True),
        (Hook("filter", "output", "raw"), True),
        (Hook("filter", "postrouting", "raw"), False),
        (Hook("nat", "prerouting", "dstnat"), False),
    ],
)
def test_packets_enter_at_ingress_and_at_raw(hook: Hook, *, expected: bool) -> None:
    """Packets pass the chain at postrouting later, also with the priority raw."""
    assert expected is hook.is_first


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (Operation(Verb.CREATE, TableFamily.IP), "create table ip t"),
        (Operation(Verb.ADD, TableFamily.IP6), "add table ip6 t"),
        (Operation(Verb.DELETE, TableFamily.IP), "delete table ip t"),
        (Operation(Verb.ADD, TableFamily.IP, BASE), f"add chain ip t base {{ {BASE.hook} }}"),
        (
            Operation(Verb.ADD, TableFamily.IP, TIMEOUT),
            "add ct timeout ip t session-2s { protocol udp; policy = { unreplied : 2, replied : 2 } ; }",
        ),
        (Operation(Verb.DELETE, TableFamily.IP, TIMEOUT), "delete ct timeout ip t session-2s"),
        (Operation(Verb.ADD, TableFamily.IP, POOL), "add chain ip t pool/dns"),
        (Operation(Verb.FLUSH, TableFamily.IP, BASE), "flush chain ip t base"),
        (Operation(Verb.DELETE, TableFamily.IP, BASE), "delete chain ip t base"),
        (
            Operation(Verb.ADD, TableFamily.IP, Rules("c", ("accept", "drop"))),
            "add rule ip t c accept\nadd rule ip t c drop",
        ),
        (
            Operation(Verb.ADD, TableFamily.IP, Set("s", "type mark", "verdict", interval=True)),
            "add map ip t s { type mark : verdict; flags interval ; }",
        ),
        (Operation(Verb.DELETE, TableFamily.IP, Set("s", "type mark")), "delete set ip t s"),
        (
            Operation(Verb.ADD, TableFamily.IP, Elements("s", (Element("1", "accept", "a"), Element("2")))),
            'add element ip t s { 1 comment "a" : accept, 2 }',
        ),
        (
            Operation(Verb.DELETE, TableFamily.IP, Elements("s", (Element("1", "accept", "a"), Element("2")))),
            "delete element ip t s { 1, 2 }",
        ),
    ],
)
def test_an_operation_is_a_verb_and_an_object(operation: Operation, text: str) -> None:
    """The text names the verb, the kind of the object, the table and the object, in nft's words."""
    assert text == operation.text("t")
