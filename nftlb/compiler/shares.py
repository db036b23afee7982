"""Weights of which only a part counts for now: a backend that starts slowly, or whose agent asks for less. Pure."""

from __future__ import annotations

import math
from functools import reduce

WHOLE = 100
"""Per cent."""

MOST_SLOTS = 8192
"""A wheel made finer by percentages has no more slots than this: a share is off by a hundredth of a per cent then."""


def shared(weights: tuple[int, ...], percents: tuple[int, ...]) -> tuple[int, ...]:
    """Whole weights in the proportion of weight times per cent.

    What is above 0 stays above 0. While every part is whole the weights are given back as they are.
    """
    if all(percent == WHOLE for percent in percents):
        return weights
    exact = tuple(weight * percent for weight, percent in zip(weights, percents, strict=True))
    total = sum(exact)
    divisor = reduce(math.gcd, exact, 0) or 1
    if total // divisor <= MOST_SLOTS:
        return tuple(one // divisor for one in exact)
    return tuple(max(1, round(one * MOST_SLOTS / total)) if one else 0 for one in exact)
