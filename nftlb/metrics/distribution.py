"""Histograms that cost half a microsecond an observation: thousands a second come here."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
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


class Checks:
    """The checks that ended, by pool and kind: how many passed and failed, and how long they took.

    Written by hand, as the status is: of 1,000 pools that takes prometheus_client 0.4 s at every scrape.
    """

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

    def text(self) -> str:
        """Give it in the text format."""
        ended = [
            "# HELP nftlb_checks_total Health checks that ended, by result.\n",
            "# TYPE nftlb_checks_total counter\n",
        ]
        took = [
            "# HELP nftlb_check_seconds How long a health check took.\n",
            "# TYPE nftlb_check_seconds histogram\n",
        ]
        for (pool, kind), ((failed, passed), distribution) in tuple(self._of.items()):
            of = f'pool="{pool}",kind="{kind}"'  # neither can have a character that would need an escape
            ended.append(f'nftlb_checks_total{{{of},result="fail"}} {failed}\n')
            ended.append(f'nftlb_checks_total{{{of},result="pass"}} {passed}\n')
            buckets = distribution.buckets()
            took += [f'nftlb_check_seconds_bucket{{{of},le="{bound}"}} {count:.0f}\n' for bound, count in buckets]
            took.append(f"nftlb_check_seconds_sum{{{of}}} {distribution.total!r}\n")
            took.append(f"nftlb_check_seconds_count{{{of}}} {buckets[-1][1]:.0f}\n")
        return "".join(ended + took)


class Lag(Collector):
    """How late checks began."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._distribution = Distribution(bounds)
        self.observe = self._distribution.observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("nftlb_check_lag_seconds", "How late a health check began.")
        family.add_metric((), self._distribution.buckets(), self._distribution.total)
        yield family
