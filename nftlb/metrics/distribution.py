"""Histograms that cost half a microsecond an observation: thousands a second come here."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric


class Distribution:
    """How often a value was in which bucket, and the sum of all."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound with how many values were at most that."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return [(bound, float(number)) for bound, number in zip(bounds, accumulate(self.counts), strict=True)]


class Checks(Collector):
    """The checks that ended, by pool and kind: how many passed and failed, and how long they took."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._of: dict[tuple[str, str], tuple[list[int], Distribution]] = {}

    def add(self, pool: str, kind: str, seconds: float, *, passed: bool) -> None:
        of = self._of.get((pool, kind))
        if of is None:
            of = self._of[pool, kind] = ([0, 0], Distribution(self._bounds))
        of[0][passed] += 1
        of[1].observe(seconds)

    def forget(self, pool: str) -> None:
        """Drop what was counted of a pool that is gone."""
        for key in [key for key in self._of if key[0] == pool]:
            del self._of[key]

    def collect(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "nftlb_checks", "Health checks that ended, by result.", labels=("pool", "kind", "result")
        )
        took = HistogramMetricFamily("nftlb_check_seconds", "How long a health check took.", labels=("pool", "kind"))
        for (pool, kind), ((failed, passed), distribution) in tuple(self._of.items()):
            ended.add_metric((pool, kind, "fail"), failed)
            ended.add_metric((pool, kind, "pass"), passed)
            took.add_metric((pool, kind), distribution.buckets(), distribution.total)
        yield ended
        yield took


class Lag(Collector):
    """How late checks began."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._distribution = Distribution(bounds)
        self.observe = self._distribution.observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("nftlb_check_lag_seconds", "How late a health check began.")
        family.add_metric((), self._distribution.buckets(), self._distribution.total)
        yield family
