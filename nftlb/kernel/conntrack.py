"""Deletes conntrack entries that would still send packets to backends that must no longer get them.

A conntrack entry keeps the NAT of its first packet. When a zone gets another backend, or a pool loses a backend, the
old entries must be deleted. They are read and deleted by netlink: 200,000 entries within seconds.

Our zones are zones of the *original direction* (`ct original zone set`), with their number inside the original tuple.
Entries of zones for both directions belong to other software and are never touched.
"""

from __future__ import annotations

import errno
import os
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.errors import KernelError, SystemFault

from .netlink import NETLINK_NETFILTER, NLA_F_NESTED, DumpInterruptedError, Netlink, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from nftlb.compiler.connections import Endpoints, Keep, Stay
    from nftlb.errors import NftlbError

# include/uapi/linux/netfilter/nfnetlink_conntrack.h; message types with the subsystem, NFNL_SUBSYS_CTNETLINK
_GET, _DELETE, _COUNT = 0x101, 0x102, 0x105
_CTA_STATS_GLOBAL_ENTRIES, _CTA_STATS_GLOBAL_MAX_ENTRIES = 1, 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_ID, _CTA_ZONE = 1, 2, 3, 12, 18
_CTA_PROTOINFO, _CTA_PROTOINFO_TCP, _CTA_PROTOINFO_TCP_STATE = 4, 1, 1
_SYSCTLS = Path("/proc/sys/net/netfilter")
_CLOSED = {7, 8}  # TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO, _CTA_TUPLE_ZONE = 1, 2, 3
_CTA_IP_V4_SRC, _CTA_IP_V6_SRC, _CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT = 1, 3, 1, 2

_NFGENMSG = struct.Struct("=BBH")  # address family, version, resource
_NUMBER = struct.Struct("!H")
_STATUS = struct.Struct("!I")
_EXPECTED, _DST_NAT = 1 << 0, 1 << 5  # IPS_EXPECTED, IPS_DST_NAT
_ANY_FAMILY, _UDP = 0, 17
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_THREE_HEADERS = struct.Struct("=HHHHHH")
_TYPE_MASK = 0x3FFF
_REPLY_LAYOUT = (_CTA_TUPLE_REPLY, _CTA_TUPLE_IP, _CTA_TUPLE_PROTO)

# A dump of one zone still walks the whole hash table (9 ms for an empty table, 0.1 s with 200,000 entries). For many
# zones, or few entries, one dump of all entries is faster.
_MOST_FILTERED_DUMPS = 4
_FEW = 10_000
_ATTEMPTS = 10


def delete_entries(keep: Keep) -> int:
    """Delete the entries of the zones in `keep` that lead to none of the zone's endpoints. Return their number.

    With `Stay.NOTHING`, every entry of the zone is deleted; with `Stay.DATAGRAMS`, every entry of a protocol other than
    UDP. Raises SystemFault if this process lacks the permission, KernelError if the kernel refuses; entries that were
    deleted before stay deleted.

    The endpoint of an entry is the source of its replies: the backend to which it was translated or, without NAT, its
    own destination. A flow of UDP that a backend begins, as a helper expects, stays as long as the backend may be used.
    Entries that are made meanwhile may be missed, so load the new rules before this call.
    """
    zones = {zone: Kept.of(what) for zone, what in keep.items()}
    deleted = 0
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with Netlink(NETLINK_NETFILTER) as netlink:
                doomed = _doomed(netlink, zones) if zones and _count(netlink) else []
                for error in netlink.change_all(_DELETE, doomed):
                    if error is None:
                        deleted += 1
                    elif error.errno != errno.ENOENT:  # the entry has expired
                        raise error
        except OSError as error:
            # ENOBUFS: the socket's buffer was too small for all replies.
            if attempt < _ATTEMPTS and (isinstance(error, DumpInterruptedError) or error.errno == errno.ENOBUFS):
                continue
            raise _explained(error) from error
        else:
            break
    return deleted


def shared_zones() -> dict[int, int]:
    """Return the zones for both directions or for replies, with their numbers of entries. They are not nftlb's.

    Raises SystemFault if this process lacks the permission, KernelError if the kernel refuses.
    """
    counts: dict[int, int] = {}
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            for entry in netlink.dump(_GET, _NFGENMSG.pack(_ANY_FAMILY, 0, 0)):
                if not _original_zone(entry) and (zone := _shared_zone(entry)):
                    counts[zone] = counts.get(zone, 0) + 1
    except DumpInterruptedError:
        pass  # the counts change all the time and need not be exact
    except OSError as error:
        raise _explained(error) from error
    return counts


