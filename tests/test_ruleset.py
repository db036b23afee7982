# ruff: noqa: E101 - nft mixes tabs and blanks
"""Objects to nft text, and back from a listing."""

from __future__ import annotations

import pytest

from nftlb.ruleset import (
    Chain,
    Count,
    Element,
    Ruleset,
    Set,
    Table,
    TableFamily,
    canonical_rule,
    file_text,
    parse_table,
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
    "type filter hook prerouting priority raw; policy accept;",
)
POOL = Chain("pool/dns", ('goto pool/dns/v1 comment "ns1 x2, ns2 { }"', "counter drop"))
SETS, CHAINS = (SERVICES, RANGES, COUNTED, TRANSLATED, Set("bare", "type ipv4_addr")), (BASE, POOL, Chain("empty"))
TABLE = Table(TableFamily.IP, "nftlb", {one.name: one for one in SETS}, {chain.name: chain for chain in CHAINS})

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


def test_a_file_replaces_whatever_was_there() -> None:
    """The text takes all tables of the name away, present or not, and lays the new ones out as nft lists them."""
    assert FILE == file_text(Ruleset("nftlb", {TableFamily.IP: TABLE}))


def test_tables_stand_in_a_fixed_order() -> None:
    """The order does not depend on the mapping's."""
    tables = {family: Table(family, "nftlb") for family in reversed(TableFamily)}
    text = file_text(Ruleset("nftlb", tables))

    assert ["table ip nftlb {", "table ip6 nftlb {", "table netdev nftlb {"] == [
        line for line in text.splitlines() if line.endswith("{")
    ]


def test_text_reads_back_as_the_same_table() -> None:
    """What is written can be read, and is equal."""
    assert TABLE == parse_table("\n".join(table_lines(TABLE))).table


def test_a_listing_reads_as_objects() -> None:
    """Handles and counts are no part of an object; a thing that nftlb never makes is kept as one that differs."""
    table = parse_table(LISTED).table

    assert (TableFamily.IP, "nftlb") == (table.family, table.name)
    assert SERVICES == table.sets["services"]
    assert (Element("1", "", "dns/ns1"), Element("2", "", "dns/ns1"), Element("3")) == table.sets["counted"].elements
    assert Set("mine", "counter") == table.sets["mine"]
    assert {"base", "backend/dns/ns2"} == table.chains.keys()


def test_a_host_that_knows_no_names_of_protocols() -> None:
    """Without /etc/protocols nft writes numbers; it is the same table, and ports and addresses stay as they are."""
    numbers = "\n".join(table_lines(TABLE)).replace(" . udp . ", " . 17 . ").replace(" . tcp . ", " . 6 . ")

    assert TABLE == parse_table(numbers).table
    assert ("1.2.3.4 . 17",) == tuple(
        one.key
        for one in parse_table(
            "table ip x { # handle 1\n\tset ranges {\n\t\ttype ipv4_addr . inet_service\n"
            "\t\telements = { 1.2.3.4 . 17 }\n\t}\n}"
        )
        .table.sets["ranges"]
        .elements
    )


def test_counts_go_by_comment_or_by_chain() -> None:
    """Elements of one comment add up; a rule counts for its chain; what names nobody is left out."""
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
    """Counts, the base of a number and quotes don't tell two rules apart."""
    assert canonical_rule(compiled) == canonical_rule(listed)


@pytest.mark.parametrize(("one", "other"), [("counter drop", "drop"), ("ct mark set 0x1", "ct mark set 0x2")])
def test_rules_that_are_different_look_different(one: str, other: str) -> None:
    """A counter that is there or not, and another number, do."""
    assert canonical_rule(one) != canonical_rule(other)
