"""Reads the tables of one name, and their counters, from the kernel by netlink.

`nft list` is not used: its output differs from version to version, and nft 1.0.6 crashes on tables that nft 1.1.2 and
later have made.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from nftlb.errors import KernelError
from nftlb.ruleset import (
    MARK,
    OF_REPLIES,
    AddressRanges,
    Chain,
    Count,
    Element,
    Hook,
    Listing,
    ReplyCount,
    Set,
    Table,
    TableFamily,
    counter_owner,
    element_text,
    merged,
)

from .expressions import rule_text
from .named_objects import read_object
from .netlink import ATTRIBUTE_SIZE, NETLINK_NETFILTER, DumpInterruptedError, Netlink, attribute, attributes, members
from .values import (
    KeyPart,
    Spec,
    concatenated,
    data_spec,
    format_value,
    key_spec,
    of_newer_nft,
    pieces,
    read_comment,
    read_integer,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# include/uapi/linux/netfilter/nf_tables.h; message types with the subsystem, NFNL_SUBSYS_NFTABLES
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETSETELEM, _GETOBJ = 0xA01, 0xA04, 0xA07, 0xA0A, 0xA0D, 0xA13
_NAME = 1  # NFTA_TABLE_NAME; NFTA_*_TABLE in messages about parts of a table
_SET_ANONYMOUS, _SET_INTERVAL, _SET_MAP, _SET_DYNAMIC = 0x1, 0x4, 0x8, 0x20
_INTERVAL_END = 0x1
_TABLE_HANDLE = 4
_CHAIN_NAME = 3
_KEY, _DATA, _ELEMENT_FLAGS, _TIMEOUT, _ELEMENT_USERDATA, _KEY_END = 1, 2, 3, 4, 6, 10
_OF_LIMITS = {_KEY, _ELEMENT_FLAGS, _ELEMENT_USERDATA}
"""What the limit of a range of addresses may have."""
_EXPRESSION_NAME = 1
_ADDRESSES = ("ipv4_addr", "ipv6_addr")
_PRIORITIES = {-300: "raw", -150: "mangle", 0: "filter", 50: "security"}
_NAT_PRIORITIES = {"prerouting": (-100, "dstnat"), "postrouting": (100, "srcnat")}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_HOOKS_OF_DEVICES = ("ingress", "egress")
_NEAR = 10
"""The largest distance from a named priority that nft writes as name and difference."""
_ATTEMPTS = 10
_NFGENMSG = struct.Struct("=BBH")
_SIGNED, _UNSIGNED, _FLAGS = struct.Struct("!i"), struct.Struct("!I"), struct.Struct("!I")
FAMILIES = {TableFamily.IP: socket.AF_INET, TableFamily.IP6: socket.AF_INET6, TableFamily.NETDEV: 5}


class TablesReader:
    """Reads the tables of one name repeatedly. Unchanged rules and elements cost little the second time.

    It works on the network namespace of the calling thread. Only one thread at a time may use it.
    """

    def __init__(self, generation: Callable[[], int]) -> None:
        """`generation` reads the number that grows with every transaction."""
        self._generation = generation
        self._remembered: dict[TableFamily, _Remembered] = {}
        self.newer = False
        """Whether nft 1.1.2 or later made the tables that were read last."""

    def read(self, name: str) -> dict[TableFamily, Listing]:
        """Return the tables of that name at one moment, with no transaction in between.

        If other processes write all the time, the last result is returned: the caller sees that the number has changed.
        """
        with reads_kernel(), Netlink(NETLINK_NETFILTER) as netlink:
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
def reads_kernel() -> Iterator[None]:
    """Turn errors of the kernel into KernelError."""
    try:
        yield
    except PermissionError:
        raise KernelError("nftables refused: not permitted; run nftlb as root, or with CAP_NET_ADMIN") from None
    except OSError as error:
        raise KernelError(f"the kernel's tables can't be read: {error.strerror}") from error


def read_siblings(table: str) -> set[str]:
    """Return the names of the other tables that have nftlb's marker chain."""
    with reads_kernel(), Netlink(NETLINK_NETFILTER) as netlink:
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
    """The texts of a table's rules by their handles, and its elements by their bytes.

    The kernel never reuses a table's handle, and never changes a rule or the anonymous sets of a rule.
    """

    table: tuple[str, bytes]
    rules: dict[bytes, str] = field(default_factory=dict)
    elements: dict[tuple[Spec, Spec | None, bytes], Element] = field(default_factory=dict)


