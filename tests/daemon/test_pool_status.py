"""The status documents of pools and backends."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from pool_builders import ALL, backend, backends, config, pool, sorry

from nftlb.daemon.counters import Counters
from nftlb.daemon.daemon_service import backend_statuses, pool_status
from nftlb.health import CheckResult, PoolStates
from nftlb.model import Admin, Agent, BackendChange, Collector, Health, Icmp, Templates
from nftlb.ruleset import Count
from nftlb.service import BackendStatus, CheckStatus, CollectorStatus, PoolStatus

if TYPE_CHECKING:
    from nftlb.compiler.reply_form import Obstacles
    from nftlb.model import Pool

PASS, FAIL = (
    CheckResult(passed=True, reason="fine", seconds=0.0012),
    CheckResult(passed=False, reason="no answer", seconds=1.0),
)
PING = Health(check=Icmp(), rise=2, fall=1)
THREE = backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13")


def dns(**options: Any) -> Pool:
    behind = options.pop("behind", THREE)
    return pool("dns", options.pop("listen", "192.0.2.53:53/udp"), behind, **{"health": (PING,), **options})


class ReportedPool:
    """The states of one pool; times are arguments."""

    def __init__(self, pool: Pool) -> None:
        self.states = PoolStates.begin(config(pool), {}, time.monotonic())
        self.counters = Counters()
        self.obstacles: Obstacles = {}

    def fall(self, *names: str) -> None:
        for name in names:
            self.states.record_result("dns", name, 0, FAIL, time.monotonic())

    def status(self, *added: str) -> PoolStatus:
        state = self.states.membership(time.monotonic()).of("dns")
        shown = pool_status(self.states.pools["dns"], state, self.counters, added, self.obstacles)
        return PoolStatus.model_validate(shown.model_dump())  # what is shown is of the right types

    @property
    def shares(self) -> dict[str, float]:
        return {status.name: round(status.share, 3) for status in self.status().backends}


def test_documents_are_complete() -> None:
    """Every field of a pool, its backends, collectors and checks has a value, in the order of the API's description."""
    collector = Collector(name="archive", address=ip_address("10.0.9.9"), port=9995)
    states = PoolStates.begin(config(dns(mirror=(collector,))), {}, time.monotonic())
    shown = pool_status(states.pools["dns"], states.state("dns", time.monotonic()), Counters(), (), {})
    parts = [shown, *shown.backends, *shown.collectors, *shown.backends[0].checks]
    assert [PoolStatus, *[BackendStatus] * 3, CollectorStatus, CheckStatus] == list(map(type, parts))
    for part in parts:
        assert list(type(part).model_fields) == list(part.__dict__)
        assert set(part.__dict__) == part.model_fields_set
        assert part == type(part).model_validate_json(part.model_dump_json())
    with pytest.raises(ValueError, match="frozen"):
        type(shown).__setattr__(shown, "name", "other")


def test_the_copies_of_a_collector() -> None:
    """A collector has its own count, which is no part of the count of the pool; its state decides nothing else."""
    ping = replace(PING, fall=1)
    archive = Collector(name="archive", address=ip_address("10.0.9.9"), port=9995, one_in=10, health=(ping,))
    reported = ReportedPool(dns(mirror=(archive,), quorum=3))
    reported.counters.record({"dns/b1": Count(30, 3000), "collector/dns/archive": Count(3, 300)})
    (status,) = reported.status().collectors
    assert ("archive", "10.0.9.9", 9995, 10, True) == (
        status.name, status.address, status.port, status.one_in, status.up,
    )  # fmt: skip
    assert (3, 300, 30) == (status.packets, status.bytes, reported.status().packets)

    reported.fall("archive")
    (status,) = reported.status().collectors
    assert (False, "icmp: no answer") == (status.up, status.reason)
    assert reported.status().ready


def test_the_copies_of_templates() -> None:
    """Copies are no part of the packets of a backend or its pool. Without `templates` there is no such number."""
    reported = ReportedPool(dns(templates=Templates.ALL))
    reported.counters.record({"dns/b1": Count(30, 3000), "template/dns/b1": Count(2, 200)})
    status = reported.status()
    assert (30, [30, 0, 0], [2, 0, 0]) == (
        status.packets,
        [one.packets for one in status.backends],
        [one.copies for one in status.backends],
    )
    assert [None] * 3 == [one.copies for one in ReportedPool(dns()).status().backends]


