"""Socket options that are missing in Python's socket module, and their ancillary data."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/asm-generic/socket.h, linux/in.h, linux/in6.h, linux/udp.h
SO_NO_CHECK = 11
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_DO = 2
UDP_NO_CHECK6_TX = 101
UDP_NO_CHECK6_RX = 102

ANCILLARY_SIZE = 512
"""Bytes for all ancillary data of the options here."""
RECEIVE_BUFFER = 32 << 20

_NO_WAY_OUT = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}

_TIMESPEC = struct.Struct("@qq")
_PKTINFO4 = struct.Struct("@i4s4s")
_PKTINFO6 = struct.Struct("@16sI")

Ancillary = tuple[int, int, bytes]


def family_of(version: int) -> socket.AddressFamily:
    """Return the address family of IP version 4 or 6."""
    return {4: socket.AF_INET, 6: socket.AF_INET6}[version]


def version_of(address: str) -> int:
    """Return 4 or 6."""
    return ipaddress.ip_address(address).version


def grow_receive_buffer(sock: socket.socket) -> None:
    """Set a large receive buffer: beyond the system's limit if this process is root on the host."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def omit_checksum(sock: socket.socket) -> None:
    """Send UDP without a checksum (the field is zero). Over IPv6, also accept datagrams without a checksum."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    else:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)


def forbid_fragments(sock: socket.socket) -> None:
    """Set DF, and refuse datagrams that are larger than the known path MTU (EMSGSIZE)."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)


def receive_destination(sock: socket.socket) -> None:
    """Receive the destination address and the time of arrival with each datagram."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def destination_of(ancillary: Iterable[Ancillary]) -> str:
    """Return the address that a datagram was sent to."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return str(ipaddress.ip_address(_PKTINFO4.unpack(data)[2]))
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return str(ipaddress.ip_address(_PKTINFO6.unpack(data)[0]))
    return ""


def arrival_of(ancillary: Iterable[Ancillary]) -> int:
    """Return the time at which the kernel received a datagram, in nanoseconds of CLOCK_REALTIME."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def send_reply(sock: socket.socket, payload: bytes, source: str, peer: tuple[str, int]) -> None:
    """Send a reply from `source`. Nothing is sent if the host has lost its link or the address.

    Tests take links away and expect missing replies. All other errors are raised.
    """
    try:
        sock.sendmsg([payload], from_address(source), 0, peer)
    except OSError as error:
        if error.errno not in _NO_WAY_OUT:
            raise


def from_address(address: str) -> list[Ancillary]:
    """Return the ancillary data for sending a datagram from this address instead of the route's preferred source."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:  # noqa: PLR2004 - the version's name is its number
        return [(socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, parsed.packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(parsed.packed, 0))]
