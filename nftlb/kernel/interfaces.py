"""Interfaces and their addresses, read by netlink."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from .netlink import attributes

if TYPE_CHECKING:
    from .netlink import Netlink

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_IFINFOMSG = struct.Struct("=BBHiII")  # family, -, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_NUMBER = struct.Struct("=I")
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFF_UP = 1
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface. `unusable`: those of its addresses that the kernel does not take for its own (yet)."""

    index: int
    name: str
    mtu: int = 1500
    up: bool = True
    unusable: frozenset[IPv4Address | IPv6Address] = frozenset()
    addresses: frozenset[IPv4Address | IPv6Address] = frozenset()


def read_interfaces(netlink: Netlink) -> tuple[Interface, ...]:
    """All interfaces of the namespace, in the order of their index."""
    unusable: dict[int, set[IPv4Address | IPv6Address]] = {}
    addresses: dict[int, set[IPv4Address | IPv6Address]] = {}
    for body in netlink.dump_all(_RTM_GETADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, _, flags, _, index = _IFADDRMSG.unpack_from(body)
        found = attributes(body, _IFADDRMSG.size)
        if _IFA_FLAGS in found:
            flags = _NUMBER.unpack(found[_IFA_FLAGS])[0]
        address = ip_address(found.get(_IFA_LOCAL) or found[_IFA_ADDRESS])
        addresses.setdefault(index, set()).add(address)
        if flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE):
            unusable.setdefault(index, set()).add(address)
    interfaces = []
    for body in netlink.dump_all(_RTM_GETLINK, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0)):
        _, _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
        found = attributes(body, _IFINFOMSG.size)
        interfaces.append(
            Interface(
                index,
                found[_IFLA_IFNAME].rstrip(b"\0").decode(),
                _NUMBER.unpack(found[_IFLA_MTU])[0],
                bool(flags & _IFF_UP),
                frozenset(unusable.get(index, ())),
                frozenset(addresses.get(index, ())),
            )
        )
    return tuple(sorted(interfaces, key=lambda interface: interface.index))
