"""The counters of the daemon, and the page that Prometheus reads.

The metrics of pools, backends and checks are written here and not by prometheus_client, which takes more than a second
for 10,000 backends. This code takes a tenth of that. An observation takes half a microsecond: there are thousands in a
second.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from nftlb.model import Admin, DropReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from nftlb.service import BackendStatus, CollectorStatus, Overview, PoolStatus

    Number = int | float | None

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of a scrape. The constant of prometheus_client changes between releases."""

# Seconds. Checks take less than a millisecond on a LAN, and time out after a second or more. A check that starts more
# than a few milliseconds late is a sign of an overloaded event loop.
_CHECK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_SWAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All counters, in a separate registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which Prometheus does not use
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._checks = Checks(_CHECK_BUCKETS)
        self._lag = Lag(_LAG_BUCKETS)
        registry.register(self._lag)
        self._swaps = Counter("nftlb_swaps_total", "Changes made to the kernel's tables.", registry=registry)
        self._swap_seconds = Histogram(
            "nftlb_swap_seconds", "Duration of a change of the tables.", buckets=_SWAP_BUCKETS, registry=registry
        )
        self._swap_failures = Counter(
            "nftlb_swap_failures_total", "Changes that the kernel refused.", registry=registry
        )
        self._restores = Counter(
            "nftlb_restores_total", "Changes by other programs that were undone.", registry=registry
        )
        self._reloads = Counter(
            "nftlb_config_reloads_total", "Attempts to read the file again, by result.", ("result",), registry=registry
        )
        self._hooks = Counter("nftlb_hooks_total", "Hooks that ended, by outcome.", ("outcome",), registry=registry)
        self._tasks = Gauge("nftlb_tasks", "Tasks of the event loop, of which each does one thing.", registry=registry)
        for result in ("success", "failure"):
            self._reloads.labels(result)  # a rate needs the zero before the first

    def checked(self, pool: str, kind: str, passed: bool, seconds: float) -> None:
        """Count a finished check and its seconds. There are thousands of checks in a second."""
        self._checks.add(pool, kind, seconds, passed=passed)

    def forget(self, pool: str) -> None:
        """Remove the counters of a pool that was removed."""
        self._checks.forget(pool)

    def lag(self, seconds: float) -> None:
        """Record how many seconds late a check began."""
        self._lag.observe(seconds)

    def swapped(self, seconds: float) -> None:
        """Count a change of the kernel's tables and its seconds."""
        self._swaps.inc()
        self._swap_seconds.observe(seconds)

    def swap_failed(self) -> None:
        self._swap_failures.inc()

    def restored(self) -> None:
        """Count a change by another program that was undone."""
        self._restores.inc()

    def reloaded(self, success: bool) -> None:
        """Count an attempt to read the file again."""
        self._reloads.labels("success" if success else "failure").inc()

    def hook(self, outcome: str) -> None:
        """Count a hook that ended. The outcome is one of a few words, such as ok, failed, timeout."""
        self._hooks.labels(outcome).inc()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Export the number of tasks of this event loop."""
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))

    def page(self) -> Scrape:
        """Start a scrape."""
        return Scrape(self._checks, lambda: generate_latest(self._registry))


def head(name: str, type_: str, help_: str) -> str:
    """The lines before the samples of a metric."""
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"


def escape(label: str) -> str:
    """Escape the value of a label, which the format has in quotes."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_ENDED = head("nftlb_checks_total", "counter", "Health checks that ended, by result.")
_TOOK = head("nftlb_check_seconds", "histogram", "How long a health check took.")


