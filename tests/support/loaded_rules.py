"""The rules and sets of all tables of this network namespace, as expressions of the kernel.

nft's own listing is not used: it says the same rule in other words in each version, and hides expressions.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.kernel.netlink import NETLINK_NETFILTER, Netlink, attribute, attributes, members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# include/uapi/linux/netfilter/nf_tables.h; message types with the subsystem, NFNL_SUBSYS_NFTABLES
_GETCHAIN, _GETRULE, _GETSET, _GETSETELEM = 0xA04, 0xA07, 0xA0A, 0xA0D
FAMILIES = {"ip": socket.AF_INET, "ip6": socket.AF_INET6, "netdev": 5}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_NETDEV_HOOKS = ("ingress", "egress")
_NFGENMSG = struct.Struct("=BBH")
_SET_ANONYMOUS, _SET_INTERVAL = 0x1, 0x4
_SET_EXPRESSION = 17

Attributes = dict[int, bytes]
Expression = tuple[str, Attributes]
Rule = tuple[Expression, ...]


@dataclass(frozen=True)
class Verdict:
    """The code of a verdict (NF_ACCEPT, NFT_GOTO, ...), and the chain of `jump` and `goto`."""

    code: int
    chain: str = ""


@dataclass(frozen=True)
class Base:
    """The hook of a base chain. `device` is empty outside of `netdev`."""

    hook: str
    priority: int
    type: str
    device: str


@dataclass
class LoadedSet:
    """A set or map. The elements of a set with ranges are of no use here."""

    key_size: int
    interval: bool
    fixed: bool
    """Whether the kernel knows the greatest number of elements, and so uses a hash of fixed size.

    No anonymous set counts as such: nft 1.0.6 sends the size of anonymous sets to the kernel, 1.1.3 and 1.1.7 do not.
    """
    counts: bool = False
    """Whether each element counts the packets that find it."""
    elements: dict[bytes, bytes | Verdict] = field(default_factory=dict)


@dataclass
class LoadedTable:
    family: str
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    bases: dict[str, Base] = field(default_factory=dict)
    sets: dict[str, LoadedSet] = field(default_factory=dict)


def read_tables() -> list[LoadedTable]:
    """Return all tables of the families that nftlb uses. They all must have the same name."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        return [table for family in FAMILIES if (table := _table(netlink, family)).rules]


def read_verdict(data: bytes) -> Verdict:
    """Return the verdict in an attribute NFTA_DATA_VERDICT."""
    of = attributes(data)
    return Verdict(int.from_bytes(of[1], "big", signed=True), _text(of.get(2, b"")))


def number(of: Mapping[int, bytes], kind: int, default: int = 0) -> int:
    """Return a number in an attribute."""
    return int.from_bytes(of[kind], "big") if kind in of else default


def _table(netlink: Netlink, family: str) -> LoadedTable:
    table = LoadedTable(family)
    for chain in _dump(netlink, family, _GETCHAIN):
        name = _text(chain[3])
        table.rules[name] = []
        if 4 in chain:
            table.bases[name] = _base(family, chain)
    for rule in _dump(netlink, family, _GETRULE):
        table.rules[_text(rule[2])].append(tuple(_expressions(rule.get(4, b""))))
    for found_set in _dump(netlink, family, _GETSET):
        name = _text(found_set[2])
        table.sets[name] = found = _set(found_set)
        _elements(netlink, family, found_set, found)
    return table


def _expressions(data: bytes) -> Iterator[Expression]:
    for member in members(data):
        of = attributes(member)
        yield _text(of[1]), attributes(of.get(2, b""))


def _base(family: str, chain: Attributes) -> Base:
    of = attributes(chain[4])
    hook = (_NETDEV_HOOKS if family == "netdev" else _HOOKS)[number(of, 1)]
    devices = [of[3]] if 3 in of else list(members(of.get(4, b"")))
    device = " ".join(map(_text, devices))
    return Base(hook, int.from_bytes(of[2], "big", signed=True), _text(chain[7]), device)


def _set(attributes_: Attributes) -> LoadedSet:
    described = attributes(attributes_.get(9, b""))
    flags = number(attributes_, 3)
    fixed = 1 in described and not flags & _SET_ANONYMOUS
    return LoadedSet(number(attributes_, 5), bool(flags & _SET_INTERVAL), fixed, _SET_EXPRESSION in attributes_)


def _elements(netlink: Netlink, family: str, attributes_: Attributes, found: LoadedSet) -> None:
    body = _NFGENMSG.pack(FAMILIES[family], 0, 0) + attribute(1, attributes_[1]) + attribute(2, attributes_[2])
    for part in netlink.dump_all(_GETSETELEM, body):
        for element in members(attributes(part, _NFGENMSG.size).get(3, b"")):
            of = attributes(element)
            found.elements[attributes(of[1])[1]] = _data(of)


def _data(of: Attributes) -> bytes | Verdict:
    if 2 not in of:
        return b""
    data = attributes(of[2])
    return read_verdict(data[2]) if 2 in data else data[1]


def _dump(netlink: Netlink, family: str, kind: int) -> Iterator[Attributes]:
    for body in netlink.dump_all(kind, _NFGENMSG.pack(FAMILIES[family], 0, 0)):
        yield attributes(body, _NFGENMSG.size)


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode()
