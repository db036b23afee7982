"""The TTL (hop limit) of the datagrams of a socket, and the errors about datagrams whose TTL has ended."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packet_tap import Tap

    from nftlb.lab import Host

TIME_EXCEEDED = {socket.IPPROTO_ICMP: 11, socket.IPPROTO_ICMPV6: 3}
_ICMP = 8  # bytes before the quoted packet


def set_ttl(sock: socket.socket, ttl: int) -> None:
    """Set the TTL, or the hop limit, of the next datagrams of a socket."""
    if sock.family is socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)


def send_all_errors(host: Host) -> None:
    """Let a host send any number of ICMP errors.

    Without this, the kernel sends an IPv4 client no error while it has redirects for the client, also if a rule drops
    the redirects: both have the same limit.
    """
    for name in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
        host.sysctl(name, 0)


def time_exceeded(tap: Tap) -> list[tuple[str, int]]:
    """The destinations of the UDP datagrams that errors quote, since the last call: time exceeded on the way."""
    messages = [packet for packet in tap.packets() if packet.protocol in TIME_EXCEEDED]
    return [
        _destination(packet.payload[_ICMP:])
        for packet in messages
        if packet.payload[:2] == bytes((TIME_EXCEEDED[packet.protocol], 0))
    ]


def _destination(packet: bytes) -> tuple[str, int]:
    version = packet[0] >> 4
    place, udp = {4: (slice(16, 20), (packet[0] & 0xF) * 4), 6: (slice(24, 40), 40)}[version]
    return str(ip_address(packet[place])), struct.unpack_from("!H", packet, udp + 2)[0]