def test_a_pool_that_is_well() -> None:
    """Before the first check, all backends have a share."""
    status = ReportedPool(dns(quorum=2)).status()

    assert ("dns", ("192.0.2.53:53/udp",), True, 2, 3, "healthy") == (
        status.name,
        status.listen,
        status.ready,
        status.quorum,
        status.healthy,
        status.mode,
    )
    assert [("b1", "10.0.0.11", 53), ("b2", "10.0.0.12", 53), ("b3", "10.0.0.13", None)] == [
        (shown.name, shown.address, shown.port) for shown in status.backends
    ]
    assert {(True, True, 0.333333, "no check yet")} == {
        (shown.up, shown.in_rotation, shown.share, shown.reason) for shown in status.backends
    }


def test_a_backend_that_is_down() -> None:
    """A backend that is down has no share, and its check has the reason."""
    reported = ReportedPool(dns())
    reported.fall("b1")

    status = reported.status()

    backend = status.backends[0]
    (check,) = backend.checks
    assert (False, False, 0.0, "icmp: no answer") == (backend.up, backend.in_rotation, backend.share, backend.reason)
    assert ("icmp", False, False, 0, 2, "no answer", 1.0) == (
        check.kind,
        check.up,
        check.passed,
        check.pending,
        check.needed,
        check.reason,
        check.seconds,
    )
    assert 2 == status.healthy
    assert check.at is not None


def test_a_change_that_is_pending() -> None:
    """A check shows its pending results, and the number that changes its state."""
    reported = ReportedPool(dns())
    reported.fall("b1")
    reported.states.record_result("dns", "b1", 0, PASS, time.monotonic())

    (check,) = reported.status().backends[0].checks

    assert (False, True, 1, 2, 0.0012) == (check.up, check.passed, check.pending, check.needed, check.seconds)


@pytest.mark.parametrize(
    ("options", "mode", "shares"),
    [
        ({}, "fallback", {"b1": 0, "b2": 0, "b3": 0}),
        ({"panic": 50}, "panic", {"b1": 0.333, "b2": 0.333, "b3": 0.333}),
        ({"fallback": ALL}, "fallback", {"b1": 0.333, "b2": 0.333, "b3": 0.333}),
        ({"fallback": sorry("10.0.0.99:53")}, "fallback", {"b1": 0, "b2": 0, "b3": 0}),
    ],
    ids=["reject", "panic", "all", "sorry"],
)
def test_mode_and_shares_without_healthy_backends(options: dict[str, Any], mode: str, shares: dict[str, float]) -> None:
    """Without healthy backends, the mode and the shares show which backends get packets."""
    reported = ReportedPool(dns(**options))
    reported.fall("b1", "b2", "b3")

    assert mode == reported.status().mode
    assert shares == reported.shares
    assert not reported.status().ready


def test_the_worse_mode_of_two_families_is_shown() -> None:
    """A pool whose IPv6 backends are down shows that mode; shares are per family."""
    both = (backend("b1", "10.0.0.11:53"), backend("b2", "10.0.0.12:53"), backend("b6", "[2001:db8::11]:53"))
    reported = ReportedPool(dns(behind=both, listen=("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")))
    assert {"b1": 0.5, "b2": 0.5, "b6": 1.0} == reported.shares

    reported.fall("b6")

    assert "fallback" == reported.status().mode
    assert {"b1": 0.5, "b2": 0.5, "b6": 0.0} == reported.shares


def test_a_family_without_backends() -> None:
    """A pool with a listener but no backend of a family shows the fallback."""
    reported = ReportedPool(dns(listen=("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")))

    assert "fallback" == reported.status().mode


