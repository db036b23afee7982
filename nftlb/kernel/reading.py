"""The tables of one name as the kernel holds them, read over netlink.

Not by `nft list`: what that prints differs from version to version, and nft 1.0.6 crashes on tables that nft 1.1.2 and
later have made.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.errors import KernelError
from nftlb.ruleset import MARK, Chain, Element, Listing, Set, Table, TableFamily, element_text

from .expressions import rule_text
from .netlink import NETLINK_NETFILTER, DumpInterruptedError, Netlink, attribute, attributes, members
from .values import Part, Spec, comment, concatenated, data_spec, key_spec, number, of_newer_nft, pieces, value, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# include/uapi/linux/netfilter/nf_tables.h; message types with the subsystem, NFNL_SUBSYS_NFTABLES
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETSETELEM, _GETOBJ = 0xA01, 0xA04, 0xA07, 0xA0A, 0xA0D, 0xA13
_NAME = 1  # NFTA_TABLE_NAME; NFTA_*_TABLE in messages about parts of a table
_SET_ANONYMOUS, _SET_INTERVAL, _SET_MAP = 0x1, 0x4, 0x8
_INTERVAL_END = 0x1
_TABLE_HANDLE = 4
_CHAIN_NAME = 3
_KEY, _DATA, _ELEMENT_FLAGS, _TIMEOUT, _ELEMENT_USERDATA, _KEY_END = 1, 2, 3, 4, 6, 10
_EXPRESSION_NAME = 1
_PRIORITIES = {-300: "raw", -150: "mangle", 0: "filter", 50: "security"}
_NAT_PRIORITIES = {"prerouting": (-100, "dstnat"), "postrouting": (100, "srcnat")}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_HOOKS_OF_DEVICES = ("ingress", "egress")
_NEAR = 10
"""So far from a priority with a name, nft writes the difference."""
_ATTEMPTS = 10
_NFGENMSG = struct.Struct("=BBH")
_SIGNED, _UNSIGNED, _FLAGS = struct.Struct("!i"), struct.Struct("!I"), struct.Struct("!I")
FAMILIES = {TableFamily.IP: socket.AF_INET, TableFamily.IP6: socket.AF_INET6, TableFamily.NETDEV: 5}


class TablesReader:
    """Reads the tables of one name again and again; what it has read before costs little.

    It belongs to the network namespace of the thread that calls it. One reader at a time.
    """

    def __init__(self, generation: Callable[[], int]) -> None:
        """`generation` reads the number that moves with every transaction."""
        self._generation = generation
        self._remembered: dict[TableFamily, _Remembered] = {}
        self.newer = False
        """Whether what was read last was made by an nft of 1.1.2 or later."""

    def read(self, name: str) -> dict[TableFamily, Listing]:
        """The tables of that name at one moment: while no transaction came between.

        Where others write all the time, what was read last is returned: the caller sees that the number has moved.
        """
        with _reads(), Netlink(NETLINK_NETFILTER) as netlink:
            for attempt in range(_ATTEMPTS):
                before = self._generation()
                try:
                    tables = dict(self._tables(netlink, name))
                except OSError as error:
                    if attempt + 1 < _ATTEMPTS and _moved(error):
                        continue
                    raise
                if before == self._generation():
                    break
            return tables

    def _tables(self, netlink: Netlink, name: str) -> Iterator[tuple[TableFamily, Listing]]:
        self.newer = False
        for family in FAMILIES:
            handle = _handle(netlink, family, name)
            if handle is None:
                self._remembered.pop(family, None)
                continue
            before = self._remembered.get(family)
            if before is None or before.table != (name, handle):
                before = _Remembered((name, handle))
            reading = _Reading(netlink, family, name, before)
            yield family, Listing(reading.table())
            self._remembered[family] = reading.read
            self.newer = self.newer or reading.newer


@contextmanager
def _reads() -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise KernelError("nftables refused: not permitted; run nftlb as root, or with CAP_NET_ADMIN") from None
    except OSError as error:
        raise KernelError(f"the kernel's tables can't be read: {error.strerror}") from error


def siblings(table: str) -> set[str]:
    """The names of other tables than these that have our mark."""
    with _reads(), Netlink(NETLINK_NETFILTER) as netlink:
        found = set()
        for family in FAMILIES:
            for body in netlink.dump_all(_GETTABLE, _request(family, b"")):
                name = _decoded(attributes(body, _NFGENMSG.size)[_NAME])
                if name != table and _is_marked(netlink, family, name):
                    found.add(name)
        return found


def _is_marked(netlink: Netlink, family: TableFamily, name: str) -> bool:
    chain = attribute(_NAME, _string(name)) + attribute(_CHAIN_NAME, _string(MARK.name))
    try:
        return bool(netlink.ask(_GETCHAIN, _request(family, chain)))
    except FileNotFoundError:
        return False


@dataclass
class _Remembered:
    """What was read of a table: the texts of rules by their handles, and elements by their bytes.

    The kernel never gives a table another's handle, nor changes a rule or the set without a name that is part of it.
    """

    table: tuple[str, bytes]
    rules: dict[bytes, str] = field(default_factory=dict)
    elements: dict[tuple[Spec, Spec | None, bytes], Element] = field(default_factory=dict)


def _moved(error: OSError) -> bool:
    """Whether it may be because somebody else has just changed something."""
    return isinstance(error, DumpInterruptedError) or error.errno in (errno.ENOENT, errno.EINTR)


def _handle(netlink: Netlink, family: TableFamily, name: str) -> bytes | None:
    """The number of a table; None if there is none of that name."""
    try:
        answer = netlink.ask(_GETTABLE, _request(family, attribute(_NAME, _string(name))))
    except FileNotFoundError:
        return None
    return attributes(answer, _NFGENMSG.size).get(_TABLE_HANDLE, b"")


@dataclass(frozen=True)
class _Raw:
    """A set as the kernel tells of it."""

    flags: int
    key: Spec
    data: Spec | None
    key_size: int
    data_size: int
    counter: bool


class _Reading:
    """Reads one table."""

    def __init__(self, netlink: Netlink, family: TableFamily, name: str, before: _Remembered) -> None:
        self._before, self.read = before, _Remembered(before.table)
        self._netlink = netlink
        self._family = family
        self._name = name
        self._this = attribute(_NAME, _string(name))
        self._sets: dict[str, _Raw] = {}
        self.newer = False

    def table(self) -> Table:
        for one in self._dump(_GETSET):
            self._sets[_decoded(one[2])] = _raw(one)
            self.newer = self.newer or of_newer_nft(one.get(13, b""))
        sets = {name: self._set(name, raw) for name, raw in self._sets.items() if not raw.flags & _SET_ANONYMOUS}
        for one in self._dump(_GETOBJ):
            # Something that is not ours (a counter, a quota): an object no compiled ruleset has.
            sets[_decoded(one[2])] = Set(_decoded(one[2]), "object")
        hooks = {_decoded(one[3]): _hook(self._family, one) for one in self._dump(_GETCHAIN)}
        rules: dict[str, list[str]] = {name: [] for name in hooks}
        for one in self._dump(_GETRULE):
            rules[_decoded(one[2])].append(self._rule(one))
        chains = {name: Chain(name, tuple(rules[name]), hook) for name, hook in hooks.items()}
        return Table(self._family, self._name, sets, chains)

    def _rule(self, one: Mapping[int, bytes]) -> str:
        handle = one[3]
        text = self._before.rules.get(handle)
        if text is None:
            text = rule_text(self._family, self, one.get(4, b""), comment(one.get(7, b"")))
        if '"' not in text.partition(" comment ")[0]:  # an interface may get another name
            self.read.rules[handle] = text
        return text

    # --- what the rules ask

    def sizes(self, name: str) -> tuple[int, int]:
        raw = self._sets[name]
        return raw.key_size, raw.data_size

    def content(self, name: str, keys: Sequence[Part]) -> str | None:
        raw = self._sets[name]
        if not raw.flags & _SET_ANONYMOUS:
            return None
        elements = [attributes(one) for one in self._elements(name)]
        kinds = [part.kind for part in keys]
        elements.sort(key=lambda one: list(map(number, kinds, pieces(keys, _value(one[1])))))
        texts = (element_text(_element(keys, raw.data, one)) for one in elements)
        return f"{{ {', '.join(texts)} }}"

    # --- sets

    def _set(self, name: str, raw: _Raw) -> Set:
        elements = tuple(self._known(raw, one) for one in self._elements(name))
        return Set(
            name,
            raw.key.text,
            raw.data.text if raw.data else "",
            bool(raw.flags & _SET_INTERVAL),
            raw.counter,
            elements,
        )

    def _known(self, raw: _Raw, data: bytes) -> Element:
        of = (raw.key, raw.data, data)
        element = self._before.elements.get(of) or _element(raw.key.parts, raw.data, attributes(data))
        self.read.elements[of] = element
        return element

    def _elements(self, name: str) -> Iterator[bytes]:
        wanted = self._this + attribute(2, _string(name))
        for part in self._netlink.dump_all(_GETSETELEM, _request(self._family, wanted)):
            yield from members(attributes(part, _NFGENMSG.size).get(3, b""))

    def _dump(self, kind: int) -> list[dict[int, bytes]]:
        bodies = self._netlink.dump_all(kind, _request(self._family, self._this))
        found = (attributes(body, _NFGENMSG.size) for body in bodies)
        return [one for one in found if one.get(_NAME) == _string(self._name)]


def _raw(one: Mapping[int, bytes]) -> _Raw:
    flags, key_type, key_size, data_type, data_size = (_unsigned(one, kind) for kind in (3, 4, 5, 6, 7))
    userdata = one.get(13, b"")
    expression = attributes(one.get(17, b"")).get(_EXPRESSION_NAME, b"")
    return _Raw(
        flags,
        key_spec(key_type, key_size, userdata),
        data_spec(data_type, data_size, userdata) if flags & _SET_MAP else None,
        key_size,
        data_size,
        expression == b"counter\0",
    )


def _element(keys: Sequence[Part], spec: Spec | None, one: Mapping[int, bytes]) -> Element:
    first = _value(one[_KEY])
    key = _range(keys, first, _value(one[_KEY_END])) if _KEY_END in one else concatenated(keys, first)
    if _ELEMENT_FLAGS in one and _FLAGS.unpack(one[_ELEMENT_FLAGS])[0] & _INTERVAL_END:
        key = f"up to {key}"
    if _TIMEOUT in one:
        key += " timeout"  # no element of ours goes by itself
    data = _data(spec, attributes(one[_DATA])) if spec and _DATA in one else ""
    return Element(key, data, comment(one.get(_ELEMENT_USERDATA, b"")))


def _range(keys: Sequence[Part], first: bytes, last: bytes) -> str:
    """A key of which some parts are ranges."""
    texts = []
    for part, low, high in zip(keys, pieces(keys, first), pieces(keys, last), strict=True):
        one, other = value(part.kind, low), value(part.kind, high)
        texts.append(one if one == other else f"{one}-{other}")
    return " . ".join(texts)


def _data(spec: Spec, data: Mapping[int, bytes]) -> str:
    return verdict(data[2]) if 2 in data else concatenated(spec.parts, data[1])  # noqa: PLR2004


def _value(data: bytes) -> bytes:
    return attributes(data)[1]


def _hook(family: TableFamily, one: Mapping[int, bytes]) -> str:
    """The line of a base chain, in the words that nft 1.0.6 knows; empty if it is none."""
    if 4 not in one:  # noqa: PLR2004 - NFTA_CHAIN_HOOK
        return ""
    of = attributes(one[4])
    names = _HOOKS_OF_DEVICES if family is TableFamily.NETDEV else _HOOKS
    hook = names[_unsigned(of, 1)]
    devices = [of[3]] if 3 in of else list(members(of.get(4, b"")))  # noqa: PLR2004
    device = "".join(f' device "{_decoded(each)}"' for each in devices)
    (priority,) = _SIGNED.unpack(of[2])
    policy = "drop" if 5 in one and not _unsigned(one, 5) else "accept"  # noqa: PLR2004
    return f"type {_decoded(one[7])} hook {hook}{device} priority {_priority(family, hook, priority)}; policy {policy};"


def _priority(family: TableFamily, hook: str, priority: int) -> str:
    names = {0: "filter"} if family is TableFamily.NETDEV else dict([*_PRIORITIES.items(), *_nat_priorities(hook)])
    near = min(names, key=lambda one: abs(one - priority))
    difference = priority - near
    if difference == 0:
        return names[near]
    if abs(difference) > _NEAR:
        return f"{priority}"
    return f"{names[near]} {'+' if difference > 0 else '-'} {abs(difference)}"


def _nat_priorities(hook: str) -> list[tuple[int, str]]:
    return [_NAT_PRIORITIES[hook]] if hook in _NAT_PRIORITIES else []


def _unsigned(of: Mapping[int, bytes], kind: int) -> int:
    return int(_UNSIGNED.unpack(of[kind])[0]) if kind in of else 0


def _request(family: TableFamily, body: bytes) -> bytes:
    return _NFGENMSG.pack(FAMILIES[family], 0, 0) + body


def _string(text: str) -> bytes:
    return text.encode() + b"\0"


def _decoded(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
