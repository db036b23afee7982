"""The text of rules that read a key of `balance: hash`: from `nftlb.model.hash_keys` to nft's words. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from nftlb.model import Family
from nftlb.model.hash_keys import ADDRESS_BITS

from .words import WORDS, format_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import HashKey, Place
    from nftlb.model.hash_keys import Condition

_HEADER = 8
"""The bytes of the UDP header, from which nft counts."""
_SHORTEST_FRAME = 18
"""The payload of the shortest Ethernet frame over IPv4: 60 - 14 - 20 - 8 bytes. Shorter datagrams have padding."""


def readings(key: HashKey, family: Family, *, padded: bool) -> Iterator[tuple[str, str, str]]:
    """Yield a match that ends with a space, the expression that is hashed, and what the packets are.

    A packet uses the first reading that it matches. A datagram without these bytes does not match.
    """
    if not key.places:
        yield "", hashed(key, family), "" if key.text == "source" else f"by {key}"
    for place in key.places:
        yield match(place, padded=padded), hashed(key, family, place), f"by {key}, {place.about}".removesuffix(", ")


def hashed(key: HashKey, family: Family, place: Place | None = None) -> str:
    """Return the expression that is hashed; without a place, the parts of the key that all packets have."""
    parts = []
    if key.address:
        parts.append(f"{WORDS[family].ip} saddr{_mask(key, family)}")
    if key.port:
        parts.append("th sport")
    if place:
        parts.append(bits(place))
    return " . ".join(parts) or str(key)


def match(place: Place, *, padded: bool) -> str:
    """Return a match, which ends with a space, for the conditions of a place.

    `padded`: at the ingress hook, the kernel has not yet removed the padding of a short frame, and would read it.
    """
    length = f"@th,32,16 >= {_HEADER + place.end} " if padded and place.end <= _SHORTEST_FRAME else ""
    return length + "".join(f"{_condition(condition)} " for condition in place.conditions)


def bits(place: Place) -> str:
    """Return the bytes of a place as nft writes bits of a packet."""
    return _bits(place.offset, place.length)


def _condition(condition: Condition) -> str:
    field = _bits(condition.offset, condition.size)
    if condition.mask == 256**condition.size - 1:
        return f"{field} {'!= ' if condition.inverse else ''}{condition.value}"
    width = 2 + 2 * condition.size
    operator = "!=" if condition.inverse else "=="
    return f"{field} & {condition.mask:#0{width}x} {operator} {condition.value:#0{width}x}"


def _bits(offset: int, length: int) -> str:
    return f"@th,{8 * (_HEADER + offset)},{8 * length}"


def _mask(key: HashKey, family: Family) -> str:
    """Return the mask of the part of an address that counts; empty for whole addresses."""
    left = ADDRESS_BITS[family] - key.prefix(family)
    mask = (1 << ADDRESS_BITS[family]) - (1 << left)
    return f" & {format_address(IPv4Address(mask) if family is Family.IP else IPv6Address(mask))}" if left else ""
