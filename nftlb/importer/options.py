"""Directives of which the last one of a kind counts, and which of them have been looked at. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .directives import Directive
    from .draft import Notes


class Options:
    """What a file says at its top, or a virtual in its block."""

    def __init__(self, directives: Iterable[Directive], notes: Notes) -> None:
        self._given: dict[str, Directive] = {}
        self._looked_at: set[str] = set()
        for one in directives:
            key = str(one) if one.key == "execute" else one.key
            if (before := self._given.get(key)) is not None:
                notes.missing(before.line, f"{before}: line {one.line} says {one}")
            self._given[key] = one

    def take(self, key: str) -> Directive | None:
        """Return a directive, which then is no longer among the rest."""
        self._looked_at.add(key)
        return self._given.get(key)

    def says(self, key: str, value: str) -> bool:
        """Tell what a directive says, which stays among the rest."""
        return key in self._given and self._given[key].value == value

    def text(self, key: str, default: str = "") -> str:
        found = self.take(key)
        return default if found is None else found.value

    def rest(self) -> Iterator[Directive]:
        """Those that nobody has taken."""
        return (one for key, one in self._given.items() if key not in self._looked_at)
