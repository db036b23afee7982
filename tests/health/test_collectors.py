"""The health of collectors: their checks decide about copies, and about nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from pool_builders import backends, config, pool

from nftlb.health import CheckResult, PoolStates
from nftlb.model import BackendState, Collector, EventKind, Health, Icmp, Pool

PASS, FAIL = (
    CheckResult(passed=True, reason="fine", seconds=0.001),
    CheckResult(passed=False, reason="no answer", seconds=1.0),
)
PING = Health(check=Icmp(), rise=1, fall=2)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ARCHIVE = Collector(name="archive", address=ip_address("10.0.9.9"), port=9995, health=(PING,))
PLAIN = Collector(name="plain", address=ip_address("10.0.9.8"))
DOWN = BackendState(up=False)


def mirrored(*collectors: Collector, **options: Any) -> Pool:
    both = backends("10.0.0.11:53", "10.0.0.12:53")
    return pool("dns", "192.0.2.53:53/udp", both, mirror=collectors or (ARCHIVE, PLAIN), quorum=2, **options)


def begin(*, known: PoolStates | None = None) -> PoolStates:
    return PoolStates.begin(config(mirrored()), known.memory(0.0, NOON) if known else {}, 0.0)


def fail(states: PoolStates, times: int = 2) -> list[EventKind]:
    """Let the check of `archive` fail; return the kinds of the changes."""
    changes = [states.record_result("dns", "archive", 0, FAIL, 1.0) for _ in range(times)]
    return [change.kind for found in changes for change in found]


def test_a_collector_goes_down_and_comes_up() -> None:
    """`fall` and `rise` count as for backends; the pool keeps its quorum, its priority and all its backends."""
    states = begin()
    assert [] == fail(states, 1)
    assert [EventKind.COLLECTOR_DOWN] == fail(states, 1)
    assert frozenset({("archive", DOWN)}) == states.state("dns", 1.0)
    assert states.pools["dns"].ready
    assert 2 == states.pools["dns"].healthy

    (change,) = states.record_result("dns", "archive", 0, PASS, 2.0)
    assert (EventKind.COLLECTOR_UP, "archive", "icmp: fine") == (change.kind, change.backend, change.reason)
    assert frozenset() == states.state("dns", 2.0)


def test_a_collector_without_a_check_is_up() -> None:
    """A collector without a check gets copies from the start, and no result is expected."""
    tracked = begin().pools["dns"].tracked("plain")
    assert (True, []) == (tracked.up, tracked.checks)


def test_a_restart_keeps_the_state() -> None:
    """A collector that was down gets no copies after a restart until its check passes."""
    before = begin()
    fail(before)
    assert frozenset({("archive", DOWN)}) == begin(known=before).state("dns", 1.0)


def test_a_reload_keeps_the_state_of_the_same_server() -> None:
    """Another interval keeps the state; another address starts as `initial` says, and is reported."""
    states = begin()
    fail(states)
    slower = replace(ARCHIVE, health=(replace(PING, interval=9000),))
    same, changes = states.with_config(config(mirrored(slower, PLAIN)), 3.0)
    assert (frozenset({("archive", DOWN)}), []) == (same.state("dns", 3.0), changes)

    moved, _ = states.with_config(config(mirrored(replace(ARCHIVE, address=ip_address("10.0.9.7")), PLAIN)), 3.0)
    assert frozenset() == moved.state("dns", 3.0)


def test_a_check_that_is_removed_lets_the_collector_come_up() -> None:
    """Without its check, a collector that was down gets copies again, and the change is reported."""
    states = begin()
    fail(states)
    now, changes = states.with_config(config(mirrored(replace(ARCHIVE, health=()), PLAIN)), 3.0)
    assert frozenset() == now.state("dns", 3.0)
    assert [EventKind.COLLECTOR_UP] == [change.kind for change in changes]
