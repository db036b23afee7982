"""Counts what a packet meets in loaded rules: hooks, rules, expressions and look-ups, each with its cost.

The counter carries out the kernel's expressions on the bytes of a packet, in the order of hooks and chains. Nothing is
timed, so the same rules give the same counts everywhere. A rule with an expression that the counter does not know, or
that has no weight, is an error.

The path is that of a packet that the host forwards: ingress, prerouting, forward, postrouting. Conntrack is there if
the rules need it.
"""

from __future__ import annotations

import operator
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loaded_rules import Attributes, LoadedSet, LoadedTable, Rule, Verdict, number, read_verdict

from nftlb.explain.jhash import slot_of
from nftlb.kernel.netlink import attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

WEIGHTS: Mapping[str, int] = {
    "hook ingress": 1086,
    "hook prerouting": 900,
    "hook postrouting": 1055,
    "rule": 45,
    "load": 55,
    "slow load": 157,
    "meta": 60,
    "ct": 43,
    "compare": 55,
    "slow compare": 107,
    "mask": 77,
    "immediate": 82,
    "goto": 44,
    "look up 4 bytes": 156,
    "look up": 202,
    "look up, growing": 267,
    "numgen": 79,
    "jhash": 98,
    "dup": 7405,
    "update": 812,
    "counter": 105,
    "write address": 816,
    "write port": 228,
    "set zone": 48,
    "set mark": 53,
    "notrack": 366,
    "fib": 665,
    "fwd": -3020,
    "nat": 0,
    "defragment": 108,
    "conntrack": 3559,
    "translate": 571,
}
"""Tenths of a nanosecond for each kind of work: `bench/forwarding.sh IPVS_VM --pieces`, docs/performance/pieces.json.

They were measured with IPv4; the same kinds have the same weights in IPv6. `fwd` is below zero because the packet is
not routed then. `nat` sets up the translation of a connection: only the first packet meets that, it was not measured.
`update` puts a source into a set with a limit. `dup` includes the way of the copy to its collector.
"""

_DROP, _ACCEPT, _STOLEN, _CONTINUE, _BREAK, _JUMP, _GOTO, _RETURN = 0, 1, 2, -1, -2, -3, -4, -5
_ENDS = {_DROP: "dropped", _STOLEN: "fwd"}
_CONNTRACK = -200
_NETWORK, _TRANSPORT = 1, 2
_UDP = 17
_TO_THIS_HOST = 0  # PACKET_HOST
_NO_INDEX = b"\xff\xff\xff\x7f"
_ETHER_TYPES = {"ip": 0x0800, "ip6": 0x86DD}
_COMPARISONS: Mapping[int, Callable[[bytes, bytes], bool]] = {
    0: operator.eq,
    1: operator.ne,
    2: operator.lt,
    3: operator.le,
    4: operator.gt,
    5: operator.ge,
}


class NotModelledError(Exception):
    """The counter can't carry out an expression."""


@dataclass(frozen=True)
class Flow:
    """What conntrack knows of a packet. `translated`: the hooks at which packets of the connection are rewritten.

    `zone`: the zone of the original direction, for a reply.
    """

    new: bool = False
    reply: bool = False
    zone: int = 0
    translated: tuple[str, ...] = ()


@dataclass
class Packet:
    """A UDP packet that arrives at the interface `device`. The headers are rewritten on the way."""

    family: str
    network: bytearray
    transport: bytearray
    device: str

    @property
    def source(self) -> bytes:
        return bytes(self.network[12:16] if self.family == "ip" else self.network[8:24])

    @property
    def destination(self) -> bytes:
        return bytes(self.network[16:20] if self.family == "ip" else self.network[24:40])

    @property
    def ports(self) -> tuple[int, int]:
        return int.from_bytes(self.transport[:2], "big"), int.from_bytes(self.transport[2:4], "big")


@dataclass
class Passage:
    """What a packet met, and its end: `fwd` at ingress, `forwarded`, or `dropped`."""

    met: Counter[str]
    end: str
    packet: Packet
    zone: int = 0
    mark: int = 0
    neighbour: bytes = b""
    """The address of the host that `fwd` sends the packet to."""

    @property
    def cost(self) -> int:
        """Tenths of a nanosecond beyond plain routing. Raises NotModelledError if a kind of work has no weight."""
        if unknown := set(self.met) - set(WEIGHTS):
            raise NotModelledError(", ".join(sorted(unknown)))
        return sum(WEIGHTS[kind] * count for kind, count in self.met.items())


