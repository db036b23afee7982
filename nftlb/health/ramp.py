"""Slow start: what part of its weight a backend gets that came up not long ago. Pure."""

from __future__ import annotations

from nftlb.compiler.shares import WHOLE

STEPS = 10
"""So many changes of the ruleset lead from a tenth of the weight to all of it."""

_ROUNDING = 1e-6  # of a step: who is told a time and comes at that time is not told it again


def percent(elapsed: float, duration: float) -> int:
    """The part in per cent, `elapsed` seconds into a slow start of `duration` seconds."""
    return WHOLE // STEPS * min(STEPS, 1 + _steps_done(elapsed, duration))


def next_step(elapsed: float, duration: float) -> float | None:
    """After how many seconds, from the start of it, the part grows next; None: it is whole."""
    done = _steps_done(elapsed, duration)
    return None if done >= STEPS - 1 else (1 + done) * duration / STEPS


def _steps_done(elapsed: float, duration: float) -> int:
    return int(max(elapsed, 0) * STEPS / duration + _ROUNDING) if duration else STEPS
