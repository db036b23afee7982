"""Slow start: what part of its weight a backend gets that came up not long ago. Pure."""

from __future__ import annotations

from nftlb.compiler.shares import WHOLE

STEPS = 10
"""So many changes of the ruleset lead from a tenth of the weight to all of it."""


def percent(elapsed: float, duration: float) -> int:
    """The part in per cent, `elapsed` seconds into a slow start of `duration` seconds."""
    if elapsed >= duration:
        return WHOLE
    return WHOLE // STEPS * (1 + int(max(elapsed, 0) * STEPS / duration))


def next_step(elapsed: float, duration: float) -> float | None:
    """After how many seconds, from the start of it, the part grows next; None: it is whole."""
    if elapsed >= duration:
        return None
    return (1 + int(max(elapsed, 0) * STEPS / duration)) * duration / STEPS