class CostCounter:
    """Sends packets through loaded tables. Positions of `numgen inc` are kept from packet to packet."""

    def __init__(self, tables: Iterable[LoadedTable]) -> None:
        self._tables = {table.family: table for table in tables}
        self._positions: Counter[int] = Counter()
        self._names = {name for known in self._tables.values() for name in _expression_names(known)}

    def send(self, packet: Packet, flow: Flow | None = None) -> Passage:
        """Return the passage of a packet. `flow`: how conntrack knows the packet, if it is tracked."""
        passage = Passage(Counter(), "", replace(packet, network=packet.network[:], transport=packet.transport[:]))
        passage.end = self._way(_Walk(self, passage, flow or Flow()))
        return passage

    def _way(self, walk: _Walk) -> str:
        if (end := self._hook(walk, "netdev", "ingress")) is not None:
            return end
        for hook in ("prerouting", "forward", "postrouting"):
            if (end := self._hook(walk, walk.packet.family, hook)) is not None:
                return end
        return "forwarded"

    def _hook(self, walk: _Walk, family: str, hook: str) -> str | None:
        table = self._tables.get(family, LoadedTable(family))
        if hook == "prerouting" and self._names & {"ct", "tproxy"}:
            walk.passage.met["defragment"] += 1
        for kind, name in self._chains(table, hook, walk.packet.device):
            if kind == "conntrack":
                walk.track()
            elif kind != "nat" or (walk.tracked and walk.flow.new):
                # A packet of a known connection is translated without a chain.
                walk.passage.met[f"hook {hook}"] += 1
                verdict = walk.chain(table, name)
                if verdict != _ACCEPT:
                    return _ENDS[verdict]
        if walk.tracked and hook in walk.flow.translated:
            walk.passage.met["translate"] += 1
        return None

    def _chains(self, table: LoadedTable, hook: str, device: str) -> list[tuple[str, str]]:
        """Return type and name of what is at a hook, by priority. Conntrack is there if the rules need it."""
        found = [
            (base.priority, base.type, name)
            for name, base in table.bases.items()
            if base.hook == hook and base.device in ("", device)
        ]
        if hook == "prerouting" and "ct" in self._names:
            found.append((_CONNTRACK, "conntrack", ""))
        return [(kind, name) for _, kind, name in sorted(found)]


