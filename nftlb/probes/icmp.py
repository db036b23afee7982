"""Probes with an ICMP echo request.

It uses raw sockets, for which nftlb has CAP_NET_RAW: "ping" sockets need a sysctl (net.ipv4.ping_group_range) that
permits no user by default. A connected raw socket receives the packets of its peer only, but the packets for all checks
of that peer.
"""

from __future__ import annotations

import secrets
import socket
import struct
import sys
from typing import TYPE_CHECKING

from .exchange import NotOurs, connected, exchange
from .probe import Probe, Success

if TYPE_CHECKING:
    from nftlb.model import Icmp

    from .probe import Subject

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO_REQUEST_6, _ECHO_REPLY_6 = 128, 129
# ICMP_FILTER and ICMP6_FILTER of include/uapi/linux/icmp.h and icmpv6.h: a bit for every type that is dropped.
_FILTER = 1
_SOL_RAW = 255  # Python has no name for it
_ONLY_REPLIES = (_SOL_RAW, _FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
_ONLY_REPLIES_6 = (socket.IPPROTO_ICMPV6, _FILTER, (~(1 << _ECHO_REPLY_6) & (1 << 256) - 1).to_bytes(32, sys.byteorder))
_HEADER = struct.Struct("!BBH")  # type, code, checksum; id and sequence number follow, which the sender chooses
_OURS = 4 + 24  # id and sequence number, then the payload
_OTHERS = 1000  # replies to other checks of the same address arrive here too, and are read quickly
_IPV6 = 6


class IcmpProbe(Probe):
    keeps_time = True

    def __init__(self, _check: Icmp) -> None:
        pass

    async def probe(self, subject: Subject) -> Success:
        ours = secrets.token_bytes(_OURS)
        if subject.address.version == _IPV6:
            opened = connected(subject, 0, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, _ONLY_REPLIES_6)
            # The kernel fills in the checksum, which covers the addresses.
            request = _HEADER.pack(_ECHO_REQUEST_6, 0, 0) + ours
            return await exchange(
                opened, request, lambda packet: read_echo_reply_6(ours, packet), subject.timeout, _OTHERS
            )
        request = echo_request(ours)
        opened = connected(subject, 0, socket.SOCK_RAW, socket.IPPROTO_ICMP, _ONLY_REPLIES)
        return await exchange(opened, request, lambda packet: read_echo_reply_4(ours, packet), subject.timeout, _OTHERS)


def echo_request(ours: bytes) -> bytes:
    """Encode an ICMPv4 echo request. `ours`: all bytes behind the checksum, an even number."""
    words = struct.unpack(f"!{len(ours) // 2}H", ours)
    total = (_ECHO_REQUEST << 8) + sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return _HEADER.pack(_ECHO_REQUEST, 0, ~total & 0xFFFF) + ours


def read_echo_reply_4(ours: bytes, packet: bytes) -> Success:
    """Judge an IPv4 packet, with its header: raw sockets include it. Raises NotOurs."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    return _read(_ECHO_REPLY, ours, packet[header:])


def read_echo_reply_6(ours: bytes, message: bytes) -> Success:
    """Judge an ICMPv6 message, without an IPv6 header: raw sockets leave it out. Raises NotOurs."""
    return _read(_ECHO_REPLY_6, ours, message)


_ANSWERED = Success("answered")


def _read(wanted: int, ours: bytes, message: bytes) -> Success:
    if message[:2] != bytes((wanted, 0)) or message[_HEADER.size :] != ours:
        raise NotOurs("the reply was not for our request")
    return _ANSWERED
