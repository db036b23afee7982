"""Ranges of numbers that belong to somebody; no I/O."""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class Ranges(Generic[Owner]):
    """Ranges that do not overlap, each with its owner; a look-up takes logarithmic time."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._rest: list[tuple[int, Owner]] = []

    def overlapping(self, first: int, last: int) -> Owner | None:
        """Give the owner of a range that overlaps `first` to `last`, if there is one."""
        before = bisect_right(self._firsts, last) - 1
        if before >= 0 and self._rest[before][0] >= first:
            return self._rest[before][1]
        return None

    def add(self, first: int, last: int, owner: Owner) -> None:
        """Add a range; it must not overlap any that is there."""
        at = bisect_right(self._firsts, first)
        self._firsts.insert(at, first)
        self._rest.insert(at, (last, owner))
