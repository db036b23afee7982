"""Sends an ICMP echo request.

On raw sockets, for which nftlb has CAP_NET_RAW: the "ping" sockets need a sysctl (net.ipv4.ping_group_range) that is
closed by default. A connected raw socket gets the packets of its peer only, but those of all checks of that peer.
"""

from __future__ import annotations

import secrets
import socket
import struct
import sys
from typing import TYPE_CHECKING

from .exchange import NotOurs, connected, exchange
from .probe import Answer, Probe

if TYPE_CHECKING:
    from nftlb.model import Icmp

    from .subject import Subject

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO_REQUEST_6, _ECHO_REPLY_6 = 128, 129
# ICMP_FILTER and ICMP6_FILTER of include/uapi/linux/icmp.h and icmpv6.h: a bit for every type that is kept out.
_FILTER = 1
_SOL_RAW = 255  # Python has no name for it
_ONLY_REPLIES = (_SOL_RAW, _FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
_ONLY_REPLIES_6 = (socket.IPPROTO_ICMPV6, _FILTER, (~(1 << _ECHO_REPLY_6) & (1 << 256) - 1).to_bytes(32, sys.byteorder))
_HEADER = struct.Struct("!BBH")  # type, code, checksum; then come id and sequence number, which are ours to choose
_OURS = 4 + 24  # id and sequence number, then the payload
_OTHERS = 1000  # answers to other checks of the same address come here as well, and take next to no time to look at
_IPV6 = 6


class IcmpProbe(Probe):
    keeps_time = True

    def __init__(self, _check: Icmp) -> None:
        pass

    async def probe(self, subject: Subject) -> Answer:
        ours = secrets.token_bytes(_OURS)
        if subject.address.version == _IPV6:
            opened = connected(subject, 0, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, _ONLY_REPLIES_6)
            # The kernel fills in the checksum, which covers the addresses.
            request = _HEADER.pack(_ECHO_REQUEST_6, 0, 0) + ours
            return await exchange(opened, request, lambda packet: read_6(ours, packet), subject.timeout, _OTHERS)
        request = echo_request(ours)
        opened = connected(subject, 0, socket.SOCK_RAW, socket.IPPROTO_ICMP, _ONLY_REPLIES)
        return await exchange(opened, request, lambda packet: read_4(ours, packet), subject.timeout, _OTHERS)


def echo_request(ours: bytes) -> bytes:
    """Lay out an ICMPv4 echo request; `ours` is everything behind the checksum, an even number of bytes."""
    words = struct.unpack(f"!{len(ours) // 2}H", ours)
    total = (_ECHO_REQUEST << 8) + sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return _HEADER.pack(_ECHO_REQUEST, 0, ~total & 0xFFFF) + ours


def read_4(ours: bytes, packet: bytes) -> Answer:
    """Read an IPv4 packet: raw sockets give its header too."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    return _read(_ECHO_REPLY, ours, packet[header:])


def read_6(ours: bytes, message: bytes) -> Answer:
    """Read an ICMPv6 message: here raw sockets give no header."""
    return _read(_ECHO_REPLY_6, ours, message)


_ANSWERED = Answer("answered")


def _read(wanted: int, ours: bytes, message: bytes) -> Answer:
    if message[:2] != bytes((wanted, 0)) or message[_HEADER.size :] != ours:
        raise NotOurs("what came was not the answer to our request")
    return _ANSWERED
