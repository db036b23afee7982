"""Deletes the conntrack entries that would go on sending packets to where they must no longer go.

A conntrack entry keeps the NAT it was born with, so a zone that changes hands, or a pool that loses a backend, must be
rid of some. They are read and deleted by netlink: 200,000 of them within seconds.

Ours are zones of the *original direction* (`ct original zone set`), whose number stands inside the original tuple.
Entries of zones that hold for both directions are somebody else's, and never touched.
"""

from __future__ import annotations

import errno
import os
import struct

from .netlink import NETLINK_NETFILTER, NLA_F_NESTED, DumpInterruptedError, Netlink, attribute, attributes

TYPE_CHECKING = False  # typing takes long to import, and so does socket: the first load would wait for both
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from nftlb.compiler.connections import Endpoints, Keep, Stay
    from nftlb.errors import KernelError, NftlbError

# include/uapi/linux/netfilter/nfnetlink_conntrack.h; message types with the subsystem, NFNL_SUBSYS_CTNETLINK
_GET, _DELETE, _COUNT = 0x101, 0x102, 0x105
_CTA_STATS_GLOBAL_ENTRIES = 1
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID, _CTA_ZONE = 1, 2, 12, 18
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO, _CTA_TUPLE_ZONE = 1, 2, 3
_CTA_IP_V4_SRC, _CTA_IP_V6_SRC, _CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT = 1, 3, 1, 2

_NFGENMSG = struct.Struct("=BBH")  # address family, version, resource
_NUMBER = struct.Struct("!H")
_ANY_FAMILY, _UDP = 0, 17
_ADDRESSES = (4, 16)
"""Bytes of an address."""
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_THREE_HEADERS = struct.Struct("=HHHHHH")
_TYPE_MASK = 0x3FFF
_REPLY_LAYOUT = (_CTA_TUPLE_REPLY, _CTA_TUPLE_IP, _CTA_TUPLE_PROTO)

# A dump for one zone still walks the whole hash table (9 ms where that is empty, 0.1 s with 200,000 entries), so for
# many zones, or few entries, one dump of everything is quicker.
_MOST_FILTERED_DUMPS = 4
_FEW = 10_000
_ATTEMPTS = 10


def cut(keep: Keep) -> int:
    """Delete, in the zones that are the keys of `keep`, every entry that leads to none of the endpoints named there.

    `Stay.NOTHING`: every entry of the zone; `Stay.DATAGRAMS`: every one that is not of UDP. Returns how many were
    deleted. Raises SystemFault if this process may not, KernelError if the kernel refuses; what was deleted by then
    stays so.

    An entry's endpoint is what its replies come from: the backend that it was translated to or, if it wasn't, its
    own destination. Entries that packets make while this runs may be missed: the rules have to be right before.
    """
    return cut_entries({zone: Kept.of(what) for zone, what in keep.items()})


def cut_entries(zones: Mapping[int, Kept]) -> int:
    """Do what `cut` does."""
    deleted = 0
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with Netlink(NETLINK_NETFILTER) as netlink:
                doomed = _doomed(netlink, zones) if zones and _count(netlink) else []
                for error in netlink.change_all(_DELETE, doomed):
                    if error is None:
                        deleted += 1
                    elif error.errno != errno.ENOENT:  # that one went by itself
                        raise error
        except OSError as error:
            # ENOBUFS: there were more answers than the socket's buffer could take.
            if attempt < _ATTEMPTS and (isinstance(error, DumpInterruptedError) or error.errno == errno.ENOBUFS):
                continue
            raise _explained(error) from error
        else:
            break
    return deleted


def shared_zones() -> dict[int, int]:
    """Zones that hold for both directions, or for replies: others', hence; and how many entries each has.

    Raises SystemFault if this process may not look, KernelError if the kernel refuses.
    """
    counts: dict[int, int] = {}
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            for entry in netlink.dump(_GET, _NFGENMSG.pack(_ANY_FAMILY, 0, 0)):
                if not _original_zone(entry) and (zone := _shared_zone(entry)):
                    counts[zone] = counts.get(zone, 0) + 1
    except DumpInterruptedError:
        pass  # a census of a moving crowd is not exact anyway
    except OSError as error:
        raise _explained(error) from error
    return counts


