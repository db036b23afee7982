"""Socket options that Python's socket module does not name, and the ancillary data that go with them."""

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
IP_RECVERR = 11
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
PMTUDISC_DO = 2
UDP_NO_CHECK6_TX = 101
UDP_NO_CHECK6_RX = 102

ANCILLARY_SIZE = 512
"""Room for all ancillary data that the options here can bring."""
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


def grow_receive_buffer(sock: socket.socket, size: int = RECEIVE_BUFFER) -> None:
    """Ask for a large receive buffer: past the system's limit when we are root outside, else up to it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def omit_checksum(sock: socket.socket) -> None:
    """Send UDP without a checksum (the field is zero) and, over IPv6, accept such datagrams too."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    else:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)


def forbid_fragments(sock: socket.socket) -> None:
    """Set DF, and refuse (EMSGSIZE) what is longer than the path is known to take."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)


def keep_errors(sock: socket.socket) -> None:
    """Queue ICMP errors with all that is known about them (IP_RECVERR)."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def tell_destination(sock: socket.socket) -> None:
    """Have the destination address and the time of arrival come with each datagram."""
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
    """Return the nanosecond (CLOCK_REALTIME) in which the kernel took a datagram from its interface."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def answer(sock: socket.socket, payload: bytes, source: str, peer: tuple[str, int]) -> None:
    """Send an answer from the address that was asked. Nothing is sent where the host has lost its link or the address.

    A test that takes a link away expects that answers are missing; any other error is raised.
    """
    try:
        sock.sendmsg([payload], from_address(source), 0, peer)
    except OSError as error:
        if error.errno not in _NO_WAY_OUT:
            raise


def from_address(address: str) -> list[Ancillary]:
    """Return the ancillary data that send a datagram from this address, whatever the route prefers."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:  # noqa: PLR2004 - the version's name is its number
        return [(socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, parsed.packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(parsed.packed, 0))]
