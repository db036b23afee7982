"""The payload of the lab's datagrams: sender, number, size, and a digest of all bytes. No I/O here."""

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
"""The smallest payload in bytes: the header of a lab datagram."""
LARGEST = 65507
"""The payload of the largest UDP datagram of IPv4, in bytes."""
SAME = 0xFFFFFFFF
"""A `reply_size` that asks for a reply as long as the request."""

_PATTERN = bytes(range(251)) * (LARGEST // 251 + 2)


class DatagramKind(IntEnum):
    """The purpose of a datagram."""

    REQUEST = 0
    REPLY = 1
    FENCE = 2
    """Bypasses the rules and shows that all earlier datagrams have arrived. Answered, but not counted."""


@dataclass(frozen=True)
class Datagram:
    """One datagram. `name`: the host that sent it. `reply_size`: the wanted size of the reply in bytes; 0: no reply."""

    kind: DatagramKind
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
        """Return the reply of the backend `name`."""
        size = self.size if self.reply_size == SAME else self.reply_size
        kind = DatagramKind.FENCE if self.kind is DatagramKind.FENCE else DatagramKind.REPLY
        return Datagram(kind, self.sequence, name, size, 0)


def decode_datagram(payload: bytes) -> tuple[Datagram, bool] | None:
    """Return the datagram and whether all its bytes are right; None if it is not a datagram of the lab."""
    if len(payload) < SMALLEST or not payload.startswith(_MAGIC):
        return None
    _, *numbers, digest = _HEADER.unpack_from(payload)
    kind, name_length, _, sequence, size, reply_size = numbers
    body = payload[SMALLEST:]
    try:
        datagram = Datagram(DatagramKind(kind), sequence, body[:name_length].decode(), len(payload), reply_size)
    except ValueError:
        return None
    return datagram, size == len(payload) and digest == _digest(numbers, body)


def _digest(numbers: Iterable[int], body: bytes) -> bytes:
    start = " ".join(str(int(number)) for number in numbers)
    return hashlib.blake2b(start.encode() + body, digest_size=_DIGEST_SIZE).digest()
