"""Names that a user mistyped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name."""
    from difflib import get_close_matches  # noqa: PLC0415 - not worth loading for a good name

    known = list(known)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known)}" if len(known) <= 10 else ""  # noqa: PLR2004 - nobody would read more
