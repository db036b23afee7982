"""The metrics for Prometheus: the counters and the values of a status, in a format that its own parser reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from fake_service import NOON, a_backend, a_pool, an_overview
from prometheus_client.parser import text_string_to_metric_families

from nftlb.metrics import Metrics
from nftlb.model import Admin
from nftlb.service import Fault, GuardStatus

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from nftlb.service import Overview, PoolStatus

EMPTY = an_overview()
DNS = a_pool("dns", a_backend("ns1"))


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
    """Checks are counted by pool, kind and result, with their durations."""
    metrics = Metrics()
    metrics.checked("dns", "icmp", True, 0.002)
    metrics.checked("dns", "icmp", False, 1.0)
    metrics.checked("dns", "icmp", True, 0.002)

    shown = scrape(metrics, DNS)

    of = {"pool": "dns", "kind": "icmp"}
    assert [2, 1] == [shown.value("nftlb_checks_total", **of, result=result) for result in ("pass", "fail")]
    assert shown.value("nftlb_check_seconds_count", **of) == 3
    assert shown.value("nftlb_check_seconds_bucket", **of, le="0.0025") == 2
    assert pytest.approx(1.004) == shown.value("nftlb_check_seconds_sum", **of)


def test_a_pool_can_be_forgotten() -> None:
    """A removed pool leaves no series, and its counters start at zero if it returns."""
    metrics = Metrics()
    metrics.checked("dns", "icmp", True, 0.1)
    metrics.checked("sip", "sip", True, 0.1)

    metrics.forget("dns")

    shown = scrape(metrics, DNS, a_pool("sip"))
    assert not shown.has("nftlb_checks_total", pool="dns")
    assert not shown.has("nftlb_check_seconds_count", pool="dns")
    assert shown.has("nftlb_checks_total", pool="sip")
    metrics.checked("dns", "icmp", True, 0.1)
    assert scrape(metrics, DNS).value("nftlb_checks_total", pool="dns", kind="icmp", result="pass") == 1


def test_changes_of_the_tables_are_counted() -> None:
    """Changes of the tables are counted with durations, failures, and undone changes of other programs."""
    metrics = Metrics()
    metrics.swapped(0.01)
    metrics.swapped(0.2)
    metrics.swap_failed()
    metrics.restored()

    shown = scrape(metrics)

    assert shown.value("nftlb_swaps_total") == 2
    assert shown.value("nftlb_swap_seconds_count") == 2
    assert pytest.approx(0.21) == shown.value("nftlb_swap_seconds_sum")
    assert [1, 1] == [shown.value(f"nftlb_{what}_total") for what in ("swap_failures", "restores")]


def test_reloads_and_hooks_are_counted() -> None:
    """Reloads and hooks are counted by outcome, and the lag of checks has a histogram."""
    metrics = Metrics()
    metrics.reloaded(True)
    metrics.reloaded(False)
    metrics.reloaded(False)
    metrics.hook("timeout")
    metrics.lag(0.3)

    shown = scrape(metrics)

    assert [1, 2] == [shown.value("nftlb_config_reloads_total", result=result) for result in ("success", "failure")]
    assert shown.value("nftlb_hooks_total", outcome="timeout") == 1
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
    metrics = Metrics()
    before: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for kind in range(20):
        page = metrics.page()
        metrics.checked("dns", f"kind{kind % 7}", kind % 3 > 0, 0.01)
        page.add(DNS)
        metrics.checked("dns", f"kind{kind % 5}", kind % 2 > 0, 0.01)
        now = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page.finish(EMPTY).decode())
            if family.type in {"counter", "histogram"}
            for sample in family.samples
        }
        assert {} == {key: value for key, value in before.items() if now[key] < value}
        before = now
    assert any(name == "nftlb_checks_total" for name, _ in before)


def test_names_are_as_promtool_wants_them() -> None:
    """Every metric has help and a type; only counters end in _total; units are base units, written out."""
    metrics = Metrics()
    metrics.checked("dns", "icmp", True, 0.1)
    metrics.hook("ok")
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
    metrics = Metrics()
    metrics.checked("dns", "icmp", True, 0.1)
    metrics.checked("sip", "tcp", False, 0.1)

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
        'nftlb_checks_total{pool="dns",kind="icmp",result="fail"} 0\n'
        'nftlb_checks_total{pool="dns",kind="icmp",result="pass"} 1\n'
        'nftlb_checks_total{pool="sip",kind="tcp",result="fail"} 1\n'
        'nftlb_checks_total{pool="sip",kind="tcp",result="pass"} 0\n'
    ) in text
