"""The counters of the daemon, and the page that Prometheus reads.

The metrics of pools and backends are written here and not by prometheus_client, which takes more than a second for
10,000 backends. This code takes a tenth of that. An observation takes one or two microseconds: there are thousands in a
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
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from nftlb.model import Admin, DropReason, EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from nftlb.model import Config
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
        self._counts: dict[str, PoolCounts] = {}
        self._lag = Lag(_LAG_BUCKETS)
        registry.register(self._lag)
        self._swaps = Counter("nftlb_swaps_total", "Changes of the rules in the kernel.", registry=registry)
        self._swap_seconds = [
            Histogram(name, help_, buckets=_SWAP_BUCKETS, registry=registry)
            for name, help_ in (
                ("nftlb_swap_duration_seconds", "How long changes of the rules took."),
                ("nftlb_swap_seconds", "Deprecated: the same as nftlb_swap_duration_seconds."),
            )
        ]
        self._swap_failures = Counter(
            "nftlb_swap_failures_total", "Changes of the rules that the kernel refused.", registry=registry
        )
        self._restores = Counter(
            "nftlb_restores_total", "Changes of the rules by other programs that the daemon undid.", registry=registry
        )
        self._reloads = Counter(
            "nftlb_config_reloads_total",
            "Attempts to read the file again: success or failure.",
            ("result",),
            registry=registry,
        )
        self._tasks = Gauge("nftlb_tasks", "Tasks of the event loop.", registry=registry)
        for result in ("success", "failure"):
            self._reloads.labels(result)  # a rate needs the zero before the first

    def follow(self, config: Config) -> None:
        """Count for the pools and backends of a configuration: new ones from zero, and no longer for removed ones."""
        before, self._counts = self._counts, {}
        for pool in config.pools:
            counts = self._counts[pool.name] = before.get(pool.name) or PoolCounts()
            counts.backends = {
                backend.name: counts.backends.get(backend.name) or ServerCounts(_BACKEND_CHANGES)
                for backend in pool.backends
            }
            counts.collectors = {
                collector.name: counts.collectors.get(collector.name) or ServerCounts(_COLLECTOR_CHANGES)
                for collector in pool.mirror
            }
            hooks = any(getattr(pool.hooks, kind, ()) for kind in EventKind)
            counts.hooks = {outcome: counts.hooks.get(outcome, 0) for outcome in HOOK_OUTCOMES} if hooks else {}

    def checked(self, pool: str, server: str, kind: str, passed: bool, seconds: float) -> None:
        """Count a finished check of a backend or collector, and its seconds. There are thousands in a second."""
        counts = self._counts.get(pool)
        if counts is not None:
            counts.checked(server, kind, seconds, passed=passed)

    def changed(self, pool: str, server: str, kind: EventKind) -> None:
        """Count a change of a backend or collector or, if `server` is empty, of a pool."""
        counts = self._counts.get(pool)
        if counts is not None:
            server_counts = counts.of(server)
            changes = counts.changes if server_counts is None else server_counts.changes
            if kind in changes:
                changes[kind] += 1

    def refused(self, pool: str, backend: str) -> None:
        """Count an ICMP error with which a backend refused balanced traffic."""
        counts = self._counts.get(pool)
        if counts is not None and backend in counts.backends:
            counts.backends[backend].refusals += 1

    def lag(self, seconds: float) -> None:
        """Record how many seconds late a check began."""
        self._lag.observe(seconds)

    def swapped(self, seconds: float) -> None:
        """Count a change of the kernel's tables and its seconds."""
        self._swaps.inc()
        for histogram in self._swap_seconds:
            histogram.observe(seconds)

    def swap_failed(self) -> None:
        self._swap_failures.inc()

    def restored(self) -> None:
        """Count a change by another program that was undone."""
        self._restores.inc()

    def reloaded(self, success: bool) -> None:
        """Count an attempt to read the file again."""
        self._reloads.labels("success" if success else "failure").inc()

    def hook(self, pool: str, outcome: str) -> None:
        """Count a hook of a pool that ended. The outcome is one of HOOK_OUTCOMES."""
        counts = self._counts.get(pool)
        if counts is not None:
            counts.hooks[outcome] = counts.hooks.get(outcome, 0) + 1

    def watch(self, loop: asyncio.AbstractEventLoop, conntrack: Callable[[], Mapping[str, int]]) -> None:
        """Export the number of tasks of this event loop, and the fill of conntrack: `entries` and `limit`."""
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        self._registry.register(Conntrack(conntrack))

    def page(self) -> Scrape:
        """Start a scrape."""
        return Scrape(self._counts, lambda: generate_latest(self._registry))


def head(name: str, type_: str, help_: str) -> str:
    """The lines before the samples of a metric."""
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"


