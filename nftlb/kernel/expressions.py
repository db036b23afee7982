# ruff: noqa: PLR2004 - the numbers of attributes, in the order of include/uapi/linux/netfilter/nf_tables.h
"""Turns the expressions of a rule, as the kernel stores them, into nft text. No I/O but names of interfaces.

The kernel's expressions load values into registers and then use the registers; nft text says both at once. All versions
of nft make about the same expressions from the same text, but each version lists them in different words. This module
always uses the words of the compiler.

The numbers of attributes are those of the kernel's nf_tables.h: for `payload`, for instance, NFTA_PAYLOAD_*.

Only the expressions that nftlb writes are known here. A rule with other expressions gets a text that begins with
`UNREADABLE`: no compiled rule looks like that, and nft would refuse it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from nftlb.ruleset import UNREADABLE, TableFamily

from .named_objects import REFERRING
from .netlink import attributes, members
from .values import (
    CT,
    FIELDS,
    META,
    KeyPart,
    UnknownError,
    format_value,
    interface_word,
    read_integer,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_U32 = struct.Struct("!I")
_U16 = struct.Struct("!H")
_REGISTERS, _FIRST_SLOT = 4, 8
"""Registers 1 to 4 have 16 bytes each; registers 8 to 23 are the same memory in pieces of four bytes."""
_OPERATORS = {0: "", 1: "!= ", 2: "< ", 3: "<= ", 4: "> ", 5: ">= "}
_AT_MOST = 3
_LINK, _NETWORK, _TRANSPORT = 0, 1, 2
_BASES = {_LINK: "ll", _NETWORK: "nh", _TRANSPORT: "th"}
_ADDRESSES = ("ipv4_addr", "ipv6_addr")
_HEADER_OF = {"ipv6-icmp": "icmpv6"}


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The content of a register: its text, the kind and number of its bytes, and the bytes if known (`data`)."""

    text: str
    kind: str = "big"
    size: int = 4
    data: bytes | None = None
    flags: bool = False
    masked: bool = False
    payload: tuple[int, int] | None = None
    """The base and offset in the packet."""


class Sets(Protocol):
    """The sets of a table, as its rules need them. The methods raise KeyError for an unknown set."""

    def sizes(self, name: str) -> tuple[int, int]:
        """Return the bytes of a key, and the bytes of the data."""

    def content(self, name: str, keys: Sequence[KeyPart]) -> str | None:
        """Return the text of an anonymous set with keys of these kinds; None if the set has a name."""


def rule_text(family: TableFamily, sets: Sets, expressions: bytes, comment: str) -> str:
    """Return the text of a rule, as it stands between the braces of its chain, without counts."""
    rule = _Rule(family, sets)
    try:
        for expression in members(expressions):
            parts = attributes(expression)
            rule.add_expression(parts[1].rstrip(b"\0").decode(), attributes(parts.get(2, b"")))
    except (UnknownError, KeyError, IndexError, struct.error, ValueError) as error:
        return f"{UNREADABLE} {error!r} {expressions.hex()}"
    said = [text for text in rule.said if text]
    return " ".join([*said, f'comment "{comment}"'] if comment else said)


