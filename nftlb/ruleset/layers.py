"""Mappings that share what they have in common, so that telling what differs costs as much as what differs. Pure.

A swap touches a handful of chains among ten thousand, and asks again and again which they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress, filterfalse
from operator import is_not
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Layers(Mapping[str, T]):
    """A mapping that never changes: a base, which many may share, and what is otherwise than there.

    What was added comes behind what the base has; what was replaced stays in its place.
    """

    __slots__ = ("_base", "_over")

    def __init__(self, base: Mapping[str, T], over: Mapping[str, T | None] | None = None) -> None:
        self._base = base
        self._over = over or {}

    def __getitem__(self, name: str) -> T:
        value = self._over[name] if name in self._over else self._base[name]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        over = self._over
        yield from (name for name in self._base if name not in over or over[name] is not None)
        yield from (name for name, value in over.items() if value is not None and name not in self._base)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def changed(self, changes: Mapping[str, T | None]) -> Layers[T]:
        """Give one that has these in place of what this one has; None: nothing."""
        if not changes:
            return self
        over = dict(self._over)
        for name, value in changes.items():
            over.pop(name, None)
            if value is not self._base.get(name):
                over[name] = value
        return Layers(self._base, over)

    def differing(self, wanted: Layers[T]) -> list[T]:
        """Give what `wanted` has and this has not, or not as the very same object."""
        mine, theirs = self._over, wanted._over
        if self._base is wanted._base:
            names = [
                *compress(theirs, map(is_not, theirs.values(), map(mine.get, theirs))),
                *filterfalse(theirs.__contains__, mine),
            ]
            pairs = ((wanted.get(name), self.get(name)) for name in names)
            return [one for one, other in pairs if one is not None and one is not other]
        # All of it in C: there are ten thousand.
        there, those = self.flat(), wanted.flat()
        return list(compress(those.values(), map(is_not, those.values(), map(there.get, those))))

    def flat(self) -> dict[str, T]:
        """All of it as a dictionary."""
        flat = dict(self._base)
        for name, value in self._over.items():
            if value is None:
                del flat[name]
            else:
                flat[name] = value
        return flat


def layers(mapping: Mapping[str, T]) -> Layers[T]:
    return mapping if isinstance(mapping, Layers) else Layers(mapping)