def escape(label: str) -> str:
    """Escape the value of a label, which the format has in quotes."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_ENDED = head(
    "nftlb_checks_total", "counter", "Finished checks: pass or fail. A check for several pools counts for each."
)
_TOOK = head("nftlb_check_duration_seconds", "summary", "How long checks took: the sum and the number, for a mean.")
_TOOK_OF_POOL = head(
    "nftlb_pool_check_duration_seconds",
    "histogram",
    "How long the checks of all backends and collectors of the pool took.",
)
_TOOK_DEPRECATED = head(
    "nftlb_check_seconds", "histogram", "Deprecated: the same as nftlb_pool_check_duration_seconds."
)
_CHANGED = head(
    "nftlb_backend_transitions_total", "counter", "Changes of the backend: backend_up, backend_down or backend_changed."
)
_COLLECTOR_CHANGED = head(
    "nftlb_collector_transitions_total", "counter", "Changes of the collector: collector_up or collector_down."
)
_POOL_CHANGED = head(
    "nftlb_pool_transitions_total", "counter", "Changes of the pool: quorum_up, quorum_down or priority_changed."
)
_REFUSED = head(
    "nftlb_backend_refusals_total",
    "counter",
    "ICMP errors with which the backend refused packets of clients, as far as the daemon is notified.",
)
_HOOKS = head(
    "nftlb_hooks_total",
    "counter",
    "Hooks that ended: ok, failed, timeout, unstarted or dropped. Only for pools with hooks.",
)

_LABELS = head("nftlb_backend_labels", "gauge", "1; the labels of the backend, for joins. Without labels, no sample.")

HOOK_OUTCOMES = ("ok", "failed", "timeout", "unstarted", "dropped")
_BACKEND_CHANGES = (EventKind.BACKEND_UP, EventKind.BACKEND_DOWN, EventKind.BACKEND_CHANGED)
_COLLECTOR_CHANGES = (EventKind.COLLECTOR_UP, EventKind.COLLECTOR_DOWN)
_POOL_CHANGES = (EventKind.QUORUM_UP, EventKind.QUORUM_DOWN, EventKind.PRIORITY_CHANGED)


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

    def histogram(self, name: str, labels: str) -> str:
        """The samples of a histogram in the text format."""
        buckets = self.buckets()
        lines = [f'{name}_bucket{{{labels},le="{bound}"}} {count:.0f}\n' for bound, count in buckets]
        lines.append(f"{name}_sum{{{labels}}} {self.total!r}\n")
        lines.append(f"{name}_count{{{labels}}} {buckets[-1][1]:.0f}\n")
        return "".join(lines)


class ServerCounts:
    """What was counted for one backend or collector.

    `checks`: by kind, how many failed and passed, and their seconds in total.
    """

    __slots__ = ("changes", "checks", "refusals")

    def __init__(self, kinds: Iterable[EventKind]) -> None:
        self.checks: dict[str, tuple[list[int], list[float]]] = {}
        self.changes = dict.fromkeys(kinds, 0)
        self.refusals = 0


class PoolCounts:
    """What was counted for one pool and its servers. `hooks` is empty for a pool without hooks."""

    __slots__ = ("backends", "changes", "collectors", "hooks", "seconds")

    def __init__(self) -> None:
        self.backends: dict[str, ServerCounts] = {}
        self.collectors: dict[str, ServerCounts] = {}
        self.changes = dict.fromkeys(_POOL_CHANGES, 0)
        self.hooks: dict[str, int] = {}
        self.seconds: dict[str, Distribution] = {}

    def of(self, server: str) -> ServerCounts | None:
        """The counts of a backend or collector, whose names differ; None if the pool has no such server."""
        return self.backends.get(server) or self.collectors.get(server)

    def checked(self, server: str, kind: str, seconds: float, *, passed: bool) -> None:
        counts = self.of(server)
        if counts is None:
            return  # removed while its last check ran
        of = counts.checks.get(kind)
        if of is None:
            of = counts.checks[kind] = ([0, 0], [0.0])
        of[0][passed] += 1
        of[1][0] += seconds
        distribution = self.seconds.get(kind)
        if distribution is None:
            distribution = self.seconds[kind] = Distribution(_CHECK_BUCKETS)
        distribution.observe(seconds)

    def metrics(self, pool: str) -> Iterator[tuple[str, str]]:
        """The metrics in the text format: for each its head and samples. `pool` is the label of the pool."""
        # A kind of a check or an event and an outcome have no character that needs an escape.
        ended, took = [], []
        changed: dict[str, list[str]] = {_CHANGED: [], _COLLECTOR_CHANGED: []}
        servers = [("backend", _CHANGED, item) for item in self.backends.items()]
        servers += [("collector", _COLLECTOR_CHANGED, item) for item in self.collectors.items()]
        for role, head_, (name, counts) in servers:
            labels = f'{pool},{role}="{escape(name)}"'
            for kind, ((failed, passed), (seconds,)) in counts.checks.items():
                of = f'{labels},kind="{kind}"'
                ended.append(f'nftlb_checks_total{{{of},result="fail"}} {failed}\n')
                ended.append(f'nftlb_checks_total{{{of},result="pass"}} {passed}\n')
                took.append(f"nftlb_check_duration_seconds_sum{{{of}}} {seconds!r}\n")
                took.append(f"nftlb_check_duration_seconds_count{{{of}}} {failed + passed}\n")
            changed[head_] += [
                f'nftlb_{role}_transitions_total{{{labels},event="{event}"}} {number}\n'
                for event, number in counts.changes.items()
            ]
        refused = [
            f'nftlb_backend_refusals_total{{{pool},backend="{escape(name)}"}} {counts.refusals}\n'
            for name, counts in self.backends.items()
        ]
        yield _ENDED, "".join(ended)
        yield _TOOK, "".join(took)
        for head_, lines in changed.items():
            yield head_, "".join(lines)
        yield _REFUSED, "".join(refused)
        for kind, distribution in self.seconds.items():
            for head_ in (_TOOK_OF_POOL, _TOOK_DEPRECATED):
                yield head_, distribution.histogram(head_.split()[2], f'{pool},kind="{kind}"')
        for head_, label, numbers in ((_POOL_CHANGED, "event", self.changes), (_HOOKS, "outcome", self.hooks)):
            name = head_.split()[2]
            yield head_, "".join(f'{name}{{{pool},{label}="{of}"}} {number}\n' for of, number in numbers.items())


class Conntrack(Collector):
    """How full the table of connections is: `entries` and `limit`, of which the kernel may lack one or both."""

    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        found = self._read()
        helps = {
            "entries": "All entries of conntrack in the network namespace. No sample without conntrack.",
            "limit": "The most entries that conntrack may have: nf_conntrack_max. No sample without a limit.",
        }
        for what, help_ in helps.items():
            if what in found:
                yield GaugeMetricFamily(f"nftlb_conntrack_{what}", help_, found[what])


class Lag(Collector):
    """The delay between the planned and the actual start of checks, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._distribution = Distribution(bounds)
        self.observe = self._distribution.observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("nftlb_check_lag_seconds", "How late checks began.")
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
        "Packets that the guard dropped: rate, banned, denied or full. Only for pools with a guard.",
        lambda it: None if it.guard is None else getattr(it.guard, reason),
        "counter",
        f',reason="{reason}"',
    )


