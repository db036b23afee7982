"""Weights of which only a part counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.compiler.shares import MOST_SLOTS, shared


@pytest.mark.parametrize(
    ("weights", "percents", "expected"),
    [
        ((1, 2), (100, 100), (1, 2)),
        ((1, 1, 1), (100, 100, 50), (2, 2, 1)),
        ((1, 1), (100, 75), (4, 3)),
        ((3, 1), (50, 100), (3, 2)),
        ((1, 1), (10, 10), (1, 1)),
        ((1, 1), (100, 200), (1, 2)),
    ],
)
def test_in_proportion(weights: tuple[int, ...], percents: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Weight times per cent, in the smallest whole numbers."""
    assert expected == shared(weights, percents)


def test_whole_weights_stay_as_they_are() -> None:
    """While nobody has a part only, weights are not even divided: the ruleset does not change."""
    assert (256, 2) == shared((256, 2), (100, 100))


@given(st.lists(st.tuples(st.integers(1, 256), st.integers(1, 100)), min_size=1, max_size=300))
def test_bounded_and_nobody_is_forgotten(pairs: list[tuple[int, int]]) -> None:
    """However odd the parts, the wheel stays small, everybody keeps a share, and no share is far off."""
    weights, percents = zip(*pairs, strict=True)
    found = shared(weights, percents)
    exact = [weight * percent for weight, percent in pairs]

    assert min(found) > 0
    if any(percent != 100 for percent in percents):
        assert sum(found) <= MOST_SLOTS + len(pairs)
        assert all(
            abs(one / sum(found) - due / sum(exact)) <= (1 + len(pairs)) / sum(found)
            for one, due in zip(found, exact, strict=True)
        )
