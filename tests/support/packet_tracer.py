"""Follows a packet through a ruleset as the kernel does, hook by hook, and keeps the state that the kernel keeps.

The state is conntrack with its zones, the position of every `numgen inc`, and the counters. The test chooses the
results of `numgen random` and of hashes. The tracer raises `Unreadable` for a rule that it can't read.

A packet uses the rules of the generation in which it entered a base chain, but looks up elements in the present
generation. `send(packet, swap)` changes the ruleset while the packet passes.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_address, ip_network
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

from nftlb.ruleset import Hook, Ruleset, Set, Table, TableFamily, counter_owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_CONNTRACK = -200  # where a packet is looked up in conntrack
_PORTS_FREE = range(1024, 65536)


class Checksum(StrEnum):
    """The state of a UDP checksum. `NONE` is a zero field, which becomes `WRONG` when a rule updates the checksum."""

    GOOD = "good"
    NONE = "none"
    WRONG = "wrong"


@dataclass(frozen=True)
class Packet:
    """A packet. `fragment` is `first` or `later` for a piece; `extended`: with IPv6 extension headers.

    Only UDP has a `payload`. Without an input `interface`, the host itself sends the packet.
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
    payload: bytes = b""

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
    """The result for a packet.

    `verdict` is `forwarded`, `local`, `dropped`, `rejected`, or `fwd` if the packet left at ingress to the neighbour
    `via` on `device`. `packet` is the packet as it left. `moments` counts the points at which a swap could happen.
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
        """The destination of the packet, in a form that can be compared."""
        packet = self.packet
        return (self.verdict, packet.destination, packet.dport, self.mark, self.via, self.device)


class BaseChain(NamedTuple):
    """The hook of a base chain. Base chains sort in the order in which packets pass them."""

    priority: int
    name: str
    type: str
    hook: str
    device: str


@dataclass(frozen=True)
class Snapshot:
    """A ruleset with the handles of its rules and sets, which differ after a replacement."""

    ruleset: Ruleset
    rules: Mapping[tuple[TableFamily, str], tuple[object, ...]] = field(default_factory=dict)
    sets: Mapping[tuple[TableFamily, str], object] = field(default_factory=dict)

    @cached_property
    def base_chains(self) -> Mapping[TableFamily, Sequence[BaseChain]]:
        return {family: _base_chains(table) for family, table in self.ruleset.tables.items()}

    def rule(self, family: TableFamily, chain: str, number: int) -> object:
        """Return the identity of a rule: equal in two snapshots only for the same rule."""
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
    """A change of the ruleset while a packet passes: at the moment of this number, from 0 on."""

    moment: int
    to: Snapshot


class Tracer:
    """A host with a ruleset.

    `local` are the host's own addresses, the first of each family the one to masquerade with. `routed_marks` are the
    marks for which there is a route. `dice` and `hash` yield the numbers of `numgen random` and `jhash`, from the
    modulus and, for the hash, the field's value. `first_slot` is the first number of each `numgen inc`. Afterwards,
    `moduli` are those of all numbers that were drawn.
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
        self.moduli: set[int] = set()

    def load(self, ruleset: Ruleset | Snapshot) -> None:
        """Change the ruleset between packets."""
        self.now = ruleset if isinstance(ruleset, Snapshot) else Snapshot(ruleset)

    def send(self, packet: Packet, swap: Swap | None = None) -> Journey:
        """Send a packet to the host, or from the host itself. A swap that has not happened by the end happens then."""
        journey = _Walk(self, packet, swap).journey()
        if swap is not None:
            self.load(swap.to)
        return journey

    def reply(self, journey: Journey) -> Journey:
        """Send the reply of the receiver of a packet."""
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

    def find(self, zone: int, wanted: Tuple) -> tuple[Entry | None, bool]:
        """Return the entry of a packet, and whether the packet goes in the original direction."""
        if entry := self.entries.get(("original", zone, wanted)):
            return entry, True
        return self.entries.get(("reply", 0, wanted)), False

    def confirm(self, entry: Entry) -> None:
        self.entries["original", entry.zone, entry.original] = entry
        self.entries["reply", 0, entry.reply] = entry


class _Final(Exception):  # noqa: N818 - an end, not an error
    """The packet passes no more rules."""

    def __init__(self, verdict: str, how: str = "") -> None:
        self.verdict = verdict
        self.how = how


