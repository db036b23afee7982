"""Says what a ruleset does to a packet: walks it as the kernel does, hook by hook, and keeps what the kernel keeps.

That is conntrack with its zones, the position of every `numgen inc`, and the counters. What the dice and the hash of a
packet yield is for the test to choose. A rule that the tracer can't read makes it raise `Unreadable`.

A packet takes the rules of the generation in which it came to a base chain, and looks elements up in the generation of
the moment: `send(packet, swap)` changes the ruleset under a packet on its way.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from rule_reader import (
    Fields,
    Inline,
    Mapped,
    Match,
    Named,
    Nat,
    Number,
    Plain,
    Put,
    Reject,
    Send,
    Statement,
    Unreadable,
    Verdict,
    read_rule,
    read_verdict,
)

from nftlb.ruleset import Chain, Ruleset, Set, Table, TableFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_HOOK = re.compile(
    r'type (?P<type>\w+) hook (?P<hook>\w+)(?: device "(?P<device>[^"]+)")? '
    r"priority (?P<priority>[^;]+); policy accept;"
)
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_CONNTRACK = -200  # where a packet is looked up in conntrack
_PORTS_FREE = range(1024, 65536)


class Checksum(StrEnum):
    """The state of a UDP checksum; `NONE` is a zero in its field, `WRONG` what becomes of it if it is updated."""

    GOOD = "good"
    NONE = "none"
    WRONG = "wrong"


@dataclass(frozen=True)
class Packet:
    """A packet. `fragment` is `first` or `later` for a piece; `extended`: with IPv6 extension headers.

    Without an `interface` that it comes in by, the host sends it itself.
    """

    source: str
    sport: int
    destination: str
    dport: int
    protocol: str = "udp"
    interface: str = "eth0"
    checksum: Checksum = Checksum.GOOD
    fragment: str = ""
    ttl: int = 64
    extended: bool = False

    @property
    def family(self) -> TableFamily:
        return TableFamily.IP6 if ":" in self.destination else TableFamily.IP

    @property
    def tuple(self) -> Tuple:
        return (self.protocol, self.source, self.sport, self.destination, self.dport)


Tuple = tuple[str, str, int, str, int]


@dataclass
class Entry:
    """A conntrack entry: a zone for the original direction, and the tuples of both."""

    zone: int
    original: Tuple
    reply: Tuple

    @property
    def translates_destination(self) -> bool:
        return self.original[3:] != self.reply[1:3]

    @property
    def translates_source(self) -> bool:
        return self.original[1:3] != self.reply[3:]


@dataclass(frozen=True)
class Journey:
    """What became of a packet.

    `verdict` is `forwarded`, `local`, `dropped`, `rejected`, or `fwd` where it left at ingress for `via`, a neighbour,
    on `device`. `packet` is how it left. `moments` counts the points at which a swap could have come in between.
    """

    verdict: str
    packet: Packet
    arrived: Packet
    zone: int = 0
    mark: int = 0
    tracked: bool = True
    via: str = ""
    device: str = ""
    how: str = ""
    moments: int = 0
    trail: tuple[str, ...] = ()

    @property
    def target(self) -> tuple[str, str, int, int, str, str]:
        """Where the packet went, in a form that can be compared."""
        packet = self.packet
        return (self.verdict, packet.destination, packet.dport, self.mark, self.via, self.device)


class BaseChain(NamedTuple):
    """Where a chain is hooked; they sort in the order in which a packet meets them."""

    priority: int
    name: str
    type: str
    hook: str
    device: str


@dataclass(frozen=True)
class Snapshot:
    """A ruleset, and which of its rules and sets are which: their handles differ if they were replaced."""

    ruleset: Ruleset
    rules: Mapping[tuple[TableFamily, str], tuple[object, ...]] = field(default_factory=dict)
    sets: Mapping[tuple[TableFamily, str], object] = field(default_factory=dict)

    @cached_property
    def base_chains(self) -> Mapping[TableFamily, Sequence[BaseChain]]:
        return {family: sorted(map(_base_chain, _hooked(table))) for family, table in self.ruleset.tables.items()}

    def rule(self, family: TableFamily, chain: str, number: int) -> object:
        """Two snapshots give the same for the same rule only."""
        handles = self.rules.get((family, chain))
        if handles is not None:
            return handles[number]
        return family, chain, number, self.ruleset.tables[family].chains[chain].rules[number]

    def holds(self, family: TableFamily, chain: str, rule: object) -> bool:
        table = self.ruleset.tables.get(family)
        if table is None or chain not in table.chains:
            return False
        return any(self.rule(family, chain, number) == rule for number in range(len(table.chains[chain].rules)))

    def set(self, family: TableFamily, name: str) -> tuple[object, Set | None]:
        table = self.ruleset.tables.get(family)
        return self.sets.get((family, name)), table.sets.get(name) if table is not None else None


@dataclass(frozen=True)
class Swap:
    """A change of the ruleset while a packet is on its way: at the moment of that number, from 0 on."""

    moment: int
    to: Snapshot


class Tracer:
    """A host with a ruleset.

    `local` are the host's own addresses, the first of each family the one to masquerade with. `routed_marks` are the
    marks for which there is a route. `dice` and `hash` yield the numbers of `numgen random` and `jhash`, from the
    modulus and, for the hash, the field's value. `first_slot` is where a `numgen inc` is when it is first met.
    """

    def __init__(
        self,
        ruleset: Ruleset | Snapshot,
        local: tuple[str, ...] = (),
        *,
        routed_marks: frozenset[int] = frozenset(),
        dice: Callable[[int], int] = lambda _: 0,
        hash_of: Callable[[str, int], int] = lambda _value, _modulus: 0,
        first_slot: int = 0,
    ) -> None:
        self.now = ruleset if isinstance(ruleset, Snapshot) else Snapshot(ruleset)
        self.local = local
        self.routed_marks = routed_marks
        self.dice = dice
        self.hash_of = hash_of
        self.first_slot = first_slot
        self.entries: dict[tuple[str, int, Tuple], Entry] = {}
        self.positions: dict[object, int] = {}
        self.counts: Counter[str] = Counter()

    def load(self, ruleset: Ruleset | Snapshot) -> None:
        """Change the ruleset between packets."""
        self.now = ruleset if isinstance(ruleset, Snapshot) else Snapshot(ruleset)

    def send(self, packet: Packet, swap: Swap | None = None) -> Journey:
        """Have a packet arrive, or sent by the host itself; a swap that has not come by its end comes then."""
        journey = _Walk(self, packet, swap).journey()
        if swap is not None:
            self.load(swap.to)
        return journey

    def reply(self, journey: Journey) -> Journey:
        """Have whoever got the packet answer it."""
        asked = journey.packet
        return self.send(
            Packet(
                asked.destination,
                asked.dport,
                asked.source,
                asked.sport,
                asked.protocol,
                "reply0",
                asked.checksum,
            )
        )

    def masquerade(self, family: TableFamily) -> str:
        return next(address for address in self.local if (":" in address) == (family is TableFamily.IP6))

    def find(self, zone: int, one: Tuple) -> tuple[Entry | None, bool]:
        """The entry of a packet, and whether it goes in the original direction."""
        if entry := self.entries.get(("original", zone, one)):
            return entry, True
        return self.entries.get(("reply", 0, one)), False

    def confirm(self, entry: Entry) -> None:
        self.entries["original", entry.zone, entry.original] = entry
        self.entries["reply", 0, entry.reply] = entry


class _Final(Exception):  # noqa: N818 - an end, not an error
    """The packet goes no further."""

    def __init__(self, verdict: str, how: str = "") -> None:
        self.verdict = verdict
        self.how = how


class _Accepted(Exception):  # noqa: N818 - the end of one base chain
    """The base chain is through with the packet."""


class _Walk:
    """One packet on its way."""

    def __init__(self, tracer: Tracer, packet: Packet, swap: Swap | None) -> None:
        self.tracer = tracer
        self.arrived = self.packet = packet
        self.locally = not packet.interface
        self.swap = swap
        self.current = tracer.now
        self.moments = 0
        self.zone = self.mark = 0
        self.tracked = True
        self.entry: Entry | None = None
        self.original = self.fresh = True
        self.via = self.device = ""
        self.ports_free = _PORTS_FREE
        self.trail: list[str] = []

    def journey(self) -> Journey:
        try:
            self.travel()
            verdict, how = "forwarded" if self.leaves() else "local", ""
        except _Final as final:
            verdict, how = final.verdict, final.how
        else:
            if self.entry is not None and self.fresh:
                self.tracer.confirm(self.entry)
        return Journey(
            verdict,
            self.packet,
            self.arrived,
            self.zone,
            self.mark,
            self.tracked,
            self.via,
            self.device,
            how,
            self.moments,
            tuple(self.trail),
        )

    def travel(self) -> None:
        family = self.packet.family
        if not self.locally:
            self.hook(TableFamily.NETDEV, "ingress")
            if self.packet.fragment and _joins_fragments(self.current.ruleset.tables.get(family)):
                self.packet = replace(self.packet, fragment="")
        first = "output" if self.locally else "prerouting"
        self.hook(family, first, to=_CONNTRACK)
        self.track()
        self.hook(family, first, above=_CONNTRACK)
        if self.leaves():
            self.hook(family, "postrouting")
            self.translate_source()

    def leaves(self) -> bool:
        return self.mark in self.tracer.routed_marks or self.packet.destination not in self.tracer.local

    # --- hooks and chains ----------------------------------------------------------------------------------

    def hook(self, family: TableFamily, hook: str, *, to: int = 1 << 31, above: int = -1 << 31) -> None:
        """Pass the base chains of a hook whose priorities are above one and not above another."""
        last: tuple[int, str] = (above, "~")
        while True:
            self.moment()
            rules = self.current
            found = (
                base
                for base in rules.base_chains.get(family, ())
                if (base.priority, base.name) > last
                and base.priority <= to
                and base.hook == hook
                and base.device in ("", self.packet.interface)
            )
            base = next(found, None)
            if base is None:
                return
            last = base.priority, base.name
            if base.type != "nat" or (self.tracked and self.fresh and self.original):
                self.base_chain(family, rules, base.name)

    def base_chain(self, family: TableFamily, rules: Snapshot, name: str) -> None:
        try:
            self.chain(family, rules, name)
        except _Accepted:
            return

    def chain(self, family: TableFamily, rules: Snapshot, name: str) -> None:
        """Follow a chain; one that the generation of the packet does not have yet is empty to it."""
        chain = rules.ruleset.tables[family].chains.get(name)
        for number, text in enumerate(chain.rules if chain else ()):
            self.trail.append(f"{family} {name}: {text}")
            place = _Place(family, rules, name, rules.rule(family, name, number))
            if not all(self.carry_out(statement, place) for statement in read_rule(text)):
                self.trail.pop()

    def moment(self) -> None:
        """A point at which the ruleset may change."""
        if self.swap is not None and self.moments == self.swap.moment:
            self.current = self.swap.to
        self.moments += 1

    # --- statements: each tells whether the rule goes on ---------------------------------------------------

    def carry_out(self, statement: Statement, place: _Place) -> bool:
        match statement:
            case Match():
                return self.match(statement, place)
            case Put():
                return self.put(statement, place)
            case Nat():
                return self.nat(statement, place)
            case Verdict():
                return self.verdict(statement, place)
            case Reject(how=how):
                raise _Final("rejected", how)
            case Send(via=via, device=device):
                self.via, self.device = via, device
                self.packet = replace(self.packet, ttl=self.packet.ttl - 1)
                raise _Final("fwd")
            case Plain(word="counter"):
                self.tracer.counts[place.chain.removeprefix("backend/")] += 1
            case Plain(word="notrack"):
                self.tracked = False
            case _:
                raise Unreadable(f"{statement} in {place.chain}: not to be walked over")
        return True

    def match(self, statement: Match, place: _Place) -> bool:
        if isinstance(statement.fields, Number):
            return self.number(statement.fields, place) == statement.value
        found = [self.read(name) for name in statement.fields.names]
        if any(value is None for value in found):
            return False
        key = " . ".join(filter(None, found))
        match statement.value:
            case Inline(elements=elements):
                # The elements of a plain set of a rule outlive their rule; a map's do not (nf_tables_deactivate_set).
                inside = any(key == element for element, _ in elements)
            case Named() as named:
                inside = self.look_up(named, key, place) is not None
            case str() as literal if statement.operator == ">":
                return int(key) > int(literal)
            case str() as literal:
                inside = key == (str(int(literal, 0)) if literal.startswith("0x") else literal)
        return inside is (statement.operator == "==")

    def put(self, statement: Put, place: _Place) -> bool:
        value = self.value(statement.value, place)
        if value is None:
            return False
        packet = self.packet
        match statement.field:
            case "ct original zone":
                self.zone = int(value)
            case "meta mark":
                self.mark = int(value, 0)
            case "ip daddr" | "ip6 daddr":
                self.packet = replace(packet, destination=value)
            case "ip saddr" | "ip6 saddr":
                self.packet = replace(packet, source=value)
            case "udp checksum" if value == "0":
                self.packet = replace(packet, checksum=Checksum.NONE)
            case name:
                return self.put_port(name, int(value))
        return True

    def put_port(self, name: str, port: int) -> bool:
        packet = self.packet
        if self.read(name) is None:
            return False
        match name.split(" "):
            case [_, "dport"]:
                self.packet = replace(packet, dport=port)
            case [_, "sport"]:
                self.packet = replace(packet, sport=port)
            case _:
                raise Unreadable(f"set {name}")
        if packet.protocol == "udp" and packet.checksum is Checksum.NONE:
            self.packet = replace(self.packet, checksum=Checksum.WRONG)
        return True

    def nat(self, statement: Nat, place: _Place) -> bool:
        if self.entry is None:
            raise Unreadable(f"{place.chain} translates what is not tracked")
        value = self.value(statement.value, place)
        if value is None:
            return False
        if statement.kind == "dnat":
            address, port = _endpoint(value)
            self.packet = replace(self.packet, destination=address, dport=port or self.packet.dport)
            self.entry.reply = (self.packet.protocol, address, self.packet.dport, *self.entry.reply[3:])
        else:
            protocol, destination, dport, address, port = self.entry.reply
            if statement.kind == "masquerade":
                address = self.tracer.masquerade(self.packet.family)
            if statement.ports:
                self.ports_free = statement.ports
                port = port if port in statement.ports else statement.ports[0]
            self.entry.reply = (protocol, destination, dport, value or address, port)
        raise _Accepted

    def verdict(self, statement: Verdict, place: _Place) -> bool:
        value = statement.value
        if isinstance(value, Mapped):
            data = self.value(value, place)
            return False if data is None else self.verdict(read_verdict(data), place)
        match value.split(" "):
            case ["accept"]:
                raise _Accepted
            case ["drop"]:
                raise _Final("dropped")
            case ["goto", name]:
                self.chain(place.family, place.rules, name)
                raise _Accepted  # the end of a chain that one went to is the end of the base chain: its policy
            case _:
                raise Unreadable(value)

    # --- fields and look-ups -------------------------------------------------------------------------------

    def read(self, name: str) -> str | None:  # noqa: C901, PLR0911, PLR0912 - a table of fields
        """A field's value; None if the packet has no such field."""
        packet = self.packet
        family, _, part = name.partition(" ")
        if family in ("ip", "ip6") and family != packet.family:
            return None
        if (family in ("th", "udp", "tcp", "sctp") and packet.fragment == "later") or (
            family in ("udp", "tcp", "sctp", "icmp", "icmpv6") and family != packet.protocol
        ):
            return None
        match family, part:
            case ("icmp" | "icmpv6" | "@th", _):
                return None  # the packets here are UDP, TCP and SCTP
            case "iif", _:
                return "0" if self.locally else "1"
            case "ct", "original zone":
                return str(self.entry.zone if self.entry else 0)
            case "ct", "direction":
                return "original" if self.original else "reply"
            case "oif", _:
                return '"eth0"' if self.leaves() else '"lo"'
            case "meta", "l4proto":
                return packet.protocol
            case "fib", "daddr type":
                return "local" if packet.destination in self.tracer.local else "unicast"
            case _, "saddr":
                return packet.source
            case _, "daddr":
                return packet.destination
            case _, "sport":
                return str(packet.sport)
            case _, "dport":
                return str(packet.dport)
            case "udp", "checksum":
                return "0" if packet.checksum is Checksum.NONE else "1"
            case "ip", "frag-off & 0x3fff":
                return {"": "0", "first": "8192", "later": "185"}[packet.fragment]
            case ("ip", "ttl") | ("ip6", "hoplimit"):
                return str(packet.ttl)
            case "ip6", "nexthdr":
                return "fragment" if packet.fragment else "extension" if packet.extended else packet.protocol
        raise Unreadable(name)

    def value(self, value: str | Mapped, place: _Place) -> str | None:
        """A literal, or what a map holds; None if it holds nothing."""
        if isinstance(value, str):
            return value
        match value.key:
            case Number() as number:
                key: str | None = self.number(number, place)
            case Fields(names=names):
                found = [self.read(name) for name in names]
                key = None if None in found else " . ".join(filter(None, found))
        return None if key is None else self.look_up(value.map, key, place)

    def number(self, number: Number, place: _Place) -> str:
        match number.kind:
            case "numgen inc":
                position = self.tracer.positions.get(place.rule, self.tracer.first_slot % number.modulus)
                self.tracer.positions[place.rule] = (position + 1) % number.modulus
                return str(position)
            case "numgen random":
                return str(self.tracer.dice(number.modulus))
            case _:
                return str(self.tracer.hash_of(self.read(number.field) or "", number.modulus))

    def look_up(self, found: Named | Inline, key: str, place: _Place) -> str | None:
        """The data of an element as it is at this moment; "" for an element without; None if there is none."""
        self.moment()
        if isinstance(found, Inline):
            if not self.current.holds(place.family, place.chain, place.rule):
                return None
            return dict(found.elements).get(key)
        then, _ = place.rules.set(place.family, found.name)
        now, one = self.current.set(place.family, found.name)
        if one is None or then != now:
            return None
        for element in one.elements:
            if element.key == key or (one.interval and _within(key, element.key)):
                if one.counter:
                    self.tracer.counts[element.comment] += 1
                return element.data
        return None

    # --- conntrack -----------------------------------------------------------------------------------------

    def track(self) -> None:
        """Find the packet's entry, or make one that is confirmed when it has passed; translate what is known."""
        if not self.tracked:
            return
        packet = self.packet
        self.entry, self.original = self.tracer.find(self.zone, packet.tuple)
        self.fresh = self.entry is None
        if self.entry is None:
            protocol, source, sport, destination, dport = packet.tuple
            self.original = True
            self.entry = Entry(self.zone, packet.tuple, (protocol, destination, dport, source, sport))
            return
        self.zone = self.entry.zone
        towards = self.entry.reply if self.original else self.entry.original
        self.packet = replace(packet, destination=towards[1], dport=towards[2])

    def translate_source(self) -> None:
        if self.entry is None:
            return
        if self.fresh:
            self.make_unique(self.entry)
        if self.entry.translates_source if self.original else self.entry.translates_destination:
            towards = self.entry.reply if self.original else self.entry.original
            self.packet = replace(self.packet, source=towards[3], sport=towards[4])

    def make_unique(self, entry: Entry) -> None:
        """No two entries may have the same replies: a later one gets another source port."""
        ports = iter(self.ports_free)
        while ("reply", 0, entry.reply) in self.tracer.entries:
            entry.reply = (*entry.reply[:4], next(ports))


