"""Immutable mappings that share their common part, so that a comparison costs only what differs. Pure.

A table has ten thousand chains and more, and a swap changes a handful of them. With a dictionary, every copy and every
comparison would walk over all chains. A `SharedMapping` is a base dictionary, which many mappings share, and a small
dictionary of changes to that base. A copy with further changes copies only the changes. Two mappings with the same base
differ at most in their changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress, filterfalse
from operator import is_not
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class SharedMapping(Mapping[str, T]):
    """An immutable mapping: a shared base, and changes to it, in which None means that the name is deleted.

    The order is that of a dictionary: a replaced value keeps its place, and an added value comes last.
    """

    __slots__ = ("_base", "_changes")

    def __init__(self, base: Mapping[str, T], changes: Mapping[str, T | None] | None = None) -> None:
        self._base = base
        self._changes = changes or {}

    @classmethod
    def of(cls, mapping: Mapping[str, T]) -> SharedMapping[T]:
        """Return the mapping itself if it is a `SharedMapping`; otherwise a new one with the mapping as its base."""
        return mapping if isinstance(mapping, SharedMapping) else cls(mapping)

    def __getitem__(self, name: str) -> T:
        value = self._changes[name] if name in self._changes else self._base[name]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        changes = self._changes
        yield from (name for name in self._base if name not in changes or changes[name] is not None)
        yield from (name for name, value in changes.items() if value is not None and name not in self._base)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def with_changes(self, changes: Mapping[str, T | None]) -> SharedMapping[T]:
        """Return a mapping with the same base and these further changes. A value of None deletes the name."""
        if not changes:
            return self
        merged = dict(self._changes)
        for name, value in changes.items():
            merged.pop(name, None)
            if value is not self._base.get(name):
                merged[name] = value
        return SharedMapping(self._base, merged)

    def new_values(self, wanted: SharedMapping[T]) -> list[T]:
        """Return the values of `wanted` that this mapping does not have as the same object under the same name."""
        mine, theirs = self._changes, wanted._changes
        if self._base is wanted._base:
            names = [
                *compress(theirs, map(is_not, theirs.values(), map(mine.get, theirs))),
                *filterfalse(theirs.__contains__, mine),
            ]
            pairs = ((wanted.get(name), self.get(name)) for name in names)
            return [new for new, old in pairs if new is not None and new is not old]
        # The loops are in C (map, compress), because both mappings may have ten thousand values.
        old_values, new_values = self.to_dict(), wanted.to_dict()
        return list(compress(new_values.values(), map(is_not, new_values.values(), map(old_values.get, new_values))))

    def to_dict(self) -> dict[str, T]:
        """Return a dictionary with all values."""
        merged = dict(self._base)
        for name, value in self._changes.items():
            if value is None:
                del merged[name]
            else:
                merged[name] = value
        return merged
