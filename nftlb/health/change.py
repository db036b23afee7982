"""What a result or a command changed, to be told to those who listen. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.service import EventKind


@dataclass(frozen=True, slots=True)
class Change:
    """`old` and `new` are states in words; `backend` is empty for a change of the pool as a whole."""

    kind: EventKind
    pool: str
    backend: str
    old: str
    new: str
    reason: str