@dataclass(frozen=True)
class _Place:
    """Where a statement stands: the rule in its chain, in the generation that the packet follows."""

    family: TableFamily
    rules: Snapshot
    chain: str
    rule: object


def _hooked(table: Table) -> Iterator[Chain]:
    return (chain for chain in table.chains.values() if chain.hook)


def _base_chain(chain: Chain) -> BaseChain:
    found = _HOOK.fullmatch(chain.hook)
    if found is None:
        raise Unreadable(chain.hook)
    base, _, offset = found["priority"].partition(" + ")
    priority = (_PRIORITIES[base] if base in _PRIORITIES else int(base)) + int(offset or 0)
    return BaseChain(priority, chain.name, found["type"], found["hook"], found["device"] or "")


def _joins_fragments(table: Table | None) -> bool:
    """Whether some rule needs conntrack, or says `tproxy`; then the kernel puts fragments together first."""
    texts = (rule for chain in (table.chains.values() if table else ()) for rule in chain.rules)
    return any(re.search(r"\bct \w|\b[ds]nat\b|\bmasquerade\b|\btproxy\b", text) for text in texts)


def _endpoint(text: str) -> tuple[str, int | None]:
    """An address and a port, as an element's data or as a literal has them."""
    address, _, port = text.partition(" . ")
    if not port and (found := re.fullmatch(r"\[(.+)\]:(\d+)|([\d.]+):(\d+)", text)):
        address, port = found[1] or found[3], found[2] or found[4]
    return address, int(port) if port else None


def _within(key: str, ranges: str) -> bool:
    def inside(one: str, other: str) -> bool:
        low, dash, high = other.partition("-")
        return one == other or bool(dash and int(low) <= int(one) <= int(high))

    return all(map(inside, key.split(" . "), ranges.split(" . ")))
