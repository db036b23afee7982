"""Two clocks: one that only goes forward, for whatever is waited for, and the wall clock, for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime

now = time.monotonic
"""Seconds; what all timers and states are kept in. The loop's clock is the same."""


def wall(moment: float | None = None) -> datetime:
    """The time of day at a moment of `now()`, by what the wall clock says today; without one, the time of day now."""
    passed = 0.0 if moment is None else time.monotonic() - moment
    return datetime.fromtimestamp(time.time() - passed, UTC)