def count_connections(address: str, port: int | None) -> int:
    """Return how many connections of nftlb's zones lead to a server; without a port, to any of its ports.

    A connection of TCP that both sides have closed does not count, although its entry stays for two minutes. Raises
    SystemFault if this process lacks the permission, KernelError if the kernel refuses.
    """
    server, number = ip_address(address).packed, None if port is None else _NUMBER.pack(port)
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            entries = netlink.dump_all(_GET, _NFGENMSG.pack(_ANY_FAMILY, 0, 0))
    except OSError as error:
        raise _explained(error) from error
    count = 0
    for entry in entries:
        if _original_zone(entry):
            _, source, source_port = _reply_source(entry)
            count += source == server and number in {None, source_port} and not _is_closed(entry)
    return count


def _is_closed(entry: bytes) -> bool:
    """Whether the entry is one of a connection of TCP that both sides have closed."""
    state = attributes(entry, _NFGENMSG.size).get(_CTA_PROTOINFO)
    of_tcp = attributes(state).get(_CTA_PROTOINFO_TCP) if state else None
    return bool(of_tcp) and attributes(of_tcp or b"").get(_CTA_PROTOINFO_TCP_STATE, b"\0")[0] in _CLOSED


class Kept:
    """The entries of a zone that stay: endpoints (address and port), and addresses with any port, in bytes."""

    __slots__ = ("addresses", "datagrams", "endpoints", "senders")

    def __init__(
        self,
        endpoints: frozenset[bytes] = frozenset(),
        addresses: frozenset[bytes] = frozenset(),
        *,
        datagrams: bool = False,
    ) -> None:
        self.endpoints, self.addresses, self.datagrams = endpoints, addresses, datagrams
        self.senders = addresses | {endpoint[: -_NUMBER.size] for endpoint in endpoints}

    @classmethod
    def of(cls, what: Endpoints | Stay) -> Kept:
        if not isinstance(what, frozenset):
            return cls(datagrams=what.name == "DATAGRAMS")
        return cls(
            frozenset(address.packed + _NUMBER.pack(port) for address, port in what if port is not None),
            frozenset(address.packed for address, port in what if port is None),
        )

    def keeps(self, entry: bytes) -> bool:
        if not (self.endpoints or self.addresses or self.datagrams):
            return False
        protocol, address, port = _reply_source(entry)
        if self.datagrams:
            return protocol == _UDP
        if address + port in self.endpoints or address in self.addresses:
            return True
        return protocol == _UDP and _original_sender(entry) in self.senders and _is_begun_by_sender(entry)


def _doomed(netlink: Netlink, zones: Mapping[int, Kept]) -> list[bytes]:
    """Return the bodies of the requests that delete the entries which are not kept.

    Each has a tuple, because a request without a tuple deletes all entries. The id protects an entry with the same
    tuple that was made meanwhile, unless it got the same memory.
    """
    doomed = []
    for zone, entry in _entries(netlink, zones):
        if not zones[zone].keeps(entry):
            found = attributes(entry, _NFGENMSG.size)
            original = attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, found[_CTA_TUPLE_ORIG])
            doomed.append(entry[: _NFGENMSG.size] + original + attribute(_CTA_ID, found[_CTA_ID]))
    return doomed


def read_fill(sysctls: Path = _SYSCTLS) -> dict[str, int]:
    """Return the number of `entries` in the network namespace, and the `limit`; each only if there is one.

    Both are sysctls. The daemon's systemd unit hides `sysctls`; then netlink is asked, which needs CAP_NET_ADMIN.
    """
    found: dict[str, int | None] = {}
    try:
        for name, file in (("entries", "nf_conntrack_count"), ("limit", "nf_conntrack_max")):
            found[name] = int((sysctls / file).read_text(encoding="ascii"))
    except OSError:
        try:
            with Netlink(NETLINK_NETFILTER) as netlink:
                told = _statistics(netlink)
        except OSError:
            return {}
        found = {"entries": told.get(_CTA_STATS_GLOBAL_ENTRIES), "limit": told.get(_CTA_STATS_GLOBAL_MAX_ENTRIES)}
    # A limit of 0 stands for none.
    return {name: number for name, number in found.items() if number is not None and (number or name != "limit")}


def _count(netlink: Netlink) -> int:
    """Return the number of entries in the network namespace."""
    return _statistics(netlink)[_CTA_STATS_GLOBAL_ENTRIES]


def _statistics(netlink: Netlink) -> dict[int, int]:
    """Return the numbers that conntrack has as a whole, by attribute. Their limit is in Linux 4.18 and later."""
    counts = attributes(netlink.ask(_COUNT, _NFGENMSG.pack(_ANY_FAMILY, 0, 0)), _NFGENMSG.size)
    return {what: int.from_bytes(count, "big") for what, count in counts.items()}