def _moved(error: OSError) -> bool:
    """Whether a concurrent change by another process may have caused the error."""
    return isinstance(error, DumpInterruptedError) or error.errno in (errno.ENOENT, errno.EINTR)


def _handle(netlink: Netlink, family: TableFamily, name: str) -> bytes | None:
    """Return the handle of a table; None if no table has that name."""
    try:
        answer = netlink.ask(_GETTABLE, _request(family, attribute(_NAME, _string(name))))
    except FileNotFoundError:
        return None
    return attributes(answer, _NFGENMSG.size).get(_TABLE_HANDLE, b"")


@dataclass(frozen=True)
class _Raw:
    """The declaration of a set, as the kernel reports it."""

    flags: int
    key: Spec
    data: Spec | None
    key_size: int
    data_size: int
    counter: bool
    size: int


class _Reading:
    """The reading of one table."""

    def __init__(self, netlink: Netlink, family: TableFamily, name: str, before: _Remembered) -> None:
        self._before, self.read = before, _Remembered(before.table)
        self._netlink = netlink
        self._family = family
        self._name = name
        self._this = attribute(_NAME, _string(name))
        self._sets: dict[str, _Raw] = {}
        self.newer = False

    def table(self) -> Table:
        for item in self._dump(_GETSET):
            self._sets[_decoded(item[2])] = _raw(item)
            self.newer = self.newer or of_newer_nft(item.get(13, b""))
        sets = {name: self._set(name, raw) for name, raw in self._sets.items() if not raw.flags & _SET_ANONYMOUS}
        objects = {found.key: found for found in map(read_object, self._dump(_GETOBJ))}
        hooks = {_decoded(item[3]): _hook(self._family, item) for item in self._dump(_GETCHAIN)}
        rules: dict[str, list[str]] = {name: [] for name in hooks}
        for rule in self._dump(_GETRULE):
            rules[_decoded(rule[2])].append(self._rule(rule))
        chains = {name: Chain(name, tuple(rules[name]), hook) for name, hook in hooks.items()}
        return Table(self._family, self._name, sets, chains, objects)

    def _rule(self, rule: Mapping[int, bytes]) -> str:
        handle = rule[3]
        text = self._before.rules.get(handle)
        if text is None:
            text = rule_text(self._family, self, rule.get(4, b""), read_comment(rule.get(7, b"")))
        if '"' not in text.partition(" comment ")[0]:  # an interface may be renamed, so this text is not remembered
            self.read.rules[handle] = text
        return text

    # --- the protocol Sets, for the rules

    def sizes(self, name: str) -> tuple[int, int]:
        raw = self._sets[name]
        return raw.key_size, raw.data_size

    def content(self, name: str, keys: Sequence[KeyPart]) -> str | None:
        raw = self._sets[name]
        if not raw.flags & _SET_ANONYMOUS:
            return None
        elements = [attributes(element) for element in self._elements(name)]
        kinds = [part.kind for part in keys]
        elements.sort(key=lambda element: list(map(read_integer, kinds, pieces(keys, _value(element[1])))))
        texts = (element_text(_element(keys, raw.data, element)) for element in elements)
        return f"{{ {', '.join(texts)} }}"

    # --- sets

    def _set(self, name: str, raw: _Raw) -> Set:
        dynamic = bool(raw.flags & _SET_DYNAMIC)
        elements: Sequence[Element] | None = () if dynamic else None
        if elements is None:
            read = [*self._elements(name)]
            elements = _address_ranges(raw, read)
        if elements is None:
            elements = tuple(self._known(raw, element) for element in read)
        return Set(
            name,
            raw.key.text,
            raw.data.text if raw.data else "",
            bool(raw.flags & _SET_INTERVAL),
            raw.counter,
            elements,
            raw.size,
            dynamic,
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
        return [item for item in found if item.get(_NAME) == _string(self._name)]


def _raw(item: Mapping[int, bytes]) -> _Raw:
    flags, key_type, key_size, data_type, data_size = (_unsigned(item, kind) for kind in (3, 4, 5, 6, 7))
    userdata = item.get(13, b"")
    expression = attributes(item.get(17, b"")).get(_EXPRESSION_NAME, b"")
    return _Raw(
        flags,
        key_spec(key_type, key_size, userdata),
        data_spec(data_type, data_size, userdata) if flags & _SET_MAP else None,
        key_size,
        data_size,
        expression == b"counter\0",
        _unsigned(attributes(item.get(9, b"")), 1),  # NFTA_SET_DESC_SIZE
    )


def _address_ranges(raw: _Raw, read: Sequence[bytes]) -> AddressRanges | None:
    """Return the elements of a set of address ranges; None for other sets, and if an element has more than a range.

    The kernel has an element for the start of a range, and one for the first address behind the range.
    """
    part = raw.key.parts[0] if len(raw.key.parts) == 1 else None
    if part is None or part.kind not in _ADDRESSES or raw.data or not raw.flags & _SET_INTERVAL:
        return None
    limits = []
    for data in read:
        item = attributes(data)
        if not item.keys() <= _OF_LIMITS or read_comment(item.get(_ELEMENT_USERDATA, b"")):
            return None
        end = _ELEMENT_FLAGS in item and _FLAGS.unpack(item[_ELEMENT_FLAGS])[0] & _INTERVAL_END
        limits.append((int.from_bytes(_value(item[_KEY]), "big"), not end))
    limits.sort()
    spans = []
    start = None
    for place, starts in limits:
        if start is not None:
            spans.append((start, place - 1))
        start = place if starts else None
    if start is not None:
        spans.append((start, (1 << 8 * part.size) - 1))
    return AddressRanges(merged(spans), part.size)


def _element(keys: Sequence[KeyPart], spec: Spec | None, item: Mapping[int, bytes]) -> Element:
    first = _value(item[_KEY])
    key = _range(keys, first, _value(item[_KEY_END])) if _KEY_END in item else concatenated(keys, first)
    if _ELEMENT_FLAGS in item and _FLAGS.unpack(item[_ELEMENT_FLAGS])[0] & _INTERVAL_END:
        key = f"up to {key}"
    if _TIMEOUT in item:
        key += " timeout"  # no element of ours has a timeout
    data = _data(spec, attributes(item[_DATA])) if spec and _DATA in item else ""
    return Element(key, data, read_comment(item.get(_ELEMENT_USERDATA, b"")))


def _range(keys: Sequence[KeyPart], first: bytes, last: bytes) -> str:
    """Return the text of a key with ranges in some parts."""
    texts = []
    for part, low, high in zip(keys, pieces(keys, first), pieces(keys, last), strict=True):
        low_text, high_text = format_value(part.kind, low), format_value(part.kind, high)
        texts.append(low_text if low_text == high_text else f"{low_text}-{high_text}")
    return " . ".join(texts)


def _data(spec: Spec, data: Mapping[int, bytes]) -> str:
    return verdict(data[2]) if 2 in data else concatenated(spec.parts, data[1])  # noqa: PLR2004


def _value(data: bytes) -> bytes:
    return attributes(data)[1]


def _hook(family: TableFamily, chain: Mapping[int, bytes]) -> Hook | None:
    """Return the hook of a base chain, in words that nft 1.0.6 knows; None for other chains."""
    if 4 not in chain:  # noqa: PLR2004 - NFTA_CHAIN_HOOK
        return None
    of = attributes(chain[4])
    names = _HOOKS_OF_DEVICES if family is TableFamily.NETDEV else _HOOKS
    hook = names[_unsigned(of, 1)]
    devices = [of[3]] if 3 in of else list(members(of.get(4, b"")))  # noqa: PLR2004
    (priority,) = _SIGNED.unpack(of[2])
    policy = "drop" if 5 in chain and not _unsigned(chain, 5) else "accept"  # noqa: PLR2004
    return Hook(
        _decoded(chain[7]),
        hook,
        _priority(family, hook, priority),
        tuple(_decoded(device) for device in devices),
        policy,
    )


def _priority(family: TableFamily, hook: str, priority: int) -> str:
    names = {0: "filter"} if family is TableFamily.NETDEV else dict([*_PRIORITIES.items(), *_nat_priorities(hook)])
    near = min(names, key=lambda known: abs(known - priority))
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


# --- counters ---------------------------------------------------------------------------------------------------------
#
# For ten thousand backends, these functions take a tenth of the time and memory of a listing.

_SET_NAME, _SET_EXPRESSION = 2, 17
_ELEMENTS_SET, _ELEMENTS, ELEMENT_EXPRESSION = 2, 3, 7
_COUNTER = attribute(_EXPRESSION_NAME, b"counter\0")
# NFTA_EXPR_DATA with NFTA_COUNTER_BYTES and NFTA_COUNTER_PACKETS, as the kernel always lays them out behind _COUNTER.
_COUNTED = struct.Struct("!8xQ4xQ")
_COUNTING = (b"backend/", b"reply/", b"early-reply/", b"collector/", b"template/", b"guarded/")


def read_counts(table: str) -> dict[str, Count]:
    """Return the packets and bytes sent to each backend and collector, over all tables of that name.

    The keys are `POOL/BACKEND`, `collector/POOL/COLLECTOR`, and `template/POOL/BACKEND` for copies of templates.

    Also what guards have dropped, by `DropReason.owner`. The tables are those of this thread's network namespace. A
    backend is counted by a rule of its own chain, or by the set element whose comment is the backend's name. Raises
    KernelError if the kernel refuses.
    """
    found: dict[str, Count] = {}
    for owner, count in (*_counted(_by_rules, table), *_counted(_by_elements, table)):
        if not owner.endswith(OF_REPLIES):
            found[owner] = found.get(owner, _NONE) + count
    return found


def read_reply_counts(table: str) -> dict[str, ReplyCount]:
    """Return the packets and the replies of each backend whose replies are counted, by `POOL/BACKEND`.

    If a backend has a chain, only the packets of this chain count: with it, set elements count packets of protocols
    whose replies are not counted. Raises KernelError if the kernel refuses.
    """
    requests: dict[str, Count] = {}
    replies: dict[str, Count] = {}
    by_rules = _counted(_by_rules, table)
    chained = {owner for owner, _ in by_rules}
    for owner, count in (*by_rules, *(item for item in _counted(_by_elements, table) if item[0] not in chained)):
        if owner.endswith(OF_REPLIES):
            name = owner.removesuffix(OF_REPLIES)
            replies[name] = replies.get(name, _NONE) + count
        else:
            requests[owner] = requests.get(owner, _NONE) + count
    return {name: ReplyCount(requests.get(name, _NONE), count) for name, count in replies.items()}


_NONE = Count(0, 0)
_Counts: TypeAlias = "Callable[[Netlink, TableFamily, str], Iterator[tuple[str, Count]]]"


def _counted(by: _Counts, table: str) -> list[tuple[str, Count]]:
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            return [counted for family in FAMILIES for counted in by(netlink, family, table)]
    except OSError as error:
        raise KernelError(f"the kernel's counters can't be read: {error.strerror}") from error


def _by_rules(netlink: Netlink, family: TableFamily, table: str) -> Iterator[tuple[str, Count]]:
    """Yield the counts of the chains of backends, their replies, copies and guards.

    The kernel puts the name of a chain behind the name of the table.

    The attributes of the rules are not decoded. That takes three times as long, and while Python works here, each
    system call of the event loop has to wait.
    """
    this_table = attribute(_NAME, _string(table))
    chain = _NFGENMSG.size + len(this_table) + ATTRIBUTE_SIZE
    for body in netlink.dump_all(_GETRULE, _request(family, this_table)):
        if body.startswith(_COUNTING, chain) and (count := first_count(body)) is not None:
            yield counter_owner(body[chain : body.index(0, chain)].decode(errors="replace")), count


def _by_elements(netlink: Netlink, family: TableFamily, table: str) -> Iterator[tuple[str, Count]]:
    this_table = attribute(_NAME, _string(table))
    for body in _dump_if_there(netlink, _GETSET, _request(family, this_table)):
        found = attributes(body, _NFGENMSG.size)
        if _SET_EXPRESSION not in found:
            continue
        for data in dump_elements(netlink, family, table, _decoded(found[_SET_NAME])):
            element = attributes(data)
            count = first_count(element.get(ELEMENT_EXPRESSION, b""))
            if count is not None and (owner := read_comment(element.get(_ELEMENT_USERDATA, b""))):
                yield owner, count


def dump_elements(netlink: Netlink, family: TableFamily, table: str, name: str) -> Iterator[bytes]:
    """Yield the attributes of each element of a set, encoded; none if there is no such table or set."""
    wanted = attribute(_NAME, _string(table)) + attribute(_ELEMENTS_SET, _string(name))
    for part in _dump_if_there(netlink, _GETSETELEM, _request(family, wanted)):
        yield from members(attributes(part, _NFGENMSG.size).get(_ELEMENTS, b""))


def _dump_if_there(netlink: Netlink, kind: int, body: bytes) -> list[bytes]:
    """Dump sets or elements; none if the table does not exist, which is an error for sets but not for rules."""
    try:
        return netlink.dump_all(kind, body)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def first_count(expressions: bytes) -> Count | None:
    """Return the values of the first counter among these expressions."""
    place = expressions.find(_COUNTER)
    if place < 0:
        return None
    octets, packets = _COUNTED.unpack_from(expressions, place + len(_COUNTER))
    return Count(packets, octets)
