"""Formats bytes of the kernel's registers, keys and data as nft text, and reads the declared types of sets.

The kernel stores bytes without types. The type follows from the expression that loads the bytes, from the types that a
set declares or, for `typeof`, from nft's data in the set's userdata.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .netlink import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
FIELDS: Mapping[str, Mapping[tuple[int, int], tuple[str, str]]] = {
    "ip": {
        (2, 2): ("length", "big"),
        (4, 2): ("id", "big"),
        (6, 2): ("frag-off", "big"),
        (8, 1): ("ttl", "big"),
        (9, 1): ("protocol", "inet_proto"),
        (10, 2): ("checksum", "big"),
        (12, 4): ("saddr", "ipv4_addr"),
        (16, 4): ("daddr", "ipv4_addr"),
    },
    "ip6": {
        (4, 2): ("length", "big"),
        (6, 1): ("nexthdr", "inet_proto"),
        (7, 1): ("hoplimit", "big"),
        (8, 16): ("saddr", "ipv6_addr"),
        (24, 16): ("daddr", "ipv6_addr"),
    },
    "th": {(0, 2): ("sport", "inet_service"), (2, 2): ("dport", "inet_service")},
    "udp": {
        (0, 2): ("sport", "inet_service"),
        (2, 2): ("dport", "inet_service"),
        (4, 2): ("length", "big"),
        (6, 2): ("checksum", "big"),
    },
    "tcp": {(0, 2): ("sport", "inet_service"), (2, 2): ("dport", "inet_service")},
    "sctp": {(0, 2): ("sport", "inet_service"), (2, 2): ("dport", "inet_service")},
    "icmp": {(0, 1): ("type", "icmp_type"), (1, 1): ("code", "icmp_code")},
    "icmpv6": {(0, 1): ("type", "icmpv6_type"), (1, 1): ("code", "icmpv6_code")},
}
"""Fields of headers by offset and length in bytes: the name, and the kind of value."""

META = {
    0: ("meta length", "host"),
    1: ("meta protocol", "ether_type"),
    3: ("meta mark", "mark"),
    4: ("iif", "iface_index"),
    5: ("oif", "iface_index"),
    6: ("iifname", "ifname"),
    7: ("oifname", "ifname"),
    15: ("meta nfproto", "nf_proto"),
    16: ("meta l4proto", "inet_proto"),
    19: ("meta pkttype", "pkt_type"),
    20: ("meta cpu", "host"),
}
CT = {
    0: ("state", "ct_state"),
    1: ("direction", "ct_dir"),
    2: ("status", "host"),
    3: ("mark", "mark"),
    10: ("protocol", "inet_proto"),
    11: ("proto-src", "inet_service"),
    12: ("proto-dst", "inet_service"),
    17: ("zone", "host"),
    19: ("ip saddr", "ipv4_addr"),
    20: ("ip daddr", "ipv4_addr"),
    21: ("ip6 saddr", "ipv6_addr"),
    22: ("ip6 daddr", "ipv6_addr"),
}
"""Keys of `meta` and `ct` (include/uapi/linux/netfilter/nf_tables.h): nft's name, and the kind of value."""

_DIRECTIONS = {0: "original", 1: "reply"}

