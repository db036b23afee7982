"""What every kernel must do with a transaction: the cases that test_kernel.py runs on the real one and the imagined.

A case starts from `GROUND`, applies its transaction, and is either refused with nothing changed, or taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from nftlb.compiler.watched import HINTING, WATCHED, hint_forwarded, hint_local, log_forwarded, log_local
from nftlb.compiler.words import WORDS
from nftlb.model import Family
from nftlb.ruleset import Chain, Element, Set, TableFamily
from nftlb.swap import Transaction
from nftlb.swap.operations import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
    Operation,
)

IP = TableFamily.IP
TABLE = "cases"
SERVICE = "type ipv4_addr . inet_proto . inet_service"
HOOK = "type filter hook prerouting priority raw; policy accept;"

BASE = Chain("base", ("ip daddr . meta l4proto . th dport vmap @services",), HOOK)
POOL = Chain("pool/dns", ('goto pool/dns/v1 comment "ns1, ns2"',))
VERSION = Chain(
    "pool/dns/v1", ("ct original zone set numgen inc mod 2 map { 0 : 1, 1 : 2 }", "ct original zone @backends")
)
COUNTING = Chain("backend/dns/ns1", ("counter accept",))
IDLE = Chain("idle")
SERVICES = Set("services", SERVICE, "verdict", elements=(Element("192.0.2.1 . udp . 53", "goto pool/dns", "dns"),))
RANGES = Set(
    "ranges", SERVICE, "verdict", interval=True, elements=(Element("192.0.2.1 . udp . 1000-2000", "goto pool/dns"),)
)
BACKENDS = Set(
    "backends",
    "typeof ct original zone",
    counter=True,
    elements=(Element("1", comment="dns/ns1"), Element("2", comment="dns/ns2")),
)
SPARE = Set("spare", "type ipv4_addr")
CHAINS = (BASE, POOL, VERSION, COUNTING, IDLE)
SETS = (SERVICES, RANGES, BACKENDS, SPARE)


def transaction(*operations: Operation) -> Transaction:
    return Transaction(TABLE, operations)


GROUND = transaction(
    AddTable(IP, anew=False),
    *(AddChain(IP, chain) for chain in CHAINS),
    *(AddSet(IP, one) for one in SETS),
    *(AddElements(IP, one.name, one.elements) for one in SETS if one.elements),
    *(AddRules(IP, chain) for chain in CHAINS if chain.rules),
)


@dataclass(frozen=True)
class Case:
    name: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return self.name


def _case(name: str, *operations: Operation) -> Case:
    return Case(name, operations)


def _rules(chain: str, *rules: str) -> AddRules:
    return AddRules(IP, Chain(chain, rules))


def _elements(name: str, key: str, data: str = "") -> AddElements:
    return AddElements(IP, name, (Element(key, data),))


def _gone(name: str, key: str) -> DeleteElements:
    return DeleteElements(IP, name, (Element(key),))


REFUSED = (
    _case("add a chain to a table that is not there", AddChain(TableFamily.IP6, IDLE)),
    _case("add rules to a chain that is not there", _rules("nobody", "accept")),
    _case("flush a chain that is not there", FlushChain(IP, "nobody")),
    _case("add an element to a set that is not there", _elements("nobody", "192.0.2.9")),
    _case("go to a chain that is not there", _rules("idle", "goto nobody")),
    _case("jump to a chain that is not there", _rules("idle", "jump nobody")),
    _case("go through a map to a chain that is not there", _rules("idle", "numgen inc mod 2 vmap { 0 : goto nobody }")),
    _case("lead an element to a chain that is not there", _elements("services", "192.0.2.9 . udp . 9", "goto nobody")),
    _case("look up a set that is not there", _rules("idle", "ip saddr @nobody")),
    _case("look up a map that is not there", _rules("idle", "ip daddr . meta l4proto . th dport vmap @nobody")),
    _case("go to a base chain", _rules("idle", "goto base")),
    _case("lead an element to a base chain", _elements("services", "192.0.2.9 . udp . 9", "goto base")),
    _case("go to a chain that comes later in the transaction", _rules("idle", "goto new"), AddChain(IP, Chain("new"))),
    _case("make a table anew that is there", AddTable(IP)),
    _case("delete a table that is not there", DeleteTable(TableFamily.IP6)),
    _case("delete a chain that is not there", DeleteChain(IP, "nobody")),
    _case("delete a set that is not there", DeleteSet(IP, Set("nobody", ""))),
    _case("delete an element that is not there", _gone("services", "192.0.2.9 . udp . 9")),
    _case("delete an element twice", _gone("backends", "2"), _gone("backends", "2")),
    _case("delete a chain that a rule goes to", FlushChain(IP, VERSION.name), DeleteChain(IP, VERSION.name)),
    _case("delete a chain that an element leads to", FlushChain(IP, POOL.name), DeleteChain(IP, POOL.name)),
    _case(
        "delete a chain that a rule's own map leads to",
        _rules("base", "numgen inc mod 2 vmap { 0 : goto idle, 1 : accept }"),
        DeleteChain(IP, "idle"),
    ),
    _case("delete a set that a rule looks up", DeleteSet(IP, BACKENDS)),
    _case("delete a map that a rule looks up", DeleteSet(IP, SERVICES)),
    _case("add an element again, with other data", _elements("services", "192.0.2.1 . udp . 53", "accept")),
    _case(
        "add an element twice, with different data",
        _elements("services", "192.0.2.9 . udp . 9", "accept"),
        _elements("services", "192.0.2.9 . udp . 9", "drop"),
    ),
    _case("add a range again, with other data", _elements("ranges", "192.0.2.1 . udp . 1000-2000", "accept")),
    _case("add a range that overlaps another", _elements("ranges", "192.0.2.1 . udp . 1500-2500", "accept")),
    _case("add a port within a range", _elements("ranges", "192.0.2.1 . udp . 1500", "goto pool/dns")),
    _case("add a set again, of another type", AddSet(IP, Set("spare", "type inet_service"))),
    _case("add a set again, with a counter", AddSet(IP, Set("spare", "type ipv4_addr", counter=True))),
    _case("add a set again, with intervals", AddSet(IP, Set("spare", "type ipv4_addr", interval=True))),
    _case("add a set again, as a map", AddSet(IP, Set("spare", "type ipv4_addr", "verdict"))),
    _case(
        "add a base chain again, with another priority", AddChain(IP, Chain("base", (), HOOK.replace("raw", "filter")))
    ),
    _case("give a hook to a chain that has none", AddChain(IP, Chain("idle", (), HOOK))),
    _case(
        "fail at the last of many steps", _rules("idle", "accept"), _gone("backends", "1"), DeleteTable(TableFamily.IP6)
    ),
)

TAKEN = (
    _case("add everything that is there already", *(one for one in GROUND.operations if not isinstance(one, AddRules))),
    _case("go to a chain that was added just before", AddChain(IP, Chain("new")), _rules("idle", "goto new")),
    _case("replace rules", FlushChain(IP, POOL.name), _rules(POOL.name, "goto idle")),
    _case(
        "lead a rule elsewhere, and delete the chain that it went to",
        FlushChain(IP, POOL.name),
        _rules(POOL.name, "goto idle"),
        FlushChain(IP, VERSION.name),
        DeleteChain(IP, VERSION.name),
    ),
    _case(
        "delete chains that went to one another, the first of them first",
        AddChain(IP, Chain("one")),
        AddChain(IP, Chain("other")),
        _rules("one", "goto other"),
        FlushChain(IP, "one"),
        DeleteChain(IP, "other"),
        DeleteChain(IP, "one"),
    ),
    _case(
        "give an element other data, by way of deleting it",
        _gone("services", "192.0.2.1 . udp . 53"),
        _elements("services", "192.0.2.1 . udp . 53", "goto idle"),
    ),
    _case("add a range that begins where another ends", _elements("ranges", "192.0.2.1 . udp . 2001-3000", "accept")),
    _case("add the same range of another address", _elements("ranges", "192.0.2.2 . udp . 1000-2000", "accept")),
    _case("delete a map and the chain that it led to", DeleteSet(IP, RANGES), DeleteChain(IP, "idle")),
    _case("delete a base chain", FlushChain(IP, "base"), DeleteChain(IP, "base")),
    _case(
        "log what backends refuse",
        AddSet(IP, Set(WATCHED, "typeof ct original zone . ip saddr")),
        AddElements(IP, WATCHED, (Element("1 . 10.0.0.11", comment="dns/ns1"),)),
        _rules("base", log_forwarded("nftlb", WORDS[Family.IP]), log_local("nftlb", WORDS[Family.IP])),
    ),
    _case(
        "log what hints that backends refuse",
        AddSet(IP, Set(HINTING, "type ipv4_addr")),
        AddElements(IP, HINTING, (Element("10.0.0.11", comment="dns/ns1"),)),
        _rules("base", hint_forwarded("other", WORDS[Family.IP]), hint_local("other", WORDS[Family.IP])),
    ),
    _case("delete a table with all that is in it", DeleteTable(IP)),
    _case("delete a table and add it again, empty", DeleteTable(IP), AddTable(IP)),
    _case("add a table of another family", AddTable(TableFamily.IP6), AddChain(TableFamily.IP6, IDLE)),
)