_BACKENDS: tuple[_Figure[BackendStatus], ...] = (
    _Figure("nftlb_backend_up", "1: the checks find the backend healthy.", lambda it: int(it.up)),
    _Figure("nftlb_backend_in_rotation", "1: the backend gets packets now.", lambda it: int(it.in_rotation)),
    *_one_of(
        "nftlb_backend_admin",
        "1 for the present state: enabled, drain or maintenance.",
        "state",
        Admin,
        lambda it: it.admin.value,
    ),
    _Figure("nftlb_backend_weight", "The weight, as configured or set.", lambda it: it.weight),
    _Figure("nftlb_backend_priority", "The priority, as configured or set.", lambda it: it.priority),
    _Figure(
        "nftlb_backend_share",
        "The part of the pool's packets that the backend should get now, 0 to 1.",
        lambda it: it.share,
    ),
    _Figure("nftlb_backend_packets_total", "Packets sent to the backend.", lambda it: it.packets, "counter"),
    _Figure("nftlb_backend_bytes_total", "Bytes sent to the backend.", lambda it: it.bytes, "counter"),
    _Figure(
        "nftlb_backend_copies_total",
        "Copies of templates sent to the backend, which its packets do not include.",
        lambda it: it.copies,
        "counter",
    ),
    _Figure(
        "nftlb_backend_requests_total",
        "UDP packets sent to the backend. Only for pools that count replies.",
        lambda it: it.requests,
        "counter",
    ),
    _Figure(
        "nftlb_backend_replies_total",
        "UDP packets that the backend sent back. Only for pools that count replies.",
        lambda it: it.replies,
        "counter",
    ),
    _Figure(
        "nftlb_backend_answered_ratio",
        "The part of the last seconds' packets that got a reply, 0 to 1. No sample without packets.",
        lambda it: it.answered,
    ),
    _Figure(
        "nftlb_backend_health_change_timestamp_seconds",
        "When the health last changed.",
        lambda it: it.since.timestamp(),
    ),
)