class _Ended(Exception):  # noqa: N818 - the end of a chain that the packet went to
    """The chain ended, and with it the chain that went there."""


class _Accepted(Exception):  # noqa: N818 - the end of one base chain
    """The base chain accepted the packet."""


class _Walk:
    """The walk of one packet."""

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
        """Pass the base chains of a hook with priorities above `above`, up to `to`."""
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
        except (_Accepted, _Ended):
            return

    def chain(self, family: TableFamily, rules: Snapshot, name: str) -> None:
        """Pass a chain. A chain that is not in the packet's generation is empty."""
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
                self.count(place)
            case Plain(word="notrack"):
                self.tracked = False
            case Plain(word="ct timeout" | "ct helper" | "dup" | "update"):
                pass
            case _:
                raise Unreadable(f"{statement} in {place.chain}: not to be walked over")
        return True

    def count(self, place: _Place) -> None:
        """Count a packet, but no copy: the tracer follows no copies."""
        if not place.chain.startswith(("collector/", "template/")):
            self.tracer.counts[counter_owner(place.chain) if place.chain.startswith("backend/") else place.chain] += 1

    def match(self, statement: Match, place: _Place) -> bool:
        if isinstance(statement.fields, Number):
            number = self.drawn(statement.fields, place)
            return number is not None and (number == statement.value) is (statement.operator == "==")
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
            case str() as literal if statement.operator in (">", ">="):
                return int(key) > int(literal) - (statement.operator == ">=")
            case str() as literal if statement.operator == "<":
                return int(key) < int(literal)
            case str() as literal:
                number = str(int(literal, 16)) if literal.startswith("0x") else literal
                inside = _within(key, number) if key.isdecimal() else key == number
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
            case ["return"]:
                raise _Ended
            case ["goto", name]:
                self.chain(place.family, place.rules, name)
                raise _Ended
            case ["jump", name]:
                with suppress(_Ended):
                    self.chain(place.family, place.rules, name)
                return True
            case _:
                raise Unreadable(value)

    # --- fields and look-ups -------------------------------------------------------------------------------

    def read(self, name: str) -> str | None:  # noqa: C901, PLR0911, PLR0912 - a table of fields
        """Return the value of a field; None if the packet has no such field."""
        packet = self.packet
        family, _, part = name.partition(" ")
        if family.startswith("@"):
            return _bits(packet, name)
        whole, masked, mask = name.partition(" & ")
        if masked and "addr" in whole:
            found = self.read(whole)
            return found and str(ip_network(f"{found}/{_bits_of(mask)}", strict=False).network_address)
        if family in ("ip", "ip6") and family != packet.family:
            return None
        if (family in ("th", "udp", "tcp", "sctp") and packet.fragment == "later") or (
            family in ("udp", "tcp", "sctp", "icmp", "icmpv6") and family != packet.protocol
        ):
            return None
        match family, part:
            case ("icmp" | "icmpv6", _):
                return None  # the packets here are UDP, TCP and SCTP
            case "iif", _:
                return "0" if self.locally else "1"
            case "ct", "state":
                return ("established" if self.entry else "new") if self.tracked else "untracked"
            case "ct", "original zone":
                return str(self.entry.zone if self.entry else 0)
            case "ct", "direction":
                return "original" if self.original else "reply"
            case "oif", _:
                return '"eth0"' if self.leaves() else '"lo"'
            case ("meta", "l4proto") | ("ip", "protocol"):
                return packet.protocol
            case "meta", "pkttype":
                return "host"
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
        """Return a literal, or the data that a map has; None if the map has no element."""
        if isinstance(value, str):
            return value
        match value.key:
            case Number() as number:
                key = self.drawn(number, place)
            case Fields(names=names):
                key = self.joined(names)
        return None if key is None else self.look_up(value.map, key, place)

    def joined(self, names: Iterable[str]) -> str | None:
        """Return the values of fields; None if the packet lacks one of them."""
        found = [self.read(name) for name in names]
        return None if None in found else " . ".join(filter(None, found))

    def drawn(self, number: Number, place: _Place) -> str | None:
        """Return the number that is drawn for the packet; None if the packet lacks what is hashed."""
        self.tracer.moduli.add(number.modulus)
        match number.kind:
            case "numgen inc":
                position = self.tracer.positions.get(place.rule, self.tracer.first_slot % number.modulus)
                self.tracer.positions[place.rule] = (position + 1) % number.modulus
                return str(position)
            case "numgen random":
                return str(self.tracer.dice(number.modulus))
            case _:
                key = self.joined(number.fields)
                return None if key is None else str(self.tracer.hash_of(key, number.modulus))

    def look_up(self, found: Named | Inline, key: str, place: _Place) -> str | None:
        """Return the present data of an element; "" for an element without data; None if there is no element."""
        self.moment()
        if isinstance(found, Inline):
            if not self.current.holds(place.family, place.chain, place.rule):
                return None
            return dict(found.elements).get(key)
        then, _ = place.rules.set(place.family, found.name)
        now, found_set = self.current.set(place.family, found.name)
        if found_set is None or then != now:
            return None
        for element in found_set.elements:
            if element.key == key or (found_set.interval and _within(key, element.key)):
                if found_set.counter:
                    self.tracer.counts[element.comment] += 1
                return element.data
        return None

    # --- conntrack -----------------------------------------------------------------------------------------

    def track(self) -> None:
        """Find the packet's entry, or make a new entry that is confirmed at the end. Translate by a known entry."""
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
        """Give the entry another source port if another entry has the same replies."""
        ports = iter(self.ports_free)
        while ("reply", 0, entry.reply) in self.tracer.entries:
            entry.reply = (*entry.reply[:4], next(ports))


