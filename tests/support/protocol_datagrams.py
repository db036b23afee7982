"""Datagrams of the protocols whose keys `balance: hash` knows, made by scapy, pyrad and aioquic."""

from __future__ import annotations

import logging
import struct
from functools import cache
from typing import TYPE_CHECKING

from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from pyrad.dictionary import Dictionary
from pyrad.packet import AccessRequest, AuthPacket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # it complains where IPv6 has no default route

from scapy.contrib.gtp import GTP_U_Header  # noqa: E402 - the logger must be quiet before scapy is loaded
from scapy.contrib.gtp_v2 import GTPHeader, GTPV2CreateSessionRequest, GTPV2EchoRequest, GTPV2ModifyBearerRequest  # noqa: E402
from scapy.contrib.rtcp import RTCP, SenderInfo  # noqa: E402
from scapy.contrib.stun import STUN  # noqa: E402
from scapy.contrib.wireguard import (  # noqa: E402
    Wireguard,
    WireguardCookieReply,
    WireguardInitiation,
    WireguardResponse,
    WireguardTransport,
)
from scapy.layers.netflow import (  # noqa: E402
    NetflowHeader,
    NetflowHeaderV1,
    NetflowHeaderV5,
    NetflowHeaderV9,
    NetflowHeaderV10,
)
from scapy.layers.rtp import RTP  # noqa: E402

Group = tuple[bytes, ...]
"""Datagrams with the same key that have as few other bytes in common as possible."""

_CID = struct.Struct("!QI")


def quic_initial(destination: bytes) -> bytes:
    """The first datagram of a client for a connection id, as aioquic sends it."""
    client = QuicConnection(configuration=QuicConfiguration(is_client=True, server_name="a.example"))
    client._peer_cid.cid = destination
    client.connect(("192.0.2.1", 443), now=0.0)
    return client.datagrams_to_send(now=0.0)[0][0]


def quic_short(destination: bytes, number: int) -> bytes:
    """A packet with a short header: RFC 9000, section 17.3.1. What follows the connection id is encrypted."""
    return bytes([0x40 | number & 0x3F]) + destination + encode_uint_var(number) + bytes(range(24))


def _quic(number: int) -> Group:
    destination = _CID.pack(number * 0x9E3779B97F4A7C15 & 2**64 - 1, number)
    return quic_initial(destination), quic_short(destination, number), quic_short(destination, number + 7)


def _gtp(number: int) -> Group:
    teid = number + 1  # 0 belongs to no tunnel
    control = GTPHeader(P=0, teid=teid, seq=number + 5) / GTPV2ModifyBearerRequest()
    return bytes(GTP_U_Header(teid=teid) / b"one packet"), bytes(GTP_U_Header(teid=teid, gtp_type=254)), bytes(control)


def _rtp(number: int) -> Group:
    media = [bytes(RTP(sourcesync=number, sequence=at, timestamp=at * 160, marker=at % 2) / b"20 ms") for at in (1, 2)]
    return (*media, bytes(RTCP(packet_type=200, sourcesync=number, sender_info=SenderInfo(rtp_timestamp=number))))


def _wireguard(number: int) -> Group:
    return (
        bytes(Wireguard() / WireguardTransport(receiver_index=number, counter=number + 3)),
        bytes(Wireguard() / WireguardResponse(receiver_index=number, sender_index=number + 9)),
        bytes(Wireguard() / WireguardCookieReply(receiver_index=number)),
    )


def _netflow(number: int) -> Group:
    nine = NetflowHeader(version=9) / NetflowHeaderV9(SourceID=number, sysUptime=number + 1, packageSequence=number)
    ten = NetflowHeader(version=10) / NetflowHeaderV10(ObservationDomainID=number, flowSequence=number + 5)
    return bytes(nine), bytes(ten)


def _radius(number: int) -> Group:
    def request(name: str) -> bytes:
        packet = AuthPacket(AccessRequest, number % 256, secret=b"secret", dict=Dictionary())
        packet[1] = [name.encode()]
        return bytes(packet.RequestPacket())

    return request("alice"), request("bob")


KEYED: Mapping[str, Callable[[int], Group]] = {
    "quic-cid": cache(_quic),
    "gtp-teid": cache(_gtp),
    "rtp-ssrc": cache(_rtp),
    "wireguard-receiver": cache(_wireguard),
    "netflow-source-id": cache(_netflow),
    "radius-identifier": cache(_radius),
}
"""By key, the datagrams with the key of a number. Every datagram is a real one of the protocol."""

KEYLESS: Mapping[str, Group] = {
    "quic-cid": (b"", b"\x40short", quic_initial(b"7 bytes")),
    "gtp-teid": (
        bytes(GTP_U_Header(teid=0, gtp_type=1)),
        b"\x30\xff\x00",
        bytes(GTPHeader(P=0, seq=77) / GTPV2EchoRequest()),  # without an identifier
        bytes(GTPHeader(P=0, teid=0, seq=77) / GTPV2CreateSessionRequest()),
        bytes.fromhex("1e010004 00010000 ffffffff 0000000000000000"),  # GTP version 0: 3GPP TS 09.60
    ),
    "rtp-ssrc": (
        bytes(RTP())[:11],
        bytes(STUN(transaction_id=0x1234567890ABCDEF12345678)),
        b"\x16\xfe\xfd" + bytes(8) + b"\x00\x01\x01" + bytes(40),  # DTLS
    ),
    "wireguard-receiver": (bytes(Wireguard() / WireguardInitiation(sender_index=5)), b"\x04\0\0\0\1\2\3"),
    "netflow-source-id": (
        bytes(NetflowHeader(version=1) / NetflowHeaderV1()),
        bytes(NetflowHeader(version=9)),
        struct.pack("!II4sIIII", 5, 1, bytes([192, 0, 2, 9]), 1, 77, 1000, 0),  # sFlow 5, from the agent 192.0.2.9
    ),
    "radius-identifier": (b"\x01",),
}
"""By key, datagrams without the key: other messages of the protocol, and datagrams that are too short."""

ENGINE = bytes(NetflowHeader(version=5) / NetflowHeaderV5(engineType=1, engineID=2))
"""NetFlow 5, which has no source id, but the type and the number of an engine."""
