"""The elements of a set of address ranges, in one form for all spellings of the same addresses. Pure.

A list of prefixes may have a hundred thousand elements, so the elements are made only when they are read. The kernel
stores the limits of ranges, and forgets whether two adjacent ranges were one. So ranges that touch are merged here.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, overload

from .objects import Element, MadeElements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Span: TypeAlias = tuple[int, int]
"""The first and the last address of a range, as numbers."""


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same addresses in order, as the fewest ranges that neither overlap nor touch."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            if last > found[-1][1]:
                found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class AddressRanges(MadeElements):
    """The elements of merged ranges of addresses; `size`: the bytes of an address."""

    spans: tuple[Span, ...]
    size: int

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[Element]:
        return (Element(_text(first, last, self.size)) for first, last in self.spans)

    @overload
    def __getitem__(self, index: int) -> Element: ...
    @overload
    def __getitem__(self, index: slice) -> AddressRanges: ...
    def __getitem__(self, index: int | slice) -> Element | AddressRanges:
        if isinstance(index, slice):
            return AddressRanges(self.spans[index], self.size)
        return Element(_text(*self.spans[index], self.size))

    @property
    def source(self) -> object:
        return self.spans, self.size


def _text(first: int, last: int, size: int) -> str:
    """Return an address, a prefix, or a range that is no prefix."""
    number = last - first + 1
    text = _address(first, size)
    if number == 1:
        return text
    if number & (number - 1) or first & (number - 1):
        return f"{text}-{_address(last, size)}"
    return f"{text}/{8 * size - number.bit_length() + 1}"


def _address(number: int, size: int) -> str:
    return socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, number.to_bytes(size, "big"))  # noqa: PLR2004
