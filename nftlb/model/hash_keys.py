"""The keys of `balance: hash`: the bytes of a packet that decide which backend gets the packet. No I/O.

A key has parts: the client's address or the beginning of it, the client's port, and bytes of the payload. Where
the bytes stand may depend on the datagram, so a key has a list of places, and the first place that fits counts. If no
place fits, because the datagram is too short or is another message, the datagram has no key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .kinds import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

LAST_BYTE = 247
"""The number of payload bytes that rules can read: the kernel counts up to 255 from the beginning of the UDP header."""
MOST_BYTES = 32
"""The most bytes of the payload in a key; the kernel has room for 64 in total."""
LONGEST_ID = 15
"""The most bytes of a server id in a connection id of QUIC-LB."""
ADDRESS_BITS = {Family.IP: 32, Family.IP6: 128}


class Condition(NamedTuple):
    """A condition for `size` bytes of the payload as a number: the bits of `mask` are `value`; or not, if `inverse`."""

    offset: int
    size: int
    mask: int
    value: int
    inverse: bool = False

    def holds(self, payload: bytes) -> bool:
        """Whether the payload has the bytes and meets the condition."""
        found = payload[self.offset : self.offset + self.size]
        if len(found) < self.size:
            return False
        return (int.from_bytes(found, "big") & self.mask == self.value) is not self.inverse


class Place(NamedTuple):
    """Where the bytes stand in datagrams that meet all conditions. `about` is what these datagrams are."""

    offset: int
    length: int
    conditions: tuple[Condition, ...] = ()
    about: str = ""

    @property
    def end(self) -> int:
        """The least length of a payload with these bytes."""
        return self.offset + self.length

    def read(self, payload: bytes) -> bytes | None:
        """Return the bytes; None if the datagram is too short or does not meet the conditions."""
        if len(payload) < self.end or not all(condition.holds(payload) for condition in self.conditions):
            return None
        return payload[self.offset : self.end]


class HashKey(NamedTuple):
    """A key as the file writes it, and its parts.

    `prefixes`: how many bits of the client's address count; empty: all; one number: for the only family of the pool;
    two numbers: for IPv4 and for IPv6. `meaning` names the key in sentences.
    """

    text: str = "source"
    meaning: str = "the client's address"
    address: bool = True
    prefixes: tuple[int, ...] = ()
    port: bool = False
    places: tuple[Place, ...] = ()

    def __str__(self) -> str:
        return self.text

    def prefix(self, family: Family) -> int:
        """Return how many bits of an address count."""
        if not self.prefixes:
            return ADDRESS_BITS[family]
        return self.prefixes[-1 if family is Family.IP6 else 0]


def prefix_key(*prefixes: int) -> HashKey:
    """Return the key of the beginning of the client's address: of one length, or of one for each family."""
    written = "/".join(map(str, prefixes))
    bits = " or ".join(map(str, prefixes))
    return HashKey(f"source/{written}", f"the first {bits} bits of the client's address", prefixes=prefixes)


def payload_key(offset: int, length: int) -> HashKey:
    """Return the key of `length` bytes of the payload from `offset` on."""
    which = f"byte {offset}" if length == 1 else f"bytes {offset} to {offset + length - 1}"
    places = (Place(offset, length),)
    return HashKey(f"payload@{offset}+{length}", f"{which} of the payload", address=False, places=places)


_LONG_HEADER = Condition(0, 1, 0x80, 0x80)
_SHORT_HEADER = Condition(0, 1, 0x80, 0x00)
_LONG_ID = Condition(5, 1, 0xF8, 0, inverse=True)
"""A long header has the length of its connection id in byte 5: this one has 8 bytes or more."""
_OF_A_TUNNEL = Condition(4, 4, 0xFFFFFFFF, 0, inverse=True)


def server_id_places(config_id: int, length: int) -> tuple[Place, Place]:
    """Return the places of a server id of `length` bytes in connection ids of QUIC-LB in plain text.

    The first byte of a connection id begins with the three bits of the configuration; the server id follows the byte
    (draft-ietf-quic-load-balancers-21, sections 3 and 4). RFC 8999, section 5, says where a connection id begins.
    """

    def place(header: Condition, first: int, about: str) -> Place:
        return Place(first + 1, length, (header, Condition(first, 1, 0xE0, config_id << 5)), about)

    # After the handshake, all packets have short headers.
    return place(_SHORT_HEADER, 1, "short header"), place(_LONG_HEADER, 6, "long header")


def _preset(text: str, meaning: str, *places: Place, address: bool = False) -> HashKey:
    return HashKey(text, meaning, address=address, places=places)


SOURCE = HashKey()
QUIC_CID = _preset(
    "quic-cid",
    "the first 8 bytes of the connection id of QUIC",
    # RFC 8999, section 5.1: after flags, version and length. Section 5.2: after the flags.
    Place(1, 8, (_SHORT_HEADER,), "short header"),
    Place(6, 8, (_LONG_HEADER, _LONG_ID), "long header"),
)
_WORDS = (
    SOURCE,
    HashKey("source-port", "the client's address and port", port=True),
    QUIC_CID,
    _preset(
        "gtp-teid",
        "the tunnel endpoint identifier of GTP",
        # 3GPP TS 29.281, section 5.1, and TS 29.274, section 5.1. Messages that belong to no tunnel have 0. In GTPv2-C,
        # the flag T says whether there is an identifier at all; without, a sequence number is in its place.
        Place(4, 4, (Condition(0, 1, 0xF0, 0x30), _OF_A_TUNNEL), "GTPv1"),
        Place(4, 4, (Condition(0, 1, 0xE8, 0x48), _OF_A_TUNNEL), "GTPv2"),
    ),
    _preset(
        "rtp-ssrc",
        "the synchronization source of RTP and RTCP",
        # RFC 3550, sections 5.1 and 6.4.1; RFC 5761, section 4, says which numbers of packet types are those of RTCP.
        # Both have the version 2 in the first two bits; STUN, DTLS and TURN on the same port have not (RFC 7983).
        Place(4, 4, (Condition(0, 2, 0xC0E0, 0x80C0),), "RTCP"),
        Place(8, 4, (Condition(0, 1, 0xC0, 0x80),), "RTP"),
    ),
    _preset(
        "wireguard-receiver",
        "the receiver index of WireGuard",
        # The WireGuard paper, sections 5.4.2, 5.4.6 and 5.4.7: response, data, cookie reply.
        Place(4, 4, (Condition(0, 1, 0xFF, 4),), "data"),
        Place(8, 4, (Condition(0, 1, 0xFF, 2),), "response"),
        Place(4, 4, (Condition(0, 1, 0xFF, 3),), "cookie"),
    ),
    _preset(
        "netflow-source-id",
        "the client's address and the source id of NetFlow, or the observation domain of IPFIX",
        # RFC 3954, section 5.1: a source id is unique in one exporter only. RFC 7011, section 3.1.
        Place(16, 4, (Condition(0, 2, 0xFFFF, 9),), "NetFlow 9"),
        Place(12, 4, (Condition(0, 2, 0xFFFF, 10),), "IPFIX"),
        Place(20, 2, (Condition(0, 2, 0xFFFF, 5),), "NetFlow 5"),
        address=True,
    ),
    _preset(
        "radius-identifier",
        "the client's address and the identifier of RADIUS",
        # RFC 2865, section 3: a repeated request has the same identifier, and the same address of the client.
        Place(1, 1),
        address=True,
    ),
)
KEY_WORDS: Mapping[str, HashKey] = {key.text: key for key in _WORDS}
"""The keys that are one word, by this word."""
