"""How every kernel treats transactions: cases for the real kernel and the fake kernel, run by test_kernel.py.

A case starts from `GROUND` and applies its transaction. The kernel refuses it without a change, or accepts it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nftlb.compiler.watched import HINTING, WATCHED, hint_forwarded, hint_local, log_forwarded, log_local
from nftlb.compiler.words import WORDS
from nftlb.model import Family
from nftlb.ruleset import (
    Chain,
    Element,
    Elements,
    Hook,
    NamedObject,
    Object,
    Operation,
    Rules,
    Set,
    TableFamily,
    Transaction,
    Verb,
)

IP = TableFamily.IP
TABLE = "cases"
SERVICE = "type ipv4_addr . inet_proto . inet_service"
HOOK = Hook("filter", "prerouting", "raw")

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
TIMED = Chain("timed", ('ct timeout set "session-2s"', 'ct helper set "tftp"'))
TIMEOUT = NamedObject(
    "ct timeout", "session-2s", ("protocol udp", "l3proto ip", "policy = { unreplied : 2, replied : 2 }")
)
HELPER = NamedObject("ct helper", "tftp", ('type "tftp" protocol udp', "l3proto ip"))
UNUSED = replace(TIMEOUT, name="session-3s")
CHAINS = (BASE, POOL, VERSION, COUNTING, IDLE, TIMED)
OBJECTS = (TIMEOUT, HELPER, UNUSED)
SETS = (SERVICES, RANGES, BACKENDS, SPARE)


def transaction(*operations: Operation) -> Transaction:
    return Transaction(TABLE, operations)


def _add(object_: Object) -> Operation:
    return Operation(Verb.ADD, IP, object_)


def _flush(chain: Chain) -> Operation:
    return Operation(Verb.FLUSH, IP, chain)


def _delete(object_: Object) -> Operation:
    return Operation(Verb.DELETE, IP, object_)


GROUND = transaction(
    Operation(Verb.ADD, IP),
    *(_add(chain) for chain in CHAINS),
    *(_add(one) for one in OBJECTS),
    *(_add(nft_set) for nft_set in SETS),
    *(_add(Elements(nft_set.name, nft_set.elements)) for nft_set in SETS if nft_set.elements),
    *(_add(Rules(chain.name, chain.rules)) for chain in CHAINS if chain.rules),
)


@dataclass(frozen=True)
class Case:
    name: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return self.name


def _case(name: str, *operations: Operation) -> Case:
    return Case(name, operations)


def _rules(chain: str, *rules: str) -> Operation:
    return _add(Rules(chain, rules))


def _elements(name: str, key: str, data: str = "") -> Operation:
    return _add(Elements(name, (Element(key, data),)))


def _gone(name: str, key: str) -> Operation:
    return _delete(Elements(name, (Element(key),)))


REFUSED = (
    _case("add a chain to a table that is not there", Operation(Verb.ADD, TableFamily.IP6, IDLE)),
    _case("add rules to a chain that is not there", _rules("missing", "accept")),
    _case("flush a chain that is not there", _flush(Chain("missing"))),
    _case("add an element to a set that is not there", _elements("missing", "192.0.2.9")),
    _case("go to a chain that is not there", _rules("idle", "goto missing")),
    _case("jump to a chain that is not there", _rules("idle", "jump missing")),
    _case(
        "go through a map to a chain that is not there", _rules("idle", "numgen inc mod 2 vmap { 0 : goto missing }")
    ),
    _case("lead an element to a chain that is not there", _elements("services", "192.0.2.9 . udp . 9", "goto missing")),
    _case("look up a set that is not there", _rules("idle", "ip saddr @missing")),
    _case("look up a map that is not there", _rules("idle", "ip daddr . meta l4proto . th dport vmap @missing")),
    _case("go to a base chain", _rules("idle", "goto base")),
    _case("lead an element to a base chain", _elements("services", "192.0.2.9 . udp . 9", "goto base")),
    _case("go to a chain that comes later in the transaction", _rules("idle", "goto new"), _add(Chain("new"))),
    _case("create a table that is there", Operation(Verb.CREATE, IP)),
    _case("delete a table that is not there", Operation(Verb.DELETE, TableFamily.IP6)),
    _case("delete a chain that is not there", _delete(Chain("missing"))),
    _case("delete a set that is not there", _delete(Set("missing", ""))),
    _case("delete a time-out that is not there", _delete(NamedObject("ct timeout", "tftp"))),
    _case("use a helper that is not there", _rules("idle", 'ct helper set "session-2s"')),
    _case("delete a time-out that a rule uses", _delete(TIMEOUT)),
    _case("delete a helper that a rule uses", _delete(HELPER)),
    _case("delete an element that is not there", _gone("services", "192.0.2.9 . udp . 9")),
    _case("delete an element twice", _gone("backends", "2"), _gone("backends", "2")),
    _case("delete a chain that a rule goes to", _flush(VERSION), _delete(VERSION)),
    _case("delete a chain that an element leads to", _flush(POOL), _delete(POOL)),
    _case(
        "delete a chain that a rule's own map leads to",
        _rules("base", "numgen inc mod 2 vmap { 0 : goto idle, 1 : accept }"),
        _delete(Chain("idle")),
    ),
    _case("delete a set that a rule looks up", _delete(BACKENDS)),
    _case("delete a map that a rule looks up", _delete(SERVICES)),
    _case("add an element again, with other data", _elements("services", "192.0.2.1 . udp . 53", "accept")),
    _case(
        "add an element twice, with different data",
        _elements("services", "192.0.2.9 . udp . 9", "accept"),
        _elements("services", "192.0.2.9 . udp . 9", "drop"),
    ),
    _case("add a range again, with other data", _elements("ranges", "192.0.2.1 . udp . 1000-2000", "accept")),
    _case("add a range that overlaps another", _elements("ranges", "192.0.2.1 . udp . 1500-2500", "accept")),
    _case("add a port within a range", _elements("ranges", "192.0.2.1 . udp . 1500", "goto pool/dns")),
    _case("add a set again, of another type", _add(Set("spare", "type inet_service"))),
    _case("add a set again, with a counter", _add(Set("spare", "type ipv4_addr", counter=True))),
    _case("add a set again, with intervals", _add(Set("spare", "type ipv4_addr", interval=True))),
    _case("add a set again, as a map", _add(Set("spare", "type ipv4_addr", "verdict"))),
    _case("add a base chain again, with another priority", _add(Chain("base", (), replace(HOOK, priority="filter")))),
    _case("give a hook to a chain that has none", _add(Chain("idle", (), HOOK))),
    _case(
        "fail at the last of many steps",
        _rules("idle", "accept"),
        _gone("backends", "1"),
        Operation(Verb.DELETE, TableFamily.IP6),
    ),
)

TAKEN = (
    _case(
        "add everything that is there already",
        *(operation for operation in GROUND.operations if not isinstance(operation.object, Rules)),
    ),
    _case("go to a chain that was added just before", _add(Chain("new")), _rules("idle", "goto new")),
    _case("replace rules", _flush(POOL), _rules(POOL.name, "goto idle")),
    _case(
        "lead a rule elsewhere, and delete the chain that it went to",
        _flush(POOL),
        _rules(POOL.name, "goto idle"),
        _flush(VERSION),
        _delete(VERSION),
    ),
    _case(
        "delete chains that went to one another, the first of them first",
        _add(Chain("one")),
        _add(Chain("other")),
        _rules("one", "goto other"),
        _flush(Chain("one")),
        _delete(Chain("other")),
        _delete(Chain("one")),
    ),
    _case(
        "give an element other data, by way of deleting it",
        _gone("services", "192.0.2.1 . udp . 53"),
        _elements("services", "192.0.2.1 . udp . 53", "goto idle"),
    ),
    _case("add a range that begins where another ends", _elements("ranges", "192.0.2.1 . udp . 2001-3000", "accept")),
    _case("add the same range of another address", _elements("ranges", "192.0.2.2 . udp . 1000-2000", "accept")),
    _case("add a set again, with elements", _add(replace(SPARE, elements=(Element("192.0.2.9"),)))),
    _case("delete a map and the chain that it led to", _delete(RANGES), _delete(Chain("idle"))),
    _case("delete a time-out that no rule uses", _delete(UNUSED)),
    _case(
        "replace a time-out that a rule uses",
        _flush(TIMED),
        _delete(TIMEOUT),
        _add(replace(TIMEOUT, properties=(*TIMEOUT.properties[:2], "policy = { unreplied : 9, replied : 9 }"))),
        _rules(TIMED.name, *TIMED.rules),
    ),
    _case(
        "use a time-out and a helper that were added just before",
        _add(replace(TIMEOUT, name="session-4s")),
        _add(replace(HELPER, name="other")),
        _rules("idle", 'ct timeout set "session-4s"', 'ct helper set "other"'),
    ),
    _case("delete a base chain", _flush(Chain("base")), _delete(Chain("base"))),
    _case(
        "log what backends refuse",
        _add(Set(WATCHED, "typeof ct original zone . ip saddr")),
        _add(Elements(WATCHED, (Element("1 . 10.0.0.11", comment="dns/ns1"),))),
        _rules("base", log_forwarded("nftlb", WORDS[Family.IP]), log_local("nftlb", WORDS[Family.IP])),
    ),
    _case(
        "log what hints that backends refuse",
        _add(Set(HINTING, "type ipv4_addr")),
        _add(Elements(HINTING, (Element("10.0.0.11", comment="dns/ns1"),))),
        _rules("base", hint_forwarded("other", WORDS[Family.IP]), hint_local("other", WORDS[Family.IP])),
    ),
    _case("delete a table with all that is in it", Operation(Verb.DELETE, IP)),
    _case("delete a table and add it again, empty", Operation(Verb.DELETE, IP), Operation(Verb.CREATE, IP)),
    _case(
        "add a table of another family",
        Operation(Verb.CREATE, TableFamily.IP6),
        Operation(Verb.ADD, TableFamily.IP6, IDLE),
    ),
)
