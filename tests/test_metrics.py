"""The metrics for Prometheus: the counters and the values of a status, in a format that its own parser reads."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from fake_service import NOON, a_backend, a_collector, a_pool, an_overview
from prometheus_client.parser import text_string_to_metric_families

from nftlb.config import parse_config
from nftlb.metrics import HOOK_OUTCOMES, Metrics
from nftlb.model import Admin, EventKind
from nftlb.service import Fault, GuardStatus

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from nftlb.model import Config
    from nftlb.service import Overview, PoolStatus

EMPTY = an_overview()
DNS = a_pool("dns", a_backend("ns1"))


def config(hooks: str = "", **pools: tuple[str, ...]) -> Config:
    """A configuration with the backends of each pool, and the hooks of every pool."""
    lines = ["pools:"]
    for number, (pool, backends) in enumerate(pools.items()):
        lines += [f"  {pool}:", f"    listen: 192.0.2.{number}:53/udp", "    backends:"]
        lines += [f"      {name}: 10.0.{number}.{last}:53" for last, name in enumerate(backends, 1)]
        lines += [f"    hooks: {hooks}"] if hooks else []
    return parse_config("\n".join(lines), "test.yaml")


def counting(hooks: str = "", **pools: tuple[str, ...]) -> Metrics:
    """Metrics that count for these pools and their backends."""
    metrics = Metrics()
    metrics.follow(config(hooks, **pools))
    return metrics


@dataclass(frozen=True)
class Scrape:
    """A scrape as Prometheus would read it."""

    families: dict[str, Metric]

    def value(self, name: str, **labels: str) -> float:
        """The value of the sample with this name and these labels."""
        (found,) = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return found

    def has(self, name: str, **labels: str) -> bool:
        return any(
            sample.name == name and labels.items() <= sample.labels.items()
            for family in self.families.values()
            for sample in family.samples
        )


def content(metrics: Metrics, *pools: PoolStatus, of: Overview = EMPTY) -> str:
    page = metrics.page()
    for pool in pools:
        page.add(pool)
    return page.finish(of).decode()


def scrape(metrics: Metrics, *pools: PoolStatus, of: Overview = EMPTY) -> Scrape:
    families = list(text_string_to_metric_families(content(metrics, *pools, of=of)))
    assert len(families) == len({family.name for family in families})  # each family occurs once
    return Scrape({family.name: family for family in families})


def test_labels_have_a_metric_for_joins() -> None:
    """A backend with labels has a sample with them, whose value is 1; a backend without labels has none."""
    shown = scrape(Metrics(), a_pool("dns", a_backend("ns1", labels={"site": "fra", "rack": 'a"b'}), a_backend("ns2")))

    of = {"pool": "dns", "backend": "ns1", "label_site": "fra", "label_rack": 'a"b'}
    assert 1 == shown.value("nftlb_backend_labels", **of)
    assert not shown.has("nftlb_backend_labels", backend="ns2")


def test_every_value_of_a_backend_has_a_metric() -> None:
    """Every value in the status of a backend has a metric, by pool and backend."""
    backend = a_backend(
        "ns1", up=False, in_rotation=False, admin=Admin.DRAIN, weight=3, share=0.25, packets=2**60 + 1, bytes=9
    )

    shown = scrape(Metrics(), a_pool("dns", backend))

    labels = {"pool": "dns", "backend": "ns1"}
    figures = ("up", "in_rotation", "weight", "share", "packets_total", "bytes_total")
    expected = [0, 0, 3, 0.25, 2**60 + 1, 9]
    assert expected == [shown.value(f"nftlb_backend_{figure}", **labels) for figure in figures]
    assert NOON.timestamp() == shown.value("nftlb_backend_health_change_timestamp_seconds", **labels)
    states = {state: shown.value("nftlb_backend_admin", **labels, state=state) for state in Admin}
    assert {Admin.ENABLED: 0, Admin.DRAIN: 1, Admin.MAINTENANCE: 0} == states


def test_every_value_of_a_pool_has_a_metric() -> None:
    """Every value in the status of a pool has a metric."""
    pool = a_pool(
        "dns", a_backend("a", up=False), a_backend("b"), quorum=2, ready=False, mode="panic", packets=5, bytes=6
    )

    shown = scrape(Metrics(), pool)

    figures = ("ready", "quorum", "healthy_backends", "backends", "packets_total", "bytes_total")
    assert [0, 2, 1, 2, 5, 6] == [shown.value(f"nftlb_pool_{figure}", pool="dns") for figure in figures]
    modes = ("healthy", "panic", "fallback")
    assert [0, 1, 0] == [shown.value("nftlb_pool_mode", pool="dns", mode=mode) for mode in modes]


def test_the_priority_that_serves_is_shown() -> None:
    """A pool in which no priority serves alone has no sample."""
    found = scrape(Metrics(), a_pool("dns", a_backend("a"), priority=2), a_pool("ntp", priority=None))

    assert 2.0 == found.value("nftlb_pool_priority", pool="dns")
    assert not found.has("nftlb_pool_priority", pool="ntp")


def test_every_reason_of_a_guard_has_a_metric() -> None:
    """Dropped packets are counted by pool and reason; a pool without a guard has no samples."""
    dropped = GuardStatus(rate=1, banned=2, denied=3, full=4)
    found = scrape(Metrics(), a_pool("dns", a_backend("a"), guard=dropped), a_pool("ntp"))

    name = "nftlb_guard_dropped_packets_total"
    values = {reason: found.value(name, pool="dns", reason=reason) for reason in ("rate", "banned", "denied", "full")}
    assert dropped.model_dump() == values
    assert not found.has(name, pool="ntp", reason="rate")


def test_every_value_of_the_overview_has_a_metric() -> None:
    """Readiness, kernel, file, faults and version have metrics; two faults of one kind are one series."""
    faults = tuple(Fault(what=what, message="full", since=NOON) for what in ("hooks", "state_dir", "hooks"))
    config = EMPTY.config.model_copy(update={"success": False})
    kernel = EMPTY.kernel.model_copy(update={"synced": False})

    shown = scrape(Metrics(), of=an_overview(ready=False, faults=faults, config=config, kernel=kernel))

    names = ("nftlb_ready", "nftlb_kernel_synced", "nftlb_config_reload_success")
    assert [0, 0, 0] == [shown.value(name) for name in names]
    assert NOON.timestamp() == shown.value("nftlb_config_reload_timestamp_seconds")
    assert [1, 1] == [shown.value("nftlb_fault", what=what) for what in ("hooks", "state_dir")]
    assert shown.value("nftlb_build_info", version="0.1.0") == 1
    assert shown.value("process_open_fds") > 0


def test_labels_are_escaped() -> None:
    """The parser reads any name in a label unchanged."""
    wild = 'a"b\\n\\c\nd{}'

    shown = scrape(
        Metrics(),
        a_pool(wild, a_backend(wild)),
        of=an_overview(faults=(Fault(what=wild, message="", since=NOON),)),
    )

    assert shown.value("nftlb_backend_up", pool=wild, backend=wild) == 1
    assert shown.value("nftlb_fault", what=wild) == 1


def test_checks_are_counted() -> None:
    """Checks are counted by pool, backend, kind and result, with their durations."""
    metrics = counting(dns=("ns1", "ns2"))
    metrics.checked("dns", "ns1", "icmp", True, 0.002)
    metrics.checked("dns", "ns1", "icmp", False, 1.0)
    metrics.checked("dns", "ns2", "icmp", True, 0.002)

    shown = scrape(metrics, DNS)

    first, second = ({"pool": "dns", "backend": name, "kind": "icmp"} for name in ("ns1", "ns2"))
    results = ("pass", "fail")
    assert [1, 1] == [shown.value("nftlb_checks_total", **first, result=result) for result in results]
    assert [1, 0] == [shown.value("nftlb_checks_total", **second, result=result) for result in results]
    assert [2, 1] == [shown.value("nftlb_check_duration_seconds_count", **of) for of in (first, second)]
    assert pytest.approx(1.002) == shown.value("nftlb_check_duration_seconds_sum", **first)
    whole = {"pool": "dns", "kind": "icmp"}
    assert shown.value("nftlb_pool_check_duration_seconds_count", **whole) == 3
    assert shown.value("nftlb_pool_check_duration_seconds_bucket", **whole, le="0.0025") == 2
    assert pytest.approx(1.004) == shown.value("nftlb_pool_check_duration_seconds_sum", **whole)
    assert shown.value("nftlb_check_seconds_count", **whole) == 3  # the deprecated name


def test_collectors_are_counted_apart_from_backends() -> None:
    """Checks and changes of a collector have the label `collector`, and those of a removed collector are forgotten."""
    text = "pools: {log: {listen: '192.0.2.1:514/udp', backends: {a: 10.0.0.1}, mirror: {archive: '10.0.9.9:514'}}}"
    metrics = Metrics()
    metrics.follow(parse_config(text, "test.yaml"))
    metrics.checked("log", "archive", "icmp", True, 0.5)
    metrics.changed("log", "archive", EventKind.COLLECTOR_DOWN)

    shown = scrape(metrics, a_pool("log", a_backend("a"), collectors=(a_collector("archive"),)))

    of = {"pool": "log", "collector": "archive"}
    assert shown.value("nftlb_checks_total", **of, kind="icmp", result="pass") == 1
    assert pytest.approx(0.5) == shown.value("nftlb_check_duration_seconds_sum", **of, kind="icmp")
    kinds = (EventKind.COLLECTOR_UP, EventKind.COLLECTOR_DOWN)
    assert [0, 1] == [shown.value("nftlb_collector_transitions_total", **of, event=kind) for kind in kinds]
    assert not shown.has("nftlb_backend_transitions_total", backend="archive")
    metrics.follow(config(log=("a",)))
    metrics.checked("log", "archive", "icmp", True, 0.5)
    assert not scrape(metrics, a_pool("log", a_backend("a"))).has("nftlb_checks_total", pool="log")


def test_changes_and_refusals_are_counted() -> None:
    """Changes are counted by pool, backend and event, refusals by pool and backend; both from zero."""
    metrics = counting(dns=("ns1", "ns2"))
    metrics.changed("dns", "ns1", EventKind.BACKEND_DOWN)
    metrics.changed("dns", "", EventKind.QUORUM_DOWN)
    metrics.refused("dns", "ns2")

    shown = scrape(metrics, DNS)

    def changes(backend: str) -> list[float]:
        kinds = (EventKind.BACKEND_UP, EventKind.BACKEND_DOWN, EventKind.BACKEND_CHANGED)
        name = "nftlb_backend_transitions_total"
        return [shown.value(name, pool="dns", backend=backend, event=kind) for kind in kinds]

    assert [0, 1, 0] == changes("ns1")
    assert [0, 0, 0] == changes("ns2")
    kinds = (EventKind.QUORUM_UP, EventKind.QUORUM_DOWN, EventKind.PRIORITY_CHANGED)
    assert [0, 1, 0] == [shown.value("nftlb_pool_transitions_total", pool="dns", event=kind) for kind in kinds]
    refusals = [shown.value("nftlb_backend_refusals_total", pool="dns", backend=name) for name in ("ns1", "ns2")]
    assert [0, 1] == refusals


def test_removed_backends_and_pools_are_forgotten() -> None:
    """What was removed leaves no series and counts no late result; if it returns, its counters start at zero."""
    metrics = counting(dns=("ns1", "ns2"), sip=("s1",))
    for pool, backend in (("dns", "ns1"), ("dns", "ns2"), ("sip", "s1")):
        metrics.checked(pool, backend, "icmp", True, 0.1)

    metrics.follow(config(dns=("ns1",)))
    metrics.checked("dns", "ns2", "icmp", True, 0.1)
    metrics.checked("sip", "s1", "icmp", True, 0.1)
    metrics.changed("sip", "s1", EventKind.BACKEND_CHANGED)
    metrics.refused("sip", "s1")
    metrics.hook("sip", "ok")

    shown = scrape(metrics, DNS, a_pool("sip"))
    assert shown.has("nftlb_checks_total", pool="dns", backend="ns1")
    assert not shown.has("nftlb_checks_total", backend="ns2")
    names = ("checks_total", "pool_check_duration_seconds_count", "pool_transitions_total", "hooks_total")
    assert not [name for name in names if shown.has(f"nftlb_{name}", pool="sip")]
    metrics.follow(config(dns=("ns1", "ns2")))
    metrics.checked("dns", "ns2", "icmp", True, 0.1)
    of = {"pool": "dns", "kind": "icmp", "result": "pass"}
    found = scrape(metrics, DNS)
    assert [1, 1] == [found.value("nftlb_checks_total", backend=name, **of) for name in ("ns1", "ns2")]


def test_conntrack_is_shown_as_far_as_the_kernel_has_it() -> None:
    """Entries and limit are read at each scrape; a host without conntrack has no series."""
    metrics = Metrics()
    found = {"entries": 7, "limit": 262144}
    with closing(asyncio.new_event_loop()) as loop:
        metrics.watch(loop, lambda: found)
        shown = scrape(metrics)
        found.clear()
        after = scrape(metrics)

    assert [7, 262144] == [shown.value(f"nftlb_conntrack_{what}") for what in ("entries", "limit")]
    assert not after.has("nftlb_conntrack_entries")
    assert not after.has("nftlb_conntrack_limit")


def test_changes_of_the_tables_are_counted() -> None:
    """Changes of the tables are counted with durations, failures, and undone changes of other programs."""
    metrics = Metrics()
    metrics.swapped(0.01)
    metrics.swapped(0.2)
    metrics.swap_failed()
    metrics.restored()

    shown = scrape(metrics)

    assert shown.value("nftlb_swaps_total") == 2
    assert shown.value("nftlb_swap_duration_seconds_count") == 2
    assert pytest.approx(0.21) == shown.value("nftlb_swap_duration_seconds_sum")
    assert shown.value("nftlb_swap_seconds_count") == 2  # the deprecated name
    assert [1, 1] == [shown.value(f"nftlb_{what}_total") for what in ("swap_failures", "restores")]


def test_reloads_and_hooks_are_counted() -> None:
    """Reloads and hooks are counted by outcome, hooks by pool too; the lag of checks has a histogram."""
    metrics = counting(hooks="{backend_up: [/bin/true]}", dns=("ns1",))
    metrics.reloaded(True)
    metrics.reloaded(False)
    metrics.reloaded(False)
    metrics.hook("dns", "timeout")
    metrics.lag(0.3)

    shown = scrape(metrics, DNS)

    assert [1, 2] == [shown.value("nftlb_config_reloads_total", result=result) for result in ("success", "failure")]
    hooks = {outcome: shown.value("nftlb_hooks_total", pool="dns", outcome=outcome) for outcome in HOOK_OUTCOMES}
    assert {"ok": 0, "failed": 0, "timeout": 1, "unstarted": 0, "dropped": 0} == hooks
    assert shown.value("nftlb_check_lag_seconds_bucket", le="0.25") == 0
    assert shown.value("nftlb_check_lag_seconds_bucket", le="0.5") == 1


def test_a_counter_begins_with_zero() -> None:
    """rate() and increase() see the first event only if there was a zero before."""
    shown = scrape(Metrics())

    assert [0, 0, 0] == [shown.value(f"nftlb_{what}_total") for what in ("swaps", "swap_failures", "restores")]
    assert [0, 0] == [shown.value("nftlb_config_reloads_total", result=result) for result in ("success", "failure")]


def test_two_registries_have_nothing_in_common() -> None:
    """The global registry is not used, so two registries share no counters."""
    first, second = Metrics(), Metrics()
    first.swapped(1)

    assert scrape(second).value("nftlb_swaps_total") == 0


def test_counters_never_decrease_between_scrapes() -> None:
    """No counter decreases between two scrapes, whatever is counted during a scrape."""
    metrics = counting(dns=("ns1",))
    before: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for kind in range(20):
        page = metrics.page()
        metrics.checked("dns", "ns1", f"kind{kind % 7}", kind % 3 > 0, 0.01)
        page.add(DNS)
        metrics.checked("dns", "ns1", f"kind{kind % 5}", kind % 2 > 0, 0.01)
        now = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page.finish(EMPTY).decode())
            if family.type in {"counter", "histogram", "summary"}
            for sample in family.samples
        }
        assert {} == {key: value for key, value in before.items() if now[key] < value}
        before = now
    assert any(name == "nftlb_checks_total" for name, _ in before)


def test_names_are_as_promtool_wants_them() -> None:
    """Every metric has help and a type; only counters end in _total; units are base units, written out."""
    metrics = counting(hooks="{backend_up: [/bin/true]}", dns=("a",))
    metrics.checked("dns", "a", "icmp", True, 0.1)
    faults = (Fault(what="x", message="", since=NOON),)
    text = content(metrics, a_pool("dns", a_backend("a")), of=an_overview(faults=faults))

    assert text.endswith("\n")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (\S.*)$", text, re.MULTILINE))
    assert types.keys() == helps.keys()
    ours = {name: type_ for name, type_ in types.items() if name.startswith("nftlb_")}
    assert len(ours) > 25
    for name, kind in ours.items():
        assert re.fullmatch("[a-z][a-z_]*[a-z]", name)
        assert (kind == "counter") == name.endswith("_total")
        assert not re.search("milli|micro|_ms|_us|_ns|minute|hour|kilo|percent|counter|gauge|histogram", name)
        assert helps[name].endswith(".")


def test_all_samples_of_a_name_stand_together() -> None:
    """All samples of a metric follow one head, pool after pool, as the format requires."""
    metrics = counting(dns=("a",), sip=("b",))
    metrics.checked("dns", "a", "icmp", True, 0.1)
    metrics.checked("sip", "b", "tcp", False, 0.1)

    text = content(metrics, a_pool("dns", a_backend("a")), a_pool("sip", a_backend("b", packets=7)))

    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert sorted(set(heads)) == sorted(heads)
    assert (
        "# TYPE nftlb_backend_packets_total counter\n"
        'nftlb_backend_packets_total{pool="dns",backend="a"} 0\n'
        'nftlb_backend_packets_total{pool="sip",backend="b"} 7\n'
        "# HELP"
    ) in text
    assert (
        "# TYPE nftlb_checks_total counter\n"
        'nftlb_checks_total{pool="dns",backend="a",kind="icmp",result="fail"} 0\n'
        'nftlb_checks_total{pool="dns",backend="a",kind="icmp",result="pass"} 1\n'
        'nftlb_checks_total{pool="sip",backend="b",kind="tcp",result="fail"} 1\n'
        'nftlb_checks_total{pool="sip",backend="b",kind="tcp",result="pass"} 0\n'
    ) in text


def test_copies_of_templates() -> None:
    """Only backends of pools with `templates` have this sample, which their packets do not include."""
    found = scrape(Metrics(), a_pool("flows", a_backend("a", packets=10, copies=4)), a_pool("dns", a_backend("b")))

    names = ("nftlb_backend_packets_total", "nftlb_backend_copies_total")
    assert [10, 4] == [found.value(name, pool="flows", backend="a") for name in names]
    assert not found.has("nftlb_backend_copies_total", pool="dns")


def test_counted_replies() -> None:
    """Only backends whose replies are counted have these samples."""
    counted = a_backend("ns1", requests=200, replies=150, answered=0.75)
    found = scrape(Metrics(), a_pool("dns", counted, a_backend("ns2", requests=0, replies=0), a_backend("ns3")))

    names = ("nftlb_backend_requests_total", "nftlb_backend_replies_total", "nftlb_backend_answered_ratio")
    assert [200, 150, 0.75] == [found.value(name, pool="dns", backend="ns1") for name in names]
    assert [True, True, False] == [found.has(name, backend="ns2") for name in names]
    assert [False] * 3 == [found.has(name, backend="ns3") for name in names]
