"""What one check of one backend came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import Admin


@dataclass(frozen=True, slots=True)
class Result:
    """`reason` is one line for people, also when it passed; `seconds` is how long the check took.

    Only an agent says the rest: `weight` is a share of the configured weight in per cent, `admin` what the backend
    wants for itself. None: it said nothing about it, and what it said before holds.
    """

    passed: bool
    reason: str
    seconds: float
    weight: int | None = None
    admin: Admin | None = None
    decides: bool = False
    """Traffic to the backend was refused, so that a check that fails needs no other to agree."""
