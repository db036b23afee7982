"""Slow start."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nftlb.health.ramp import STEPS, next_step, percent


def test_grows_in_tenths() -> None:
    """A backend begins with a tenth of its weight, and has all of it when the time is over."""
    assert [10, 20, 60, 100, 100] == [percent(elapsed, 10.0) for elapsed in (0.0, 1.0, 5.5, 9.0, 10.0)]


def test_without_slow_start_all_at_once() -> None:
    """A slow start of no duration is over when it begins."""
    assert (100, None) == (percent(0.0, 0.0), next_step(0.0, 0.0))


@given(st.floats(0.1, 3600))
def test_steps_lead_to_the_end(duration: float) -> None:
    """Who comes back when he is told to sees every tenth once, and then no more."""
    seen, elapsed = [percent(0.0, duration)], 0.0
    while (step := next_step(elapsed, duration)) is not None:
        elapsed = step
        seen.append(percent(elapsed, duration))
        assert len(seen) <= STEPS

    assert list(range(10, 110, 10)) == seen
