"""The kernel's hash of a key, as nft's `jhash` expression computes it. It gives the backend of a packet.

The function is Bob Jenkins' lookup3, which the kernel has in include/linux/jhash.h; numbers are 32 bits.
"""

from __future__ import annotations

import sys
from typing import Literal

_MASK = 0xFFFFFFFF
_START = 0xDEADBEEF
_BLOCK = 12


def slot_of(key: bytes, slots: int, seed: int) -> int:
    """Return the slot of a key (bytes as in the packet) among `slots`. The kernel scales the hash to the slots."""
    return jhash(key, seed) * slots >> 32


def jhash(key: bytes, seed: int, byteorder: Literal["little", "big"] = sys.byteorder) -> int:
    """Return the hash of a key that is not empty, for a machine of this byte order."""
    a = b = c = (_START + len(key) + seed) & _MASK
    while len(key) > _BLOCK:
        words = [int.from_bytes(key[at : at + 4], byteorder) for at in (0, 4, 8)]
        a, b, c = _mix(a + words[0] & _MASK, b + words[1] & _MASK, c + words[2] & _MASK)
        key = key[_BLOCK:]
    # The kernel adds the last bytes one by one, the lowest first, whatever the byte order of the machine.
    tail = key.ljust(_BLOCK, b"\0")
    words = [int.from_bytes(tail[at : at + 4], "little") for at in (0, 4, 8)]
    return _finish(a + words[0] & _MASK, b + words[1] & _MASK, c + words[2] & _MASK)


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for first, second, third in ((4, 6, 8), (16, 19, 4)):
        a = (a - c & _MASK) ^ _rotate(c, first)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _rotate(a, second)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _rotate(b, third)
        b = b + a & _MASK
    return a, b, c


def _finish(a: int, b: int, c: int) -> int:
    c = (c ^ b) - _rotate(b, 14) & _MASK
    a = (a ^ c) - _rotate(c, 11) & _MASK
    b = (b ^ a) - _rotate(a, 25) & _MASK
    c = (c ^ b) - _rotate(b, 16) & _MASK
    a = (a ^ c) - _rotate(c, 4) & _MASK
    b = (b ^ a) - _rotate(a, 14) & _MASK
    return (c ^ b) - _rotate(b, 24) & _MASK
