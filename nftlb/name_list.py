"""A list of names in a message. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_MOST = 5


def names_text(names: Collection[str], most: int = _MOST) -> str:
    """The first `most` names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(list(names)[:most])}{more}"