class Kept:
    """What stays of a zone, as the kernel writes it: addresses with the port behind them, and those with any port."""

    __slots__ = ("addresses", "datagrams", "endpoints")

    def __init__(
        self,
        endpoints: frozenset[bytes] = frozenset(),
        addresses: frozenset[bytes] = frozenset(),
        *,
        datagrams: bool = False,
    ) -> None:
        self.endpoints, self.addresses, self.datagrams = endpoints, addresses, datagrams

    @classmethod
    def of(cls, what: Endpoints | Stay) -> Kept:
        if not isinstance(what, frozenset):
            return cls(datagrams=what.name == "DATAGRAMS")
        return cls(
            frozenset(address.packed + _NUMBER.pack(port) for address, port in what if port is not None),
            frozenset(address.packed for address, port in what if port is None),
        )

    @classmethod
    def read(cls, text: Iterable[bytes]) -> Kept:
        """Of the words of `text()`."""
        found = frozenset(bytes.fromhex(one.decode()) for one in text)
        addresses = frozenset(one for one in found if len(one) in _ADDRESSES)
        return cls(found - addresses, addresses)

    def text(self) -> bytes:
        """The endpoints as words; there are none for datagrams."""
        return b" ".join(sorted(one.hex().encode() for one in self.endpoints | self.addresses))

    def keeps(self, entry: bytes) -> bool:
        if not (self.endpoints or self.addresses or self.datagrams):
            return False
        protocol, address, port = _reply_source(entry)
        if self.datagrams:
            return protocol == _UDP
        return address + port in self.endpoints or address in self.addresses


def _doomed(netlink: Netlink, zones: Mapping[int, Kept]) -> list[bytes]:
    """Return the bodies of the requests that delete what is not to be kept.

    Each has a tuple: a request without one deletes everything. And the entry's id, so that an entry which has taken
    its place meanwhile is left alone, as long as it has not got the very same memory.
    """
    doomed = []
    for zone, entry in _entries(netlink, zones):
        if not zones[zone].keeps(entry):
            found = attributes(entry, _NFGENMSG.size)
            original = attribute(_CTA_TUPLE_ORIG | NLA_F_NESTED, found[_CTA_TUPLE_ORIG])
            doomed.append(entry[: _NFGENMSG.size] + original + attribute(_CTA_ID, found[_CTA_ID]))
    return doomed


def _count(netlink: Netlink) -> int:
    """How many entries there are in the network namespace."""
    told = attributes(netlink.ask(_COUNT, _NFGENMSG.pack(_ANY_FAMILY, 0, 0)), _NFGENMSG.size)
    return int.from_bytes(told[_CTA_STATS_GLOBAL_ENTRIES], "big")


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
        if not filtered:  # Linux before 6.8: that was everything there is
            return
        remaining.remove(asked)


# The next two look at every entry there is, so they walk to what they need instead of taking everything apart. The
# order of attributes has not changed since conntrack speaks netlink, and is checked.


def _original_zone(entry: bytes) -> int:
    """Return the zone of the original direction; 0 where there is none, or one for both directions."""
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
    """Return the zone of an entry that has none of the original direction; 0 where there is none at all."""
    found = attributes(entry, _NFGENMSG.size)
    zone = found.get(_CTA_ZONE) or attributes(found[_CTA_TUPLE_REPLY]).get(_CTA_TUPLE_ZONE, b"\0\0")
    return int(_NUMBER.unpack(zone)[0])


def _reply_source(entry: bytes) -> tuple[int, bytes, bytes]:
    """Return where replies come from: protocol, and, as on the wire, address and port; where there is none, empty."""
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
    # Behind the protocol's number (eight bytes with its header) come the ports, where the protocol has some.
    after_number = after_network + _ATTRIBUTE.size + 8
    if after_number < after_network + transport_length:
        _, kind = _ATTRIBUTE.unpack_from(entry, after_number)
        if kind == _CTA_PROTO_SRC_PORT:
            return protocol, source, entry[after_number + 4 : after_number + 6]
    return protocol, source, b""


def _unknown_layout() -> KernelError:
    from nftlb.errors import KernelError  # noqa: PLC0415 - hardly ever needed

    return KernelError(f"Linux {os.uname().release} lays conntrack entries out in a way that nftlb does not know")


def _explained(error: OSError) -> NftlbError:
    """Say what to do about it."""
    from nftlb.errors import KernelError, SystemFault  # noqa: PLC0415 - hardly ever needed

    if error.errno == errno.EPERM:
        return SystemFault("not permitted to look into conntrack: run nftlb as root, or with CAP_NET_ADMIN")
    if error.errno in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
        return SystemFault(f"can't reach conntrack: {error.strerror}: modprobe nf_conntrack_netlink")
    return KernelError(f"conntrack refused: {error.strerror}")
