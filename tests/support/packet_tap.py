"""Captures the packets of an interface, parsed, with the state of their UDP checksums.

The kernel copies a packet to the tap before the ingress hook sees it and after the last postrouting hook, in the
packet's own path: when a reply has arrived, all packets before it are in the tap.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self

from nftlb.lab import sockopt

if TYPE_CHECKING:
    from nftlb.lab import Namespace

_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_ETH_P_IPV6 = 0x86DD
_SOL_PACKET = 263
_PACKET_AUXDATA = 8
_AUXDATA = struct.Struct("@IIIHHHH")
_STATUS_CHECKSUM_NOT_READY = 1 << 3
_IPV6_FRAGMENT = 44
_ETHERNET = 14
_UDP = 8


class UdpChecksum(Enum):
    """The state of a UDP datagram's checksum."""

    ABSENT = "absent"
    """The field is zero: the sender wrote no checksum."""
    GOOD = "good"
    BAD = "bad"
    UNFINISHED = "unfinished"
    """Left to the hardware (offload); the field holds only the pseudo-header's part."""
    UNKNOWN = "unknown"
    """Not UDP, or a fragment."""


@dataclass(frozen=True)
class TappedPacket:
    """A packet that passed. Ports are 0 if there are none, as in a later fragment."""

    outgoing: bool
    mac_source: str
    mac_destination: str
    protocol: int
    source: tuple[str, int]
    destination: tuple[str, int]
    ttl: int
    fragment: bool
    checksum: UdpChecksum
    payload: bytes = field(repr=False)
    """The bytes after the UDP header or, for other protocols, after the IP header."""


class Tap:
    """A packet socket on one interface of a namespace; a context manager."""

    def __init__(self, host: Namespace, interface: str = "eth0") -> None:
        self._sock = host.call(_open, interface)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._sock.close()

    def packets(self) -> list[TappedPacket]:
        """The IPv4 and IPv6 packets that passed since the last call, in order, without waiting."""
        packets: list[TappedPacket] = []
        while True:
            try:
                frame, ancillary, _, address = self._sock.recvmsg(65536, sockopt.ANCILLARY_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return packets
            unfinished = any(
                _AUXDATA.unpack(data)[0] & _STATUS_CHECKSUM_NOT_READY
                for level, kind, data in ancillary
                if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA)
            )
            packet = _parse(frame, outgoing=address[2] == socket.PACKET_OUTGOING, unfinished=unfinished)
            if packet:
                packets.append(packet)

    def datagrams(self) -> list[TappedPacket]:
        """The UDP packets that passed since the last call."""
        return [packet for packet in self.packets() if packet.protocol == socket.IPPROTO_UDP]


def _open(interface: str) -> socket.socket:
    # Protocol 0 first: a socket made with ETH_P_ALL would catch packets of all interfaces until it is bound to one.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sockopt.grow_receive_buffer(sock)
    sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    sock.bind((interface, _ETH_P_ALL))
    return sock


def _parse(frame: bytes, *, outgoing: bool, unfinished: bool) -> TappedPacket | None:
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    packet = frame[_ETHERNET:]
    if ethertype == _ETH_P_IP:
        protocol, ttl, offset = packet[9], packet[8], (packet[0] & 0x0F) * 4
        source, destination = packet[12:16], packet[16:20]
        (fragment_field,) = struct.unpack_from("!H", packet, 6)
        fragment, first = bool(fragment_field & 0x3FFF), not fragment_field & 0x1FFF
        packet = packet[: struct.unpack_from("!H", packet, 2)[0]]
    elif ethertype == _ETH_P_IPV6:
        protocol, ttl, offset = packet[6], packet[7], 40
        source, destination = packet[8:24], packet[24:40]
        packet = packet[: 40 + struct.unpack_from("!H", packet, 4)[0]]
        fragment, first = protocol == _IPV6_FRAGMENT, True
        if fragment:
            protocol = packet[40]
            first = not struct.unpack_from("!H", packet, 42)[0] & 0xFFF8
            offset = 48
    else:
        return None
    content = packet[offset:]
    ports, checksum = (0, 0), UdpChecksum.UNKNOWN
    if first and protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP, socket.IPPROTO_SCTP):
        ports = struct.unpack_from("!HH", content)
    if protocol == socket.IPPROTO_UDP and first:
        if not fragment:
            checksum = _judge(source + destination, content, unfinished=unfinished)
        content = content[_UDP:]
    return TappedPacket(
        outgoing=outgoing,
        mac_source=frame[6:12].hex(":"),
        mac_destination=frame[:6].hex(":"),
        protocol=protocol,
        source=(str(ipaddress.ip_address(source)), ports[0]),
        destination=(str(ipaddress.ip_address(destination)), ports[1]),
        ttl=ttl,
        fragment=fragment,
        checksum=checksum,
        payload=content,
    )


def _judge(addresses: bytes, datagram: bytes, *, unfinished: bool) -> UdpChecksum:
    if not any(datagram[6:8]):
        return UdpChecksum.ABSENT
    if unfinished:
        return UdpChecksum.UNFINISHED
    total = _sum(addresses + struct.pack("!II", len(datagram), socket.IPPROTO_UDP) + datagram)
    return UdpChecksum.GOOD if total == 0xFFFF else UdpChecksum.BAD


def _sum(data: bytes) -> int:
    """The sum of the Internet checksum (RFC 1071) without its complement."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