_NAMED: Mapping[str, Mapping[int, str]] = {
    "inet_proto": PROTOCOLS,
    "ct_dir": _DIRECTIONS,
    "icmp_type": {
        0: "echo-reply",
        3: "destination-unreachable",
        5: "redirect",
        8: "echo-request",
        11: "time-exceeded",
        12: "parameter-problem",
    },
    "icmpv6_type": {
        1: "destination-unreachable",
        2: "packet-too-big",
        3: "time-exceeded",
        4: "parameter-problem",
        128: "echo-request",
        129: "echo-reply",
        137: "nd-redirect",
    },
    "icmp_code": {3: "port-unreachable"},
    "icmpv6_code": {4: "port-unreachable"},
    "ether_type": {0x0800: "ip", 0x86DD: "ip6"},
    "pkt_type": {0: "host", 1: "broadcast", 2: "multicast", 3: "other"},
    "nf_proto": {2: "ipv4", 10: "ipv6"},
    "fib_addrtype": {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"},
    "boolean": {0: "missing", 1: "exists"},
}
_FLAGS: Mapping[str, Mapping[int, str]] = {
    "ct_state": {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"},
}
_OF_THE_HOST = {"host", "mark", "ct_state", "fib_addrtype", "iface_index", "boolean"}
"""Kinds of numbers in this machine's byte order."""
_TYPES = {
    4: ("integer", "host"),
    7: ("ipv4_addr", "ipv4_addr"),
    8: ("ipv6_addr", "ipv6_addr"),
    12: ("inet_proto", "inet_proto"),
    13: ("inet_service", "inet_service"),
    19: ("mark", "mark"),
    20: ("iface_index", "iface_index"),
    27: ("ct_dir", "ct_dir"),
    41: ("ifname", "ifname"),
}
"""nft's datatypes by number (include/datatype.h): the name, and the kind of value."""
_SIZES = {
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "inet_proto": 1,
    "inet_service": 2,
    "mark": 4,
    "iface_index": 4,
    "ct_dir": 1,
    "ifname": 16,
}
_TYPE_BITS, _TYPE_MASK = 6, 0x3F
_VERDICT_TYPE = 0xFFFFFF00
_VERDICTS = {0: "drop", 1: "accept", -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"}
_CODE = struct.Struct("!i")
_WORD = struct.Struct("=I")

# Types in a set's userdata (libnftables: NFTNL_UDATA_SET_*), and in an expression there.
_KEY_TYPEOF, _DATA_TYPEOF = 3, 4
_EXPRESSION, _EXPRESSION_DATA = 0, 1
_VALUE, _PAYLOAD, _META, _CT, _CONCATENATION, _NUMGEN = 4, 7, 9, 12, 13, 23
_VALUE_EXPRESSION = bytes((_EXPRESSION, _WORD.size)) + _WORD.pack(_VALUE)
_BASES = {2: "nh", 3: "th"}
_DIRECTION_NONE = 0xFFFFFFFF
_HEADERS = {4: "icmp", 6: "udp", 8: "tcp", 10: "sctp", 11: "th", 12: "ip", 13: "ip6", 14: "icmpv6"}
_TEMPLATES = {
    "ip": {9: "protocol", 11: "saddr", 12: "daddr"},
    "ip6": {6: "nexthdr", 8: "saddr", 9: "daddr"},
    "th": {1: "sport", 2: "dport"},
    "udp": {1: "sport", 2: "dport", 3: "length", 4: "checksum"},
    "tcp": {1: "sport", 2: "dport"},
    "sctp": {1: "sport", 2: "dport"},
}
"""The fields of a header as libnftables numbers them."""


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One of the values in a key or data: its kind, and its number of bytes."""

    kind: str
    size: int

    @property
    def room(self) -> int:
        """The bytes that the value takes in a key: whole registers."""
        return self.size + 3 & ~3


@dataclass(frozen=True, slots=True)
class Spec:
    """The declared type of a set's keys or data: its text, and its parts. A verdict has no parts."""

    text: str
    parts: tuple[KeyPart, ...] = ()


class UnknownError(Exception):
    """The kernel has an expression or value that nftlb never writes, so it has no text here."""


def read_integer(kind: str, data: bytes) -> int:
    """Return the number that the bytes encode."""
    return int.from_bytes(data, sys.byteorder if kind in _OF_THE_HOST else "big")


def format_value(kind: str, data: bytes) -> str:  # noqa: PLR0911 - a table
    """Return the text of one value, as nft writes it."""
    match kind:
        case "ipv4_addr" if len(data) == 4:  # noqa: PLR2004
            return socket.inet_ntop(socket.AF_INET, data)
        case "ipv6_addr" if len(data) == 16:  # noqa: PLR2004
            return socket.inet_ntop(socket.AF_INET6, data)
        case "ifname":
            return f'"{_text(data)}"'
        case "iface_index":
            return f'"{interface_word(read_integer(kind, data))}"'
        case "mark":
            return f"{read_integer(kind, data):#010x}"
        case "ct_state":
            return _flags(kind, read_integer(kind, data))
    found = read_integer(kind, data)
    return _NAMED.get(kind, {}).get(found) or f"{found}"


def concatenated(parts: Sequence[KeyPart], data: bytes) -> str:
    """Return the text of a key or data of several values."""
    return " . ".join(format_value(part.kind, piece) for part, piece in zip(parts, pieces(parts, data), strict=True))


def pieces(parts: Sequence[KeyPart], data: bytes) -> list[bytes]:
    """Return the bytes of each part."""
    if len(parts) == 1:
        return [data]
    found, start = [], 0
    for part in parts:
        found.append(data[start : start + part.size])
        start += part.room
    return found


def interface_word(index: int) -> str:
    """Return the name of an interface in this thread's namespace; its number if it no longer exists."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"{index}"


def verdict(data: bytes) -> str:
    """Return the text of a verdict (the content of NFTA_DATA_VERDICT)."""
    parts = attributes(data)
    (code,) = _CODE.unpack(parts[1])
    word = _VERDICTS.get(code)
    if word is None:
        raise UnknownError(f"verdict {code}")
    return f"{word} {_text(parts[2])}" if 2 in parts else word  # noqa: PLR2004 - NFTA_VERDICT_CHAIN


def read_comment(userdata: bytes) -> str:
    """Return the comment in the userdata of a rule or an element; empty without a comment."""
    return _text(tlv(userdata).get(0, b"")) if userdata else ""


def of_newer_nft(userdata: bytes) -> bool:
    """Whether the userdata of a set has the data of nft 1.1.2 and later, on which earlier versions crash."""
    return _VALUE_EXPRESSION in tlv(userdata).get(_KEY_TYPEOF, b"")


def key_spec(type_number: int, length: int, userdata: bytes) -> Spec:
    """Return the declared type of a set's keys."""
    return _spec(type_number, length, tlv(userdata).get(_KEY_TYPEOF, b""))


def data_spec(type_number: int, length: int, userdata: bytes) -> Spec:
    """Return the declared type of a map's data."""
    if type_number == _VERDICT_TYPE:
        return Spec("verdict")
    found = _spec(type_number, length, tlv(userdata).get(_DATA_TYPEOF, b""))
    return Spec(found.text.partition(" ")[2], found.parts)


def tlv(data: bytes) -> dict[int, bytes]:
    """Decode userdata by type. Each entry has a byte for the type, a byte for the length, and the data."""
    found, start = {}, 0
    while start + 2 <= len(data):
        kind, length = data[start], data[start + 1]
        found[kind] = data[start + 2 : start + 2 + length]
        start += 2 + length
    return found


def _spec(type_number: int, length: int, typeof: bytes) -> Spec:
    try:
        words = _typeof(tlv(typeof)) if typeof else None
    except (KeyError, struct.error):
        words = None
    if words:
        if len(words) == 1:
            (text, part) = words[0]
            return Spec(f"typeof {text}", (KeyPart(part.kind, length),))
        return Spec("typeof " + " . ".join(text for text, _ in words), tuple(part for _, part in words))
    numbers: list[int] = []
    while type_number:
        numbers.insert(0, type_number & _TYPE_MASK)
        type_number >>= _TYPE_BITS
    if not all(number in _TYPES for number in numbers):
        return Spec(f"type ? {numbers} {typeof.hex()}", (KeyPart("big", length),))
    kinds = [_TYPES[number] for number in numbers]
    text = "type " + " . ".join(name for name, _ in kinds)
    if len(kinds) == 1:
        return Spec(text, (KeyPart(kinds[0][1], length),))
    return Spec(text, tuple(KeyPart(kind, _SIZES.get(kind, 4)) for _, kind in kinds))


def _typeof(expression: Mapping[int, bytes]) -> list[tuple[str, KeyPart]] | None:
    """Return the text and kind of each part of a `typeof`; None if nft stored none, because the type is enough."""
    (kind,) = _WORD.unpack(expression[_EXPRESSION])
    data = tlv(expression.get(_EXPRESSION_DATA, b""))
    if kind == _VALUE:  # nft 1.1.2 and later store this, or unreadable data, for a declared type
        return None
    if kind == _CONCATENATION:
        parts = [_typeof(tlv(data[index])) for index in sorted(data)]
        return None if None in parts else [piece for part in parts if part for piece in part]
    words = [_WORD.unpack(data[index])[0] for index in sorted(data)]
    match kind:
        case _ if kind == _CT:
            name, of = CT[words[0]]
            way = "" if words[1:] in ([], [_DIRECTION_NONE]) else f"{_DIRECTIONS[words[1]]} "
            size = 2 if name == "zone" else _SIZES.get(of, 4)
            return [(f"ct {way}{name}", KeyPart(of, size))]
        case _ if kind == _META:
            text, of = META[words[0]]
            return [(text, KeyPart(of, _SIZES.get(of, 4)))]
        case _ if kind == _NUMGEN and words[0] == 0:
            return [(f"numgen inc mod {words[1]}", KeyPart("host", 4))]
        case _ if kind == _PAYLOAD:
            return [_typeof_payload(*words)]
    raise KeyError(kind)


def _typeof_payload(header: int, field: int, base: int = 0, offset: int = 0, length: int = 0) -> tuple[str, KeyPart]:
    """Return the text and kind of a field of a packet; without a header, of bits by their place."""
    if not header:
        return f"@{_BASES[base]},{offset},{length}", KeyPart("big", length // 8)
    name = _TEMPLATES[_HEADERS[header]][field]
    for (_, size), (known, of) in FIELDS[_HEADERS[header]].items():
        if known == name:
            return f"{_HEADERS[header]} {name}", KeyPart(of, size)
    raise KeyError(field)


def _flags(kind: str, found: int) -> str:
    names = [name for bit, name in _FLAGS[kind].items() if found & bit]
    return ",".join(names) if names else f"{found:#x}"


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
