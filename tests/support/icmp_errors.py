"""Builds ICMP errors byte by byte, as a host, a router or an attacker would send them."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.lab import Namespace

Endpoint = tuple[str, int]

PORT, HOST = "port", "host"
_KINDS = {(4, PORT): (3, 3), (4, HOST): (3, 1), (6, PORT): (1, 4), (6, HOST): (1, 3)}
_ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}


@dataclass(frozen=True)
class Unreachable:
    """An ICMP error from `reporter` to `target`, about a datagram from `sender` to `receiver`."""

    reporter: str
    target: str
    sender: Endpoint
    receiver: Endpoint
    what: str = PORT
    protocol: int = socket.IPPROTO_UDP

    def packet(self) -> bytes:
        """The whole packet with its IP header."""
        (source, sport), (destination, dport) = self.sender, self.receiver
        quoted = _ip(source, destination, self.protocol, struct.pack("!HHHH", sport, dport, 8, 0))
        version = ip_address(self.reporter).version
        icmp = _ICMP[version]
        kind, code = _KINDS[version, self.what]
        body = struct.pack("!BBHI", kind, code, 0, 0) + quoted
        pseudo = _pseudo(self.reporter, self.target, len(body)) if version == 6 else b""
        body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
        return _ip(self.reporter, self.target, icmp, body)


def send(host: Namespace, *errors: Unreachable) -> None:
    """Send errors with any source addresses from a host."""

    def inside() -> None:
        for error in errors:
            family = socket.AF_INET if ip_address(error.target).version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
                sock.sendto(error.packet(), (error.target, 0))

    host.call(inside)


def _ip(source: str, destination: str, protocol: int, content: bytes) -> bytes:
    sender, receiver = ip_address(source), ip_address(destination)
    if isinstance(sender, IPv4Address):
        header = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(content), 1, 0, 64, protocol, 0, sender.packed, receiver.packed
        )
        return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + content
    return struct.pack("!IHBB16s16s", 6 << 28, len(content), protocol, 64, sender.packed, receiver.packed) + content


def _pseudo(source: str, destination: str, length: int) -> bytes:
    return (
        ip_address(source).packed + ip_address(destination).packed + struct.pack("!II", length, socket.IPPROTO_ICMPV6)
    )


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