_COLLECTORS: tuple[_Figure[CollectorStatus], ...] = (
    _Figure("nftlb_collector_up", "1: the checks find the collector healthy.", lambda it: int(it.up)),
    _Figure("nftlb_collector_packets_total", "Copies sent to the collector.", lambda it: it.packets, "counter"),
    _Figure("nftlb_collector_bytes_total", "Bytes of these copies.", lambda it: it.bytes, "counter"),
)

_POOLS: tuple[_Figure[PoolStatus], ...] = (
    _Figure("nftlb_pool_ready", "1: the pool has its quorum and lacks nothing.", lambda it: int(it.ready)),
    _Figure(
        "nftlb_pool_lacking",
        "How many things the host lacks for the pool. The same for more than three backends counts once.",
        lambda it: len(it.lacking),
    ),
    _Figure("nftlb_pool_quorum", "How many usable backends the pool needs.", lambda it: it.quorum),
    _Figure(
        "nftlb_pool_healthy_backends",
        "Usable backends: up, enabled, and with a weight above 0.",
        lambda it: it.healthy,
    ),
    _Figure("nftlb_pool_backends", "All backends.", lambda it: len(it.backends)),
    _Figure(
        "nftlb_pool_priority",
        "The priority that serves. No sample while no priority serves alone.",
        lambda it: it.priority,
    ),
    *_one_of(
        "nftlb_pool_mode", "1 for the present mode: healthy, panic or fallback.", "mode", _MODES, lambda it: it.mode
    ),
    _Figure("nftlb_pool_packets_total", "Packets that came to the pool.", lambda it: it.packets, "counter"),
    _Figure("nftlb_pool_bytes_total", "Bytes that came to the pool.", lambda it: it.bytes, "counter"),
    *map(_dropped, DropReason),
)

_WHOLE: tuple[_Figure[Overview], ...] = (
    _Figure("nftlb_ready", "1: every pool is ready.", lambda it: int(it.ready)),
    _Figure("nftlb_kernel_synced", "1: the kernel has the wanted rules.", lambda it: int(it.kernel.synced)),
    _Figure(
        "nftlb_config_reload_success",
        "1: the file was good when it was last read.",
        lambda it: int(it.config.success),
    ),
    _Figure(
        "nftlb_config_last_good_copy",
        "1: the daemon started with the last good copy of the file, because the file was bad.",
        lambda it: int(it.config.copy_in_use is not None),
    ),
    _Figure(
        "nftlb_config_reload_timestamp_seconds",
        "When the configuration in use was loaded.",
        lambda it: it.config.loaded.timestamp(),
    ),
)


def _joined(of: str, labels: Mapping[str, str]) -> str:
    """The sample with the labels of a backend, as kube-state-metrics writes those of Kubernetes."""
    own = "".join(f',label_{name}="{escape(text)}"' for name, text in labels.items())
    return f"nftlb_backend_labels{{{of}{own}}} 1\n"


class Scrape:
    """Collects the text of a scrape. Each pool is written when it is added, so that no status has to be kept.

    `rest` returns the metrics that belong to no pool, in the same format.
    """

    def __init__(self, counts: Mapping[str, PoolCounts], rest: Callable[[], bytes]) -> None:
        self._counts = counts
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
        self._write(_LABELS, "".join(_joined(of, backend.labels) for of, backend in backends if backend.labels))
        collectors = [(f'{labels},collector="{escape(one.name)}"', one) for one in pool.collectors]
        for copies in _COLLECTORS if collectors else ():
            self._write(copies.head, copies.samples(collectors))
        if counts := self._counts.get(pool.name):
            for name, samples in counts.metrics(labels):
                self._write(name, samples)

    def finish(self, overview: Overview) -> bytes:
        """Finish the scrape and return its text."""
        faults = dict.fromkeys(fault.what for fault in overview.faults)
        lines = [
            head("nftlb_build_info", "gauge", "The version that runs; always 1."),
            f'nftlb_build_info{{version="{escape(overview.version)}"}} 1\n',
            *(f"{figure.head}{figure.name} {figure.value(overview)}\n" for figure in _WHOLE),
            head(
                "nftlb_fault",
                "gauge",
                "1 for each fault of the host or of the daemon that is present. No sample without a fault.",
            ),
            *(f'nftlb_fault{{what="{escape(what)}"}} 1\n' for what in faults),
        ]
        pieces = [piece for head, written in self._pieces.items() for piece in (head.encode(), *written)]
        return b"".join(["".join(lines).encode(), *pieces, self._rest()])

    def _write(self, head: str, samples: str) -> None:
        if samples:
            self._pieces.setdefault(head, []).append(samples.encode())