class Distribution:
    """The number of values in each bucket, and the sum of all values."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound, with the number of values up to this bound."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return [(bound, float(number)) for bound, number in zip(bounds, accumulate(self.counts), strict=True)]


class Checks:
    """The finished checks by pool and kind: how many passed and failed, and their duration in seconds."""

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
        """Remove the counters of a pool that was removed."""
        self._pools.pop(pool, None)

    def of(self, pool: str, labels: str) -> Iterator[tuple[str, str]]:
        """The metrics of a pool in the text format: for each metric its head and its samples, with these labels."""
        for kind, ((failed, passed), distribution) in self._pools.get(pool, {}).items():
            of = f'{labels},kind="{kind}"'  # a kind has no character that needs an escape
            results = (("fail", failed), ("pass", passed))
            yield (
                _ENDED,
                "".join(f'nftlb_checks_total{{{of},result="{result}"}} {number}\n' for result, number in results),
            )
            buckets = distribution.buckets()
            took = [f'nftlb_check_seconds_bucket{{{of},le="{bound}"}} {count:.0f}\n' for bound, count in buckets]
            took.append(f"nftlb_check_seconds_sum{{{of}}} {distribution.total!r}\n")
            took.append(f"nftlb_check_seconds_count{{{of}}} {buckets[-1][1]:.0f}\n")
            yield _TOOK, "".join(took)


class Lag(Collector):
    """The delay between the planned and the actual start of checks, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._distribution = Distribution(bounds)
        self.observe = self._distribution.observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("nftlb_check_lag_seconds", "How late a health check began.")
        family.add_metric((), self._distribution.buckets(), self._distribution.total)
        yield family


T = TypeVar("T")

_MODES = ("healthy", "panic", "fallback")


@dataclass(frozen=True, slots=True)
class _Figure(Generic[T]):
    """One metric of every pool or every backend. `more` is the text of a further label. None gives no sample."""

    name: str
    help: str
    value: Callable[[T], Number]
    type: str = "gauge"
    more: str = ""

    @property
    def head(self) -> str:
        return head(self.name, self.type, self.help)

    def samples(self, items: Iterable[tuple[str, T]]) -> str:
        """The samples of all items. An item comes with the text of its labels."""
        name, more, value = self.name, self.more, self.value
        values = [(labels, value(item)) for labels, item in items]
        return "".join([f"{name}{{{labels}{more}}} {found}\n" for labels, found in values if found is not None])


def _one_of(name: str, help_: str, label: str, states: Iterable[str], of: Callable[[T], str]) -> list[_Figure[T]]:
    """Make a metric for each state: 1 for the present state, 0 for the other states."""
    return [
        _Figure(name, help_, lambda item, state=state: int(of(item) == state), more=f',{label}="{state}"')  # type: ignore[misc]
        for state in states
    ]


def _dropped(reason: DropReason) -> _Figure[PoolStatus]:
    """Make the metric of one reason; a pool without a guard has no sample."""
    return _Figure(
        "nftlb_guard_dropped_packets_total",
        "Packets that the guard of the pool dropped, by reason.",
        lambda it: None if it.guard is None else getattr(it.guard, reason),
        "counter",
        f',reason="{reason}"',
    )


_BACKENDS: tuple[_Figure[BackendStatus], ...] = (
    _Figure("nftlb_backend_up", "Whether the health checks find the backend healthy.", lambda it: int(it.up)),
    _Figure("nftlb_backend_in_rotation", "Whether the backend gets packets now.", lambda it: int(it.in_rotation)),
    *_one_of(
        "nftlb_backend_admin", "What the operator wants of the backend.", "state", Admin, lambda it: it.admin.value
    ),
    _Figure("nftlb_backend_weight", "Weight of the backend, as configured or set.", lambda it: it.weight),
    _Figure("nftlb_backend_share", "Part of the pool's packets that it gets now, 0 to 1.", lambda it: it.share),
    _Figure("nftlb_backend_packets_total", "Packets sent to the backend.", lambda it: it.packets, "counter"),
    _Figure("nftlb_backend_bytes_total", "Bytes sent to the backend.", lambda it: it.bytes, "counter"),
    _Figure(
        "nftlb_backend_health_change_timestamp_seconds",
        "When the backend's health last changed.",
        lambda it: it.since.timestamp(),
    ),
)

_COLLECTORS: tuple[_Figure[CollectorStatus], ...] = (
    _Figure("nftlb_collector_up", "Whether the health checks find the collector healthy.", lambda it: int(it.up)),
    _Figure("nftlb_collector_packets_total", "Copies sent to the collector.", lambda it: it.packets, "counter"),
    _Figure("nftlb_collector_bytes_total", "Bytes of the copies.", lambda it: it.bytes, "counter"),
)

