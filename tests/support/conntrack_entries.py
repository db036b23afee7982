"""The conntrack entries of a host. The kernel deletes expired entries while it lists them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from nftlb.kernel.netlink import NETLINK_NETFILTER, Netlink, attributes
from nftlb.lab.sockopt import family_of

if TYPE_CHECKING:
    from nftlb.lab import Namespace

# include/uapi/linux/netfilter/nfnetlink_conntrack.h: CTA_*, CTA_TUPLE_*, CTA_IP_*, CTA_PROTO_*
_GET = 0x101
_ORIGINAL, _REPLY, _TIMEOUT = 1, 2, 7
_IP, _PROTO, _ZONE = 1, 2, 3
_NFGENMSG = struct.Struct("=BBH")
_UDP = 17


@dataclass(frozen=True)
class UdpEntry:
    """An entry of UDP. `seconds`: the time until the entry expires. `answerer`: the source of replies."""

    seconds: int
    zone: int
    source: tuple[str, int]
    destination: tuple[str, int]
    answerer: tuple[str, int]


def udp_entries(host: Namespace, version: int, port: int | None = None) -> list[UdpEntry]:
    """Return the entries of an IP version, in the kernel's order; with a port, those whose first packet went there."""
    found = host.call(_read, version)
    return [one for one in found if port in (None, one.destination[1])]


def _read(version: int) -> list[UdpEntry]:
    with Netlink(NETLINK_NETFILTER) as netlink:
        entries = [
            attributes(body, _NFGENMSG.size)
            for body in netlink.dump_all(_GET, _NFGENMSG.pack(family_of(version), 0, 0))
        ]
    return [_entry(one) for one in entries if attributes(attributes(one[_ORIGINAL])[_PROTO])[1][0] == _UDP]


def _entry(one: dict[int, bytes]) -> UdpEntry:
    source, destination = _ends(one[_ORIGINAL])
    zone = attributes(one[_ORIGINAL]).get(_ZONE, b"\0\0")
    return UdpEntry(
        int.from_bytes(one[_TIMEOUT], "big"), int.from_bytes(zone, "big"), source, destination, _ends(one[_REPLY])[0]
    )


def _ends(tuple_: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return address and port of sender and receiver."""
    parts = attributes(tuple_)
    addresses, protocol = attributes(parts[_IP]), attributes(parts[_PROTO])
    sender, receiver = (str(ip_address(addresses.get(kind) or addresses[kind + 2])) for kind in (1, 2))
    return (sender, int.from_bytes(protocol[2], "big")), (receiver, int.from_bytes(protocol[3], "big"))
