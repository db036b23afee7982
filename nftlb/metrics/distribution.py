"""Histograms that cost half a microsecond an observation: thousands a second come here."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from .format import head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric


_ENDED = head("nftlb_checks_total", "counter", "Health checks that ended, by result.")
_TOOK = head("nftlb_check_seconds", "histogram", "How long a health check took.")


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
    """The checks that ended, by pool and kind: how many passed and failed, and how long they took."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._pools: dict[str, dict[str, tuple[list[int], Distribution]]] = {}

    def add(self, pool: str, kind: str, seconds: float, *, passed: bool) -> None:
        kinds = self._pools.setdefault(pool, {})
        of = kinds.get(kind)
        if of is None:
            of = kinds[kind] = ([0, 0], Distribution(self._bounds))
        of[0][passed] += 1
        of[1].observe(seconds)

    def forget(self, pool: str) -> None:
        """Drop what was counted of a pool that is gone."""
        self._pools.pop(pool, None)

    def of(self, pool: str, labels: str) -> Iterator[tuple[str, str]]:
        """Give the samples of a pool, which has these labels, in the text format: the head of a name, and them."""
        for kind, ((failed, passed), distribution) in self._pools.get(pool, {}).items():
            of = f'{labels},kind="{kind}"'  # which has no character that would need an escape
            results = (("fail", failed), ("pass", passed))
            yield _ENDED, "".join(f'nftlb_checks_total{{{of},result="{one}"}} {number}\n' for one, number in results)
            buckets = distribution.buckets()
            took = [f'nftlb_check_seconds_bucket{{{of},le="{bound}"}} {count:.0f}\n' for bound, count in buckets]
            took.append(f"nftlb_check_seconds_sum{{{of}}} {distribution.total!r}\n")
            took.append(f"nftlb_check_seconds_count{{{of}}} {buckets[-1][1]:.0f}\n")
            yield _TOOK, "".join(took)


class Lag(Collector):
    """How late checks began."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._distribution = Distribution(bounds)
        self.observe = self._distribution.observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("nftlb_check_lag_seconds", "How late a health check began.")
        family.add_metric((), self._distribution.buckets(), self._distribution.total)
        yield family
