"""What the daemon counts as it happens, and all of it as Prometheus reads it."""

from __future__ import annotations

import asyncio

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from .distribution import Checks, Lag
from .page import Page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of a scrape. prometheus_client's own word for it changes with releases."""

# Seconds. Checks answer within a millisecond on a LAN, and time out after a second or more; a check that starts late
# by more than a few milliseconds tells of an event loop with too much to do.
_CHECK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_SWAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """A registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which Prometheus makes no use of
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._checks = Checks(_CHECK_BUCKETS)
        self._lag = Lag(_LAG_BUCKETS)
        registry.register(self._lag)
        self._swaps = Counter("nftlb_swaps_total", "Changes made to the kernel's tables.", registry=registry)
        self._swap_seconds = Histogram(
            "nftlb_swap_seconds", "How long such a change took.", buckets=_SWAP_BUCKETS, registry=registry
        )
        self._swap_failures = Counter(
            "nftlb_swap_failures_total", "Changes that the kernel refused.", registry=registry
        )
        self._restores = Counter(
            "nftlb_restores_total", "Changes by somebody else that were undone.", registry=registry
        )
        self._reloads = Counter(
            "nftlb_config_reloads_total", "Attempts to read the file again, by result.", ("result",), registry=registry
        )
        self._hooks = Counter("nftlb_hooks_total", "Hooks that ended, by outcome.", ("outcome",), registry=registry)
        self._tasks = Gauge("nftlb_tasks", "Tasks of the event loop, of which each does one thing.", registry=registry)
        for result in ("success", "failure"):
            self._reloads.labels(result)  # a rate needs the zero before the first

    def checked(self, pool: str, kind: str, passed: bool, seconds: float) -> None:
        """Count a check that ended. Thousands a second come here."""
        self._checks.add(pool, kind, seconds, passed=passed)

    def forget(self, pool: str) -> None:
        """Drop what was counted of a pool that is gone."""
        self._checks.forget(pool)

    def lag(self, seconds: float) -> None:
        """Note how late a check began."""
        self._lag.observe(seconds)

    def swapped(self, seconds: float) -> None:
        """Count a change of the kernel's tables, which took so long."""
        self._swaps.inc()
        self._swap_seconds.observe(seconds)

    def swap_failed(self) -> None:
        self._swap_failures.inc()

    def restored(self) -> None:
        """Count a change by somebody else that was undone."""
        self._restores.inc()

    def reloaded(self, success: bool) -> None:
        """Count an attempt to read the file again."""
        self._reloads.labels("success" if success else "failure").inc()

    def hook(self, outcome: str) -> None:
        """Count a hook that ended; the outcome is one of a few words, such as ok, failed, timeout."""
        self._hooks.labels(outcome).inc()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count the tasks of this loop at every scrape."""
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))

    def page(self) -> Page:
        """Begin a scrape."""
        return Page(self._checks, lambda: generate_latest(self._registry))
