"""The payload of the lab's datagrams: who, which one, how long, and proof that it is whole. No I/O here."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAGIC = b"nftl"
_DIGEST_SIZE = 8
_HEADER = struct.Struct(f"!4sBBHQII{_DIGEST_SIZE}s")

SMALLEST = _HEADER.size
"""Bytes of payload below which a datagram can't carry its header."""
LARGEST = 65507
"""Bytes of payload in the largest UDP datagram of IPv4."""
SAME = 0xFFFFFFFF
"""As `reply_size`: a reply as long as the request."""

_PATTERN = bytes(range(251)) * (LARGEST // 251 + 2)


class Kind(IntEnum):
    """What a datagram is for."""

    REQUEST = 0
    REPLY = 1
    FENCE = 2
    """Sent past the rules to see that everything before it has arrived; answered, but not counted."""


@dataclass(frozen=True)
class Datagram:
    """One datagram. `name` is the host that sent it; `reply_size` asks for an answer that long (0: for none)."""

    kind: Kind
    sequence: int
    name: str
    size: int
    reply_size: int = SAME

    def encode(self) -> bytes:
        """Return the payload: exactly `size` bytes, or as few as the header and the name need."""
        name = self.name.encode()
        size = max(self.size, SMALLEST + len(name))
        start = self.sequence % 251
        body = name + _PATTERN[start : start + size - SMALLEST - len(name)]
        numbers = (self.kind, len(name), 0, self.sequence, size, self.reply_size)
        return _HEADER.pack(_MAGIC, *numbers, _digest(numbers, body)) + body

    def reply(self, name: str) -> Datagram:
        """Return what the backend `name` answers."""
        size = self.size if self.reply_size == SAME else self.reply_size
        kind = Kind.FENCE if self.kind is Kind.FENCE else Kind.REPLY
        return Datagram(kind, self.sequence, name, size, 0)


def decode(payload: bytes) -> tuple[Datagram, bool] | None:
    """Return the datagram and whether it is whole, every byte of it; None when it is not one of ours."""
    if len(payload) < SMALLEST or not payload.startswith(_MAGIC):
        return None
    _, *numbers, digest = _HEADER.unpack_from(payload)
    kind, name_length, _, sequence, size, reply_size = numbers
    body = payload[SMALLEST:]
    try:
        datagram = Datagram(Kind(kind), sequence, body[:name_length].decode(), len(payload), reply_size)
    except ValueError:
        return None
    return datagram, size == len(payload) and digest == _digest(numbers, body)


def _digest(numbers: Iterable[int], body: bytes) -> bytes:
    start = " ".join(str(int(number)) for number in numbers)
    return hashlib.blake2b(start.encode() + body, digest_size=_DIGEST_SIZE).digest()