def _entries(netlink: Netlink, zones: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yield every entry of these zones, as (zone, body of its message)."""
    everything = _NFGENMSG.pack(_ANY_FAMILY, 0, 0)
    if len(zones) > _MOST_FILTERED_DUMPS or (len(zones) > 1 and _count(netlink) < _FEW):
        for entry in netlink.dump(_GET, everything):
            if (zone := _original_zone(entry)) in zones:
                yield zone, entry
        return
    remaining = set(zones)
    while remaining:
        asked = min(remaining)
        filtered = True
        for entry in netlink.dump(_GET, everything + attribute(_CTA_ZONE, _NUMBER.pack(asked))):
            zone = _original_zone(entry)
            if zone in remaining:
                yield zone, entry
            filtered = filtered and zone in (0, asked)
        if not filtered:  # Linux before 6.8 ignores the filter: these were all entries
            return
        remaining.remove(asked)


# The next two functions run for every entry, so they decode only the attributes that they need. The order of these
# attributes has been the same since conntrack has had netlink, and is checked.


def _original_zone(entry: bytes) -> int:
    """Return the zone of the original direction; 0 if the entry has none, or a zone for both directions."""
    length, kind = _ATTRIBUTE.unpack_from(entry, _NFGENMSG.size)
    if kind & _TYPE_MASK != _CTA_TUPLE_ORIG:
        raise _unknown_layout()
    at = _NFGENMSG.size + _ATTRIBUTE.size
    end = _NFGENMSG.size + length
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(entry, at)
        if kind & _TYPE_MASK == _CTA_TUPLE_ZONE:
            return int(_NUMBER.unpack_from(entry, at + _ATTRIBUTE.size)[0])
        at += length + 3 & ~3
    return 0


def _shared_zone(entry: bytes) -> int:
    """Return the zone of an entry that has no zone of the original direction; 0 if it has no zone."""
    found = attributes(entry, _NFGENMSG.size)
    zone = found.get(_CTA_ZONE) or attributes(found[_CTA_TUPLE_REPLY]).get(_CTA_TUPLE_ZONE, b"\0\0")
    return int(_NUMBER.unpack(zone)[0])


def _original_sender(entry: bytes) -> bytes:
    """Return the address that the first packet came from, as on the wire."""
    *_, address_length, kind = _THREE_HEADERS.unpack_from(entry, _NFGENMSG.size)
    if kind not in (_CTA_IP_V4_SRC, _CTA_IP_V6_SRC):
        raise _unknown_layout()
    start = _NFGENMSG.size + _THREE_HEADERS.size
    return entry[start : start + address_length - _ATTRIBUTE.size]


def _is_begun_by_sender(entry: bytes) -> bool:
    """Whether no rule of ours chose the destination: a helper expected the flow, or the destination is unchanged."""
    status = int(_STATUS.unpack(attributes(entry, _NFGENMSG.size)[_CTA_STATUS])[0])
    return bool(status & _EXPECTED) or not status & _DST_NAT


def _reply_source(entry: bytes) -> tuple[int, bytes, bytes]:
    """Return the protocol, and address and port that replies come from, as on the wire. No port: empty."""
    length, _ = _ATTRIBUTE.unpack_from(entry, _NFGENMSG.size)
    at = _NFGENMSG.size + length
    _, reply, network_length, network, address_length, address = _THREE_HEADERS.unpack_from(entry, at)
    after_network = at + _ATTRIBUTE.size + network_length
    transport_length, transport = _ATTRIBUTE.unpack_from(entry, after_network)
    found = (reply & _TYPE_MASK, network & _TYPE_MASK, transport & _TYPE_MASK)
    if found != _REPLY_LAYOUT or address not in (_CTA_IP_V4_SRC, _CTA_IP_V6_SRC):
        raise _unknown_layout()
    start = at + _THREE_HEADERS.size
    source = entry[start : start + address_length - _ATTRIBUTE.size]
    _, kind = _ATTRIBUTE.unpack_from(entry, after_network + _ATTRIBUTE.size)
    if kind != _CTA_PROTO_NUM:
        raise _unknown_layout()
    protocol = entry[after_network + 2 * _ATTRIBUTE.size]
    # The protocol's number (eight bytes with its header) is followed by the ports, if the protocol has ports.
    after_number = after_network + _ATTRIBUTE.size + 8
    if after_number < after_network + transport_length:
        _, kind = _ATTRIBUTE.unpack_from(entry, after_number)
        if kind == _CTA_PROTO_SRC_PORT:
            return protocol, source, entry[after_number + 4 : after_number + 6]
    return protocol, source, b""


def _unknown_layout() -> KernelError:
    return KernelError(
        f"Linux {os.uname().release} has a layout of conntrack entries that nftlb does not know: use an older kernel"
    )


def _explained(error: OSError) -> NftlbError:
    """Return the error with its fix."""
    if error.errno == errno.EPERM:
        return SystemFault("not permitted to read conntrack: run nftlb as root, or with CAP_NET_ADMIN")
    if error.errno in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
        return SystemFault(f"can't reach conntrack: {error.strerror}: modprobe nf_conntrack_netlink")
    return KernelError(f"conntrack refused: {error.strerror}")