_POOLS: tuple[_Figure[PoolStatus], ...] = (
    _Figure("nftlb_pool_ready", "Whether the pool has its quorum and lacks nothing.", lambda it: int(it.ready)),
    _Figure("nftlb_pool_lacking", "Things that the pool needs and this host lacks.", lambda it: len(it.lacking)),
    _Figure("nftlb_pool_quorum", "How many healthy backends the pool needs.", lambda it: it.quorum),
    _Figure("nftlb_pool_healthy_backends", "Backends that are healthy and enabled.", lambda it: it.healthy),
    _Figure("nftlb_pool_backends", "Backends of the pool.", lambda it: len(it.backends)),
    _Figure("nftlb_pool_priority", "Priority that serves; no sample if none serves alone.", lambda it: it.priority),
    *_one_of("nftlb_pool_mode", "How the pool's packets are spread now.", "mode", _MODES, lambda it: it.mode),
    _Figure("nftlb_pool_packets_total", "Packets that came to the pool.", lambda it: it.packets, "counter"),
    _Figure("nftlb_pool_bytes_total", "Bytes that came to the pool.", lambda it: it.bytes, "counter"),
    *map(_dropped, DropReason),
)

_WHOLE: tuple[_Figure[Overview], ...] = (
    _Figure("nftlb_ready", "Whether every pool is ready.", lambda it: int(it.ready)),
    _Figure("nftlb_kernel_synced", "Whether the kernel has what it should.", lambda it: int(it.kernel.synced)),
    _Figure(
        "nftlb_config_reload_success",
        "Whether the file was good when it was last read.",
        lambda it: int(it.config.success),
    ),
    _Figure(
        "nftlb_config_last_good_copy",
        "Whether the last good copy of the file is in use, as the file was bad at the start.",
        lambda it: int(it.config.copy_in_use is not None),
    ),
    _Figure(
        "nftlb_config_reload_timestamp_seconds",
        "When the configuration in use was loaded.",
        lambda it: it.config.loaded.timestamp(),
    ),
)


class Scrape:
    """Collects the text of a scrape. Each pool is written when it is added, so that no status has to be kept.

    `rest` returns the metrics that belong to no pool, in the same format.
    """

    def __init__(self, checks: Checks, rest: Callable[[], bytes]) -> None:
        self._checks = checks
        self._rest = rest
        # The format needs all samples of a metric together. The key is the head of the metric. Each pool adds a piece.
        self._pieces: dict[str, list[bytes]] = {}

    def add(self, pool: PoolStatus) -> None:
        labels = f'pool="{escape(pool.name)}"'
        backends = [(f'{labels},backend="{escape(backend.name)}"', backend) for backend in pool.backends]
        for figure in _POOLS:
            self._write(figure.head, figure.samples([(labels, pool)]))
        for family in _BACKENDS:
            self._write(family.head, family.samples(backends))
        collectors = [(f'{labels},collector="{escape(one.name)}"', one) for one in pool.collectors]
        for copies in _COLLECTORS if collectors else ():
            self._write(copies.head, copies.samples(collectors))
        for name, samples in self._checks.of(pool.name, labels):
            self._write(name, samples)

    def finish(self, overview: Overview) -> bytes:
        """Finish the scrape and return its text."""
        faults = dict.fromkeys(fault.what for fault in overview.faults)
        lines = [
            head("nftlb_build_info", "gauge", "The version that runs."),
            f'nftlb_build_info{{version="{escape(overview.version)}"}} 1\n',
            *(f"{figure.head}{figure.name} {figure.value(overview)}\n" for figure in _WHOLE),
            head("nftlb_fault", "gauge", "Faults of the host or of a part of the daemon that are present now."),
            *(f'nftlb_fault{{what="{escape(what)}"}} 1\n' for what in faults),
        ]
        pieces = [piece for head, written in self._pieces.items() for piece in (head.encode(), *written)]
        return b"".join(["".join(lines).encode(), *pieces, self._rest()])

    def _write(self, head: str, samples: str) -> None:
        self._pieces.setdefault(head, []).append(samples.encode())
