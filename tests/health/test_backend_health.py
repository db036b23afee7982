"""Slow start of a backend."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nftlb.health.backend_health import SLOW_START_STEPS, next_slow_start_step, slow_start_percent


def test_slow_start_grows_in_tenths() -> None:
    """A backend begins with a tenth of its weight, and has the whole weight when the time is over."""
    assert [10, 20, 60, 100, 100] == [slow_start_percent(elapsed, 10.0) for elapsed in (0.0, 1.0, 5.5, 9.0, 10.0)]


def test_without_slow_start_the_whole_weight_counts_at_once() -> None:
    """A slow start of no duration is over when it begins."""
    assert (100, None) == (slow_start_percent(0.0, 0.0), next_slow_start_step(0.0, 0.0))


@given(st.floats(0.1, 3600))
def test_steps_lead_to_the_end(duration: float) -> None:
    """A caller that returns at each announced time sees every tenth once."""
    seen, elapsed = [slow_start_percent(0.0, duration)], 0.0
    while (step := next_slow_start_step(elapsed, duration)) is not None:
        elapsed = step
        seen.append(slow_start_percent(elapsed, duration))
        assert len(seen) <= SLOW_START_STEPS

    assert list(range(10, 110, 10)) == seen
