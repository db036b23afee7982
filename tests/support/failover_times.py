"""Times of failovers that follow each other without a pause."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def usual(times: Iterable[float]) -> float:
    """The time of a failover at a random moment: failovers of this time or less fill half of all the time.

    A few failovers that wait for long count for more than many quick ones.
    """
    ordered = sorted(times)
    half = sum(ordered) / 2
    return next(seconds for seconds, passed in zip(ordered, accumulate(ordered), strict=True) if passed >= half)