class _Rule:
    """The state while one rule is translated."""

    def __init__(self, family: TableFamily, sets: Sets) -> None:
        self.said: list[str] = []
        self._sets = sets
        self._slots: dict[int, _Loaded] = {}
        self._network = {TableFamily.IP: "ip", TableFamily.IP6: "ip6"}.get(family, "")
        self._transport = ""
        self._implied: dict[int, int] = {}
        """The index in `said` of a match that a later field name makes superfluous, by the header's layer."""

    def add_expression(self, name: str, of: Mapping[int, bytes]) -> None:
        step = _STEPS.get(name)
        if step is None:
            raise UnknownError(name)
        step(self, of)

    # --- expressions that load a register

    def payload(self, of: Mapping[int, bytes]) -> None:
        base, offset, size = (_int(of, kind) for kind in (2, 3, 4))
        if 5 in of:  # NFTA_PAYLOAD_SREG: the expression writes the field
            source = self._at(_int(of, 5))
            for field, part, data in self._split(base, offset, size, source.data):
                self.said.append(f"{field} set {source.text if data is None else format_value(part.kind, data)}")
            return
        field, part = self._field(base, offset, size)
        self._put(_int(of, 1), _Loaded(field, part.kind, size, payload=(base, offset)))

    def meta(self, of: Mapping[int, bytes]) -> None:
        text, kind = META[_int(of, 2)]
        if 3 in of:  # NFTA_META_SREG
            self.said.append(f"{text} set {_said(self._at(_int(of, 3)), kind)}")
        else:
            self._put(_int(of, 1), _Loaded(text, kind, {"inet_proto": 1, "pkt_type": 1, "ether_type": 2}.get(kind, 4)))

    def ct(self, of: Mapping[int, bytes]) -> None:
        name, kind = CT[_int(of, 2)]
        way = {b"\0": "original ", b"\1": "reply "}[of[3][:1]] if 3 in of else ""
        text = f"ct {way}{name}"
        if 4 in of:  # NFTA_CT_SREG
            self.said.append(f"{text} set {_said(self._at(_int(of, 4)), kind)}")
        else:
            size = {"zone": 2, "direction": 1, "protocol": 1, "proto-src": 2, "proto-dst": 2}.get(name, 4)
            self._put(_int(of, 1), _Loaded(text, kind, 16 if kind == "ipv6_addr" else size, flags=kind == "ct_state"))

    def numgen(self, of: Mapping[int, bytes]) -> None:
        way = {0: "inc", 1: "random"}[_int(of, 3)]
        self._put(_int(of, 1), _Loaded(f"numgen {way} mod {_int(of, 2)}{_offset(of, 4)}", "host"))

    def hash(self, of: Mapping[int, bytes]) -> None:
        modulus = _int(of, 4)
        if _int(of, 7, 0):
            self._put(_int(of, 2), _Loaded(f"symhash mod {modulus}{_offset(of, 6)}", "host"))
            return
        key = " . ".join(key_part.text for key_part in self._row(_int(of, 1), _int(of, 3)))
        seed = f" seed {_int(of, 5):#x}" if 5 in of else ""
        self._put(_int(of, 2), _Loaded(f"jhash {key} mod {modulus}{seed}{_offset(of, 6)}", "host"))

    def fib(self, of: Mapping[int, bytes]) -> None:
        result, flags = _int(of, 2), _int(of, 3)
        names = {1: "saddr", 2: "daddr", 4: "mark", 8: "iif", 16: "oif"}
        key = " . ".join(name for bit, name in names.items() if flags & bit)
        what = {1: "oif", 2: "oifname", 3: "type"}[result]
        kind = "boolean" if flags & 32 else {"oif": "iface_index", "oifname": "ifname", "type": "fib_addrtype"}[what]
        self._put(_int(of, 1), _Loaded(f"fib {key} {what}", kind))

    def immediate(self, of: Mapping[int, bytes]) -> None:
        data = attributes(of[2])
        if 2 in data:  # NFTA_DATA_VERDICT
            self.said.append(verdict(data[2]))
        else:
            self._put(_int(of, 1), _Loaded("", "", len(data[1]), data[1]))

    def bitwise(self, of: Mapping[int, bytes]) -> None:
        source = self._at(_int(of, 1))
        if _int(of, 6, 0) or 4 not in of:
            raise UnknownError("bitwise")
        mask, xor = (attributes(of[kind])[1] for kind in (4, 5))
        if any(xor):
            raise UnknownError("bitwise xor")
        if source.flags:
            self._put(_int(of, 2), replace(source, data=mask))
            return
        written = (
            format_value(source.kind, mask) if source.kind in _ADDRESSES else f"{read_integer(source.kind, mask):#x}"
        )
        text = f"{source.text} & {written}"
        self._put(_int(of, 2), _Loaded(text, source.kind, source.size, masked=True))

    def byteorder(self, of: Mapping[int, bytes]) -> None:
        if _int(of, 4) != 1:  # a single byte has no order; nft 1.0.6 converts single bytes in keys of ranges
            raise UnknownError("byteorder")

    # --- expressions that compare

    def cmp(self, of: Mapping[int, bytes]) -> None:
        source, operator, data = self._at(_int(of, 1)), _int(of, 2), attributes(of[3])[1]
        if source.flags:
            if operator != 1 or any(data) or source.data is None:
                raise UnknownError("flags")
            self.said.append(f"{source.text} {format_value(source.kind, source.data)}")
            return
        if source.masked:
            self.said.append(f"{source.text} {_OPERATORS[operator] or '== '}{format_value(source.kind, data)}")
            return
        if source.payload is not None and not operator:
            for field, part, piece in self._split(*source.payload, len(data), data):
                self._match(field, part.kind, piece or b"")
            return
        if operator:
            text, value = f"{source.text} {_OPERATORS[operator]}", format_value(source.kind, data)
            if operator == _AT_MOST and self.said and self.said[-1].startswith(f"{source.text} >= "):
                # nft compares twice for a range.
                self.said[-1] = f"{self.said[-1].replace('>= ', '', 1)}-{value}"
            else:
                self.said.append(f"{text}{value}")
        else:
            self._match(source.text, source.kind, data)

    def range(self, of: Mapping[int, bytes]) -> None:
        source = self._at(_int(of, 1))
        first, last = (format_value(source.kind, attributes(of[kind])[1]) for kind in (3, 4))
        self.said.append(f"{source.text} {_OPERATORS[_int(of, 2)]}{first}-{last}")

    def lookup(self, of: Mapping[int, bytes]) -> None:
        name = of[1].rstrip(b"\0").decode()
        key_size, data_size = self._sets.sizes(name)
        keys = self._row(_int(of, 2), key_size)
        text = " . ".join(key.text for key in keys)
        content = self._sets.content(name, [KeyPart(key.kind, key.size) for key in keys]) or f"@{name}"
        if 3 not in of:  # NFTA_LOOKUP_DREG
            inverse = "!= " if _int(of, 5, 0) & 1 else ""
            self.said.append(f"{text} {inverse}{content}")
        elif _int(of, 3) == 0:
            self.said.append(f"{text} vmap {content}")
        else:
            self._put(_int(of, 3), _Loaded(f"{text} map {content}", size=data_size))

    def dynset(self, of: Mapping[int, bytes]) -> None:
        """A statement that puts an element into a set, with a time-out and perhaps a counter or a limit."""
        if 5 in of or _int(of, 9, 0) & ~1:  # data of a map, or an inverse; bit 0: the statement has expressions
            raise UnknownError("dynset")
        name, verb = of[1].rstrip(b"\0").decode(), {0: "add", 1: "update"}[_int(of, 3)]
        key_size, _ = self._sets.sizes(name)
        words = [" . ".join(key.text for key in self._row(_int(of, 4), key_size))]
        milliseconds = int.from_bytes(of[6], "big") if 6 in of else 0
        if milliseconds:
            words.append(
                f"timeout {milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"timeout {milliseconds}ms"
            )
        inner, self.said = self.said, []
        for expression in [of[7]] if 7 in of else members(of.get(10, b"")):
            parts = attributes(expression)
            self.add_expression(parts[1].rstrip(b"\0").decode(), attributes(parts.get(2, b"")))
        words, self.said = [*words, *self.said], inner
        self.said.append(f"{verb} @{name} {{ {' '.join(words)} }}")

    # --- statements

    def nat(self, of: Mapping[int, bytes]) -> None:
        text = {0: "snat", 1: "dnat"}[_int(of, 1)]
        family = _int(of, 2)
        to, port = "", ""
        if 3 in of:
            address = self._at(_int(of, 3))
            kind = "ipv6_addr" if family == 10 else "ipv4_addr"
            to = _said(address, kind)
            if _int(of, 4, _int(of, 3)) != _int(of, 3):
                raise UnknownError("a range of addresses")
            if address.data is not None and kind == "ipv6_addr" and 5 in of:
                to = f"[{to}]"
        if 5 in of and (bounds := self._ports(of, 5, 6)) is not None:
            port = f":{bounds}"
        if flags := _int(of, 7, 0) & ~0x3:
            raise UnknownError(f"flags of nat {flags}")
        self.said.append(f"{text} to {to}{port}")

    def masquerade(self, of: Mapping[int, bytes]) -> None:
        if _int(of, 1, 0) & ~0x2:
            raise UnknownError("flags of masquerade")
        port = f" to :{self._ports(of, 2, 3)}" if 2 in of else ""
        self.said.append(f"masquerade{port}")

    def _ports(self, of: Mapping[int, bytes], low: int, high: int) -> str | None:
        """Return the ports to choose from; None if they come with the address from the same map."""
        first = self._slots.get(_slot(_int(of, low)))
        if first is None or first.data is None:
            return None if first is None else first.text
        last = self._at(_int(of, high, _int(of, low)))
        lowest, highest = (format_value("inet_service", limit.data or b"") for limit in (first, last))
        return lowest if lowest == highest else f"{lowest}-{highest}"

    def reject(self, of: Mapping[int, bytes]) -> None:
        kind, code = _int(of, 1), of.get(2, b"\0")[0]
        if kind == 1:
            self.said.append("reject with tcp reset")
        elif kind == 0 and code == {"ip": 3, "ip6": 4}.get(self._network):
            self.said.append("reject")
        else:
            raise UnknownError("reject with another code")

    def log(self, of: Mapping[int, bytes]) -> None:
        words = ["log"]
        if 2 in of:
            words.append(f'prefix "{of[2].rstrip(bytes(1)).decode(errors="replace")}"')
        if 1 in of:
            words.append(f"group {_U16.unpack(of[1])[0]}")
        if snaplen := _int(of, 3, 0):
            words.append(f"snaplen {snaplen}")
        if 4 in of and (threshold := _U16.unpack(of[4])[0]):
            words.append(f"queue-threshold {threshold}")
        if 5 in of or 6 in of:
            raise UnknownError("log by level or with flags")
        self.said.append(" ".join(words))

    def limit(self, of: Mapping[int, bytes]) -> None:
        rate, seconds = (int.from_bytes(of[kind], "big") for kind in (1, 2))
        unit = {1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}[seconds]
        if _int(of, 4, 0):
            raise UnknownError("a limit of bytes")
        over = "over " if _int(of, 5, 0) & 1 else ""
        self.said.append(f"limit rate {over}{rate}/{unit} burst {_int(of, 3, 0)} packets")

    def tproxy(self, of: Mapping[int, bytes]) -> None:
        if 2 in of:
            raise UnknownError("tproxy to an address")
        self.said.append(f"tproxy to :{_said(self._at(_int(of, 3)), 'inet_service')}")

    def forward(self, of: Mapping[int, bytes]) -> None:
        device = self._device(self._at(_int(of, 1)))
        if 2 not in of:
            self.said.append(f"fwd to {device}")
            return
        ip, kind = {2: ("ip", "ipv4_addr"), 10: ("ip6", "ipv6_addr")}[_int(of, 3)]
        self.said.append(f"fwd {ip} to {_said(self._at(_int(of, 2)), kind)} device {device}")

    def duplicate(self, of: Mapping[int, bytes]) -> None:
        kind = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}[self._network]
        device = f" device {self._device(self._at(_int(of, 2)))}" if 2 in of else ""
        self.said.append(f"dup to {_said(self._at(_int(of, 1)), kind)}{device}")

    def _device(self, source: _Loaded) -> str:
        if source.data is None:
            return source.text
        return f'"{interface_word(read_integer("iface_index", source.data))}"'

    def refer(self, of: Mapping[int, bytes]) -> None:
        if 1 not in of:  # a map of names
            raise UnknownError("a reference by a map")
        name = of[2].rstrip(b"\0").decode()
        self.said.append(f'{REFERRING[_int(of, 1)]} set "{name}"')

    # --- registers and fields

    def _put(self, register: int, loaded: _Loaded) -> None:
        first = _slot(register)
        for slot in range(first, first + (loaded.size + 3) // 4):
            self._slots.pop(slot, None)
        self._slots[first] = loaded

    def _at(self, register: int) -> _Loaded:
        return self._slots[_slot(register)]

    def _row(self, register: int, size: int) -> list[_Loaded]:
        """Return the adjacent values from a register on, `size` bytes in total."""
        slot, found = _slot(register), []
        end = slot + (size + 3) // 4
        while slot < end:
            loaded = self._slots[slot]
            found.append(loaded)
            slot += (loaded.size + 3) // 4
        return found

    def _field(self, base: int, offset: int, size: int) -> tuple[str, KeyPart]:
        """Return the name of a packet's field. It implies the protocol, so the match on the protocol is removed."""
        header = ""
        if base == _NETWORK:
            header = self._network
        elif base == _TRANSPORT:
            header = _HEADER_OF.get(self._transport, self._transport) or "th"
        found = FIELDS.get(header, {}).get((offset, size))
        if found is None:
            return f"@{_BASES[base]},{offset * 8},{size * 8}", KeyPart("big", size)
        if (place := self._implied.pop(base, None)) is not None:
            self.said[place] = ""
        return f"{header} {found[0]}", KeyPart(found[1], size)

    def _split(self, base: int, offset: int, size: int, data: bytes | None) -> list[tuple[str, KeyPart, bytes | None]]:
        """Return the fields in a part of a packet, each with its bytes: nft joins comparisons of adjacent fields."""
        whole = [(*self._field(base, offset, size), data if data is None else data[:size])]
        if data is None or not whole[0][0].startswith("@"):
            return whole
        found: list[tuple[str, KeyPart, bytes | None]] = []
        start = 0
        while start < size:
            for step in (1, 2, 4, 16):
                field, part = self._field(base, offset + start, step)
                if not field.startswith("@") and start + step <= size:
                    found.append((field, part, data[start : start + step]))
                    start += step
                    break
            else:
                return whole
        return found

    def _match(self, field: str, kind: str, data: bytes) -> None:
        text = format_value(kind, data)
        if field == "meta l4proto":
            self._transport, self._implied[_TRANSPORT] = text, len(self.said)
        elif field in ("ip protocol", "ip6 nexthdr"):
            self._transport = text
        elif field == "meta protocol" and text in FIELDS:
            self._network, self._implied[_NETWORK] = text, len(self.said)
        self.said.append(f"{field} {text}")


def _slot(register: int) -> int:
    return _FIRST_SLOT + 4 * (register - 1) if register <= _REGISTERS else register


def _said(source: _Loaded, kind: str) -> str:
    """Return the text of a register's value as a value of that kind."""
    return source.text if source.data is None else format_value(kind, source.data)


def _int(of: Mapping[int, bytes], kind: int, default: int | None = None) -> int:
    if default is not None and kind not in of:
        return default
    return int(_U32.unpack(of[kind])[0])


def _offset(of: Mapping[int, bytes], kind: int) -> str:
    offset = _int(of, kind, 0)
    return f" offset {offset}" if offset else ""


_STEPS: Mapping[str, Callable[[_Rule, Mapping[int, bytes]], None]] = {
    "payload": _Rule.payload,
    "meta": _Rule.meta,
    "ct": _Rule.ct,
    "numgen": _Rule.numgen,
    "hash": _Rule.hash,
    "fib": _Rule.fib,
    "immediate": _Rule.immediate,
    "bitwise": _Rule.bitwise,
    "byteorder": _Rule.byteorder,
    "cmp": _Rule.cmp,
    "range": _Rule.range,
    "lookup": _Rule.lookup,
    "nat": _Rule.nat,
    "masq": _Rule.masquerade,
    "reject": _Rule.reject,
    "log": _Rule.log,
    "limit": _Rule.limit,
    "dynset": _Rule.dynset,
    "tproxy": _Rule.tproxy,
    "fwd": _Rule.forward,
    "dup": _Rule.duplicate,
    "objref": _Rule.refer,
    "counter": lambda rule, _: rule.said.append("counter"),
    "notrack": lambda rule, _: rule.said.append("notrack"),
}