def test_health_wish_and_weight_are_kept_apart() -> None:
    """A drained backend is up without a share; the wishes of agent and operator are both shown."""
    reported = ReportedPool(dns(health=(Health(check=Agent(port=9)),)))
    reported.states.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.DRAIN), time.monotonic())
    reported.states.set_by_operator("dns", ["b2"], BackendChange(weight=3), time.monotonic())
    says = CheckResult(passed=True, reason="drain", seconds=0.001, admin=Admin.MAINTENANCE)
    reported.states.record_result("dns", "b3", 0, says, time.monotonic())

    first, two, three = reported.status().backends

    assert (True, Admin.DRAIN, None, 0.0) == (first.up, first.admin, first.agent, first.share)
    assert (3, 1.0) == (two.weight, two.share)
    assert (True, Admin.ENABLED, Admin.MAINTENANCE, False) == (three.up, three.admin, three.agent, three.in_rotation)


def test_counters_include_removed_backends() -> None:
    """A pool counts all packets and bytes, also of removed backends."""
    reported = ReportedPool(dns())
    reported.counters.record({"dns/b1": Count(5, 500), "dns/gone": Count(2, 200)})

    status = reported.status("b3")

    assert [(5, 500), (0, 0), (0, 0)] == [(shown.packets, shown.bytes) for shown in status.backends]
    assert (7, 700) == (status.packets, status.bytes)
    assert [False, False, True] == [shown.added for shown in status.backends]


def test_the_answer_to_a_change_equals_the_status() -> None:
    """The answer to a change equals the status."""
    reported = ReportedPool(dns())
    reported.fall("b1")
    state = reported.states.membership(time.monotonic()).of("dns")

    (alone,) = backend_statuses(reported.states.pools["dns"], ["b2"], state, reported.counters, ())

    assert 0.5 == alone.share
    assert alone.model_dump(exclude={"since"}) == reported.status().backends[1].model_dump(exclude={"since"})


TWO_PRIORITIES = (*THREE[:2], backend("b3", "10.0.0.13", priority=2))


def test_who_serves_and_who_stands_by() -> None:
    """The status has the priority that serves, the healthy backends that stand by, and the time of the return."""
    reported = ReportedPool(dns(behind=TWO_PRIORITIES))
    status = reported.status()
    assert (1, "1", None) == (status.priority, status.min_healthy, status.preempts_at)
    assert [(1, False), (1, False), (2, True)] == [(backend.priority, backend.standby) for backend in status.backends]

    reported.fall("b1", "b2")
    assert (2, "healthy", {"b1": 0.0, "b2": 0.0, "b3": 1.0}) == (
        reported.status().priority,
        reported.status().mode,
        reported.shares,
    )
    begin = datetime.now(UTC)
    for _ in range(2):
        reported.states.record_result("dns", "b1", 0, PASS, time.monotonic())
    status = reported.status()
    assert (2, True) == (status.priority, status.backends[0].standby)
    assert status.preempts_at is not None
    assert 9 < (status.preempts_at - begin).total_seconds() < 60


def test_a_drained_backend_does_not_stand_by() -> None:
    """Only healthy and enabled backends stand by."""
    reported = ReportedPool(dns(behind=TWO_PRIORITIES))
    reported.states.set_by_operator("dns", ["b3"], BackendChange(admin=Admin.DRAIN), time.monotonic())

    assert [False, False, False] == [backend.standby for backend in reported.status().backends]


def test_a_family_with_a_higher_priority_only() -> None:
    """While each family is served by its lowest priority, the lowest of the pool is shown; else the one instead."""
    behind = (*TWO_PRIORITIES, backend("s1", "2001:db8::1", priority=2), backend("s2", "2001:db8::2", priority=3))
    reported = ReportedPool(dns(listen=("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"), behind=behind))
    assert 1 == reported.status().priority
    reported.fall("b1", "b2")
    assert 2 == reported.status().priority
    reported.fall("s1")
    assert 3 == reported.status().priority


def test_of_two_families_the_higher_priority_is_shown() -> None:
    """A pool shows the worst priority of its families; none if no priority serves alone in one of them."""
    six = (backend("s1", "2001:db8::1"), backend("s2", "2001:db8::2", priority=2))
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    reported = ReportedPool(dns(behind=(*TWO_PRIORITIES, *six), listen=listen))

    reported.fall("s1")
    assert 2 == reported.status().priority
    reported.fall("s2")
    assert None is reported.status().priority