@dataclass(frozen=True)
class _Place:
    """The place of a statement: chain and rule, in the generation that the packet uses."""

    family: TableFamily
    rules: Snapshot
    chain: str
    rule: object


def _base_chains(table: Table) -> list[BaseChain]:
    """Return the base chains of a table in the order in which the kernel passes them."""
    return sorted(_base_chain(chain.name, chain.hook) for chain in table.chains.values() if chain.hook)


def _base_chain(name: str, hook: Hook) -> BaseChain:
    if hook.policy != "accept" or len(hook.devices) > 1:
        raise Unreadable(str(hook))
    base, _, offset = hook.priority.partition(" + ")
    priority = (_PRIORITIES[base] if base in _PRIORITIES else int(base)) + int(offset or 0)
    return BaseChain(priority, name, hook.type, hook.name, "".join(hook.devices))


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


def _bits(packet: Packet, name: str) -> str | None:
    """The bits of a header, as a number: `@nh,128,32` or `@nh,48,32 & 0x3fff00ff`; None if there is no such header."""
    where, _, mask = name.partition(" & ")
    base, offset, length = where.split(",")
    header = _network_header(packet) if base == "@nh" else _transport_header(packet)
    first, size = int(offset) // 8, int(length) // 8
    if len(header) < first + size:
        return None
    return str(int.from_bytes(header[first : first + size]) & int(mask or "-1", 0))


def _network_header(packet: Packet) -> bytes:
    protocol = {"tcp": 6, "udp": 17, "sctp": 132}[packet.protocol]
    addresses = ip_address(packet.source).packed + ip_address(packet.destination).packed
    if packet.family is TableFamily.IP:
        fragment = {"": 0, "first": 0x2000, "later": 185}[packet.fragment]
        return struct.pack("!6xHBB2x", fragment, packet.ttl, protocol) + addresses
    following = 44 if packet.fragment else 0 if packet.extended else protocol
    return struct.pack("!6xBB", following, packet.ttl) + addresses


def _transport_header(packet: Packet) -> bytes:
    """The header of UDP, whose length and checksum no rule looks at in other protocols, and the payload."""
    if packet.fragment == "later":
        return b""
    checksum = 0 if packet.checksum is Checksum.NONE else 1
    return struct.pack("!HHHH", packet.sport, packet.dport, 8 + len(packet.payload), checksum) + packet.payload


def _bits_of(mask: str) -> int:
    """The length of the prefix that a mask of addresses leaves."""
    return int(ip_address(mask)).bit_count()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else int(ip_address(text))


def _within(key: str, ranges: str) -> bool:
    def inside(inner: str, outer: str) -> bool:
        low, dash, high = outer.partition("-")
        if "/" in outer:
            return ip_address(inner) in ip_network(outer)
        return inner == outer or bool(dash and _number(low) <= _number(inner) <= _number(high))

    return all(map(inside, key.split(" . "), ranges.split(" . ")))