class _Walk:
    """The walk of one packet. The methods with the names of expressions carry the expressions out."""

    def __init__(self, counter: CostCounter, passage: Passage, flow: Flow) -> None:
        self.passage, self.packet, self.flow = passage, passage.packet, flow
        self.tracked, self._untracked = False, False
        self._positions = counter._positions
        self._table = LoadedTable("")
        self._registers = bytearray()
        self._key = 0

    def track(self) -> None:
        if not self._untracked:
            self.passage.met["conntrack"] += 1
            self.tracked = True

    def chain(self, table: LoadedTable, name: str) -> int:
        """Carry out a base chain; return NF_ACCEPT, NF_DROP or NF_STOLEN."""
        self._table = table
        back: list[Iterator[Rule]] = []
        rules = iter(table.rules[name])
        while True:
            verdict = self._first_verdict(rules)
            if verdict.code in (_JUMP, _GOTO):
                if verdict.code == _JUMP:
                    back.append(rules)
                rules = iter(table.rules[verdict.chain])
                self.passage.met["goto"] += 1
            elif verdict.code != _RETURN:
                return verdict.code
            elif back:
                rules = back.pop()
            else:
                return _ACCEPT

    def _first_verdict(self, rules: Iterator[Rule]) -> Verdict:
        for rule in rules:
            verdict = self._rule(rule)
            if verdict.code not in (_CONTINUE, _BREAK):
                return verdict
        return Verdict(_RETURN)

    def _rule(self, rule: Rule) -> Verdict:
        self.passage.met["rule"] += 1
        self._registers = bytearray(4 * 24)
        for name, of in rule:
            if name not in _STEPS:
                raise NotModelledError(name)
            self._key = id(of)
            verdict = _STEPS[name](self, of)
            if verdict is not None and verdict.code != _CONTINUE:
                return verdict
        return Verdict(_CONTINUE)

    # --- expressions: each returns a verdict, or None to go on with the rule

    def payload(self, of: Attributes) -> Verdict | None:
        base, offset, size = number(of, 2), number(of, 3), number(of, 4)
        if base not in (_NETWORK, _TRANSPORT):
            raise NotModelledError(f"payload of base {base}")
        header = self.packet.network if base == _NETWORK else self.packet.transport
        if offset + size > len(header):
            return Verdict(_BREAK)
        if 5 in of:
            header[offset : offset + size] = self._get(number(of, 5), size)
            self._met({4: "write address", 16: "write address", 2: "write port"}[size])
            return None
        # nft_payload_fast_ops; other loads call a function.
        fast = size in (1, 2, 4) and offset % size == 0
        self._met("load" if fast else "slow load")
        self._put(number(of, 1), bytes(header[offset : offset + size]))
        return None

    def meta(self, of: Attributes) -> Verdict | None:
        key = number(of, 2)
        if 3 in of:
            if key != 3:
                raise NotModelledError(f"meta set {key}")
            self._met("set mark")
            self.passage.mark = int.from_bytes(self._get(number(of, 3), 4), sys.byteorder)
            return None
        self._met("meta")
        match key:
            case 1:
                value = _ETHER_TYPES[self.packet.family].to_bytes(2, "big")
            case 3:
                value = self.passage.mark.to_bytes(4, sys.byteorder)
            case 4:  # the index of an interface: no rule knows this one
                value = _NO_INDEX
            case 16:
                value = bytes([_UDP])
            case 19:
                value = bytes([_TO_THIS_HOST])
            case _:
                raise NotModelledError(f"meta {key}")
        self._put(number(of, 1), value)
        return None

    def ct(self, of: Attributes) -> Verdict | None:
        key = number(of, 2)
        if 4 in of:
            self._met("set zone")
            if key != 17:
                raise NotModelledError(f"ct set {key}")
            self.passage.zone = int.from_bytes(self._get(number(of, 4), 2), sys.byteorder)
            return None
        self._met("ct")
        if not self.tracked:
            return Verdict(_BREAK)
        zone = self.flow.zone or self.passage.zone
        values = {1: bytes([self.flow.reply]), 17: zone.to_bytes(2, sys.byteorder)}
        if key not in values:
            raise NotModelledError(f"ct {key}")
        self._put(number(of, 1), values[key])
        return None

    def cmp(self, of: Attributes) -> Verdict | None:
        value, kind = _value(of[3]), number(of, 2)
        # nft_cmp_fast_ops and nft_cmp16_fast_ops; other comparisons call a function.
        self._met("compare" if kind in (0, 1) and len(value) <= 16 else "slow compare")
        return None if _COMPARISONS[kind](self._get(number(of, 1), len(value)), value) else Verdict(_BREAK)

    def bitwise(self, of: Attributes) -> Verdict | None:
        if number(of, 6):
            raise NotModelledError("bitwise shift")
        self._met("mask")
        mask, flip = _value(of[4]), _value(of[5])
        value = self._get(number(of, 1), len(mask))
        self._put(number(of, 2), bytes(v & m ^ x for v, m, x in zip(value, mask, flip, strict=True)))
        return None

    def immediate(self, of: Attributes) -> Verdict | None:
        self._met("immediate")
        data = of[2]
        register = number(of, 1)
        if register == 0:
            return read_verdict(attributes(data)[2])
        self._put(register, _value(data))
        return None

    def lookup(self, of: Attributes) -> Verdict | None:
        found = self._table.sets[of[1].partition(b"\0")[0].decode()]
        if found.interval:
            raise NotModelledError("look-up of ranges")
        self._met(_kind_of_lookup(found))
        data = found.elements.get(self._get(number(of, 2), found.key_size))
        if number(of, 5) & 1:
            return None if data is None else Verdict(_BREAK)
        if data is None:
            return Verdict(_BREAK)
        if found.counts:
            self._met("counter")
        if isinstance(data, Verdict):
            return data
        if 3 in of:
            self._put(number(of, 3), data)
        return None

    def dynset(self, of: Attributes) -> Verdict | None:
        """Put the source of the packet into a set. No source is above its limit."""
        self._met("update")
        if number(of, 3) != 1:
            raise NotModelledError("an element that is only added")
        return None

    def numgen(self, of: Attributes) -> Verdict | None:
        self._met("numgen")
        turn = self._positions[self._key] % number(of, 2) + number(of, 4)
        self._positions[self._key] += 1
        self._put(number(of, 1), turn.to_bytes(4, sys.byteorder))
        return None

    def hash(self, of: Attributes) -> Verdict | None:
        """Draw a slot by the bytes of a key."""
        if number(of, 7):
            raise NotModelledError("a hash of another kind")
        self._met("jhash")
        key = self._get(number(of, 1), number(of, 3))
        self._put(number(of, 2), slot_of(key, number(of, 4), number(of, 5)).to_bytes(4, sys.byteorder))
        return None

    def dup(self, _: Attributes) -> Verdict | None:
        """Copy the packet. The way of the copy is in the weight."""
        self._met("dup")
        return None

    def fib(self, of: Attributes) -> Verdict | None:
        if number(of, 2) != 3:
            raise NotModelledError("fib of an interface")
        self._met("fib")
        # The packets of the table go to addresses of other hosts: RTN_UNICAST.
        self._put(number(of, 1), (1).to_bytes(4, sys.byteorder))
        return None

    def notrack(self, _: Attributes) -> Verdict | None:
        self._met("notrack")
        self._untracked = not self.tracked
        return None

    def nat(self, of: Attributes) -> Verdict | None:
        self._met("nat")
        if number(of, 1) == 1 and 3 in of:
            size = 4 if self.packet.family == "ip" else 16
            start = 16 if self.packet.family == "ip" else 24
            self.packet.network[start : start + size] = self._get(number(of, 3), size)
            if 5 in of:
                self.packet.transport[2:4] = self._get(number(of, 5), 2)
        return Verdict(_ACCEPT)

    def masquerade(self, _: Attributes) -> Verdict | None:
        self._met("nat")
        return Verdict(_ACCEPT)

    def forward(self, of: Attributes) -> Verdict | None:
        self._met("fwd")
        if 2 in of:
            self.passage.neighbour = self._get(number(of, 2), 4 if self.packet.family == "ip" else 16)
        return Verdict(_STOLEN)

    def count(self, _: Attributes) -> Verdict | None:
        self._met("counter")
        return None

    # --- registers

    def _met(self, kind: str) -> None:
        self.passage.met[kind] += 1

    def _put(self, register: int, value: bytes) -> None:
        start = _offset(register)
        self._registers[start : start + len(value)] = value
        self._registers[start + len(value) : (start + len(value) + 3) // 4 * 4] = bytes(-len(value) % 4)

    def _get(self, register: int, size: int) -> bytes:
        start = _offset(register)
        return bytes(self._registers[start : start + size])


def _offset(register: int) -> int:
    """Return where a register begins: 1 to 4 have 16 bytes each, 8 to 23 are the same memory in pieces of four."""
    return 16 * (register - 1) if register <= 4 else 4 * (register - 8)


def _kind_of_lookup(found: LoadedSet) -> str:
    """Return which hash the kernel uses: nft_hash_fast_ops, nft_hash_ops or nft_rhash_ops."""
    if not found.fixed:
        return "look up, growing"
    return "look up 4 bytes" if found.key_size == 4 else "look up"


def _expression_names(table: LoadedTable) -> Iterable[str]:
    for rules in table.rules.values():
        for rule in rules:
            for name, _ in rule:
                yield "ct" if name in ("masq", "nat") else name


def _value(data: bytes) -> bytes:
    return attributes(data)[1]


_STEPS: Mapping[str, Callable[[_Walk, Attributes], Verdict | None]] = {
    "payload": _Walk.payload,
    "meta": _Walk.meta,
    "ct": _Walk.ct,
    "cmp": _Walk.cmp,
    "bitwise": _Walk.bitwise,
    "immediate": _Walk.immediate,
    "lookup": _Walk.lookup,
    "dynset": _Walk.dynset,
    "numgen": _Walk.numgen,
    "hash": _Walk.hash,
    "dup": _Walk.dup,
    "fib": _Walk.fib,
    "notrack": _Walk.notrack,
    "nat": _Walk.nat,
    "masq": _Walk.masquerade,
    "fwd": _Walk.forward,
    "counter": _Walk.count,
}
