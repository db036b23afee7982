"""The states of pools and backends, and what changes them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pool_builders import backend, backends, config, pool

from nftlb.config import parse_config, resolve
from nftlb.health import Change, CheckResult, PoolMemory, PoolStates
from nftlb.health.memory import BackendMemory
from nftlb.model import (
    Admin,
    Agent,
    BackendChange,
    BackendState,
    Dns,
    EventKind,
    Expect,
    Family,
    FoundServer,
    Health,
    HostLookup,
    Icmp,
    Initial,
    MinHealthy,
    Udp,
    rotation_of,
)

if TYPE_CHECKING:
    from nftlb.model import Config, Pool

PASS, FAIL = (
    CheckResult(passed=True, reason="fine", seconds=0.001),
    CheckResult(passed=False, reason="no answer", seconds=1.0),
)
PING = Health(check=Icmp(), rise=2, fall=3)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
THREE = backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53")


def dns(*health: Health, **options: Any) -> Pool:
    return pool("dns", "192.0.2.53:53/udp", options.pop("backends", THREE), health=health or (PING,), **options)


def begin(*pools: Pool, memory: dict[str, PoolMemory] | None = None) -> PoolStates:
    return PoolStates.begin(config(*(pools or (dns(),))), memory or {}, 0.0)


def feed(health: PoolStates, backend_name: str, outcomes: str, check: int = 0, now: float = 1.0) -> list[Change]:
    """Record results, written as `+` and `-`."""
    changes = []
    for outcome in outcomes:
        changes += health.record_result("dns", backend_name, check, PASS if outcome == "+" else FAIL, now)
    return changes


def down(health: PoolStates) -> set[str]:
    return {name for name, tracked in health.pools["dns"].backends.items() if not tracked.up}


def states(health: PoolStates, now: float = 1.0) -> dict[str, BackendState]:
    of_it = health.state("dns", now)
    assert of_it == health.membership(now).of("dns")
    return dict(of_it)


def kinds(changes: list[Change]) -> list[tuple[EventKind, str]]:
    return [(change.kind, change.backend) for change in changes]


# --- health ----------------------------------------------------------------------------------------------------------


def test_a_backend_goes_down_and_comes_up() -> None:
    """After `fall` failures a backend is down and not chosen, after `rise` successes up; each is reported once."""
    health = begin()

    assert [] == feed(health, "b2", "--")
    assert [Change(EventKind.BACKEND_DOWN, "dns", "b2", "up", "down", "icmp: no answer")] == feed(health, "b2", "-")
    assert {"b2": BackendState(up=False)} == states(health)
    assert [] == feed(health, "b2", "---+")
    assert [Change(EventKind.BACKEND_UP, "dns", "b2", "down", "up", "icmp: fine")] == feed(health, "b2", "+")
    assert {} == states(health)


def test_all_checks_must_pass() -> None:
    """One of two checks takes the backend down, and both are needed to bring it up."""
    health = begin(dns(PING, Health(check=Dns(), rise=1, fall=1)))

    assert [(EventKind.BACKEND_DOWN, "b1")] == kinds(feed(health, "b1", "-", check=1))
    assert [] == feed(health, "b1", "---", check=0)
    assert [] == feed(health, "b1", "+", check=1)
    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(health, "b1", "++", check=0))


@pytest.mark.parametrize(("initial", "expected"), [(Initial.UP, set()), (Initial.LAST, set()), (Initial.DOWN, {"b1"})])
def test_the_first_state_is_that_of_initial(initial: Initial, expected: set[str]) -> None:
    """Before its first check a backend has the state of `initial`; with `last` and no saved state it is up."""
    health = begin(dns(replace(PING, initial=initial), backends=THREE[:1]))

    assert expected == down(health)


def test_initial_last_uses_the_saved_state() -> None:
    """With `last`, each check starts with its own saved state, if the server is the same."""
    memory = {
        "b1": BackendMemory(endpoint="10.0.0.11:53", checks=(False,)),
        "b2": BackendMemory(endpoint="10.0.0.99:53", checks=(False,)),
    }

    assert {"b1"} == down(begin(memory={"dns": PoolMemory(backends=memory)}))


def test_a_changed_list_of_checks_is_remembered_as_a_whole() -> None:
    """If the checks have changed, the saved state is whether all checks were up."""
    memory = {"b1": BackendMemory(endpoint="10.0.0.11:53", checks=(True, False))}
    health = begin(memory={"dns": PoolMemory(backends=memory)})

    assert {"b1"} == down(health)


def test_backends_without_checks_are_up() -> None:
    """A pool without health checks has all its backends up."""
    assert set() == down(begin(pool("dns", "192.0.2.53:53/udp", THREE)))


def test_a_refusal_takes_a_backend_down_at_once() -> None:
    """One refused datagram takes a backend down; then `rise` successes bring it up."""
    health = begin()

    assert [Change(EventKind.BACKEND_DOWN, "dns", "b1", "up", "down", "passive: refused")] == health.record_refusal(
        "dns", "b1", "refused", 1.0
    )
    assert [] == health.record_refusal("dns", "b1", "refused", 1.1)
    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(health, "b1", "++"))


DECISIVE = CheckResult(passed=False, reason="connection refused", seconds=0.001, decides=True)


def test_a_deciding_failure_takes_a_backend_down_at_once() -> None:
    """One deciding failure takes a backend down, with the reason. After that, `rise` and `fall` count as usual."""
    health = begin()

    reason = "icmp: connection refused, after traffic was refused"
    assert [Change(EventKind.BACKEND_DOWN, "dns", "b1", "up", "down", reason)] == health.record_result(
        "dns", "b1", 0, DECISIVE, 1.0
    )
    assert [] == health.record_result("dns", "b1", 0, DECISIVE, 1.1)
    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(health, "b1", "++"))
    assert [] == kinds(feed(health, "b1", "--"))
    assert [] == health.record_result("dns", "b1", 0, replace(DECISIVE, passed=True), 3.0)


def test_a_hint_alone_takes_no_backend_down() -> None:
    """Hints alone never take a backend down, whatever their number: a check decides."""
    health = begin()

    assert [[]] * 9 == [health.record_hint("dns", "b1", "port unreachable", float(number)) for number in range(9)]


def test_a_hint_is_a_failure_for_a_check_for_errors() -> None:
    """A hint is a failure for a check with `expect: no-icmp-error`: `fall` hints in a row take the backend down."""
    health = begin(dns(Health(check=Udp(expect=Expect.NO_ICMP_ERROR), fall=3)))

    def doubt() -> list[Change]:
        return health.record_hint("dns", "b1", "port unreachable", 1.0)

    assert [[], []] == [doubt(), doubt()]
    feed(health, "b1", "+")
    assert [[], []] == [doubt(), doubt()]
    reason = "udp: port unreachable, in reply to traffic"
    assert [Change(EventKind.BACKEND_DOWN, "dns", "b1", "up", "down", reason)] == doubt()


# --- quorum ----------------------------------------------------------------------------------------------------------


def test_quorum_is_lost_and_gained() -> None:
    """A pool with fewer healthy backends than its quorum is not ready; both changes are reported."""
    health = begin(dns(quorum=2))

    assert [(EventKind.BACKEND_DOWN, "b1")] == kinds(feed(health, "b1", "---"))
    assert [(EventKind.BACKEND_DOWN, "b2"), (EventKind.QUORUM_DOWN, "")] == kinds(feed(health, "b2", "---"))
    assert [(EventKind.BACKEND_UP, "b2"), (EventKind.QUORUM_UP, "")] == kinds(feed(health, "b2", "++"))


def test_hysteresis() -> None:
    """With a quorum of 2 and a hysteresis of 1, three backends make the pool ready, and one keeps it ready."""
    health = begin(dns(quorum=2, hysteresis=1))
    ready = []
    for name, outcomes in (("b1", "---"), ("b2", "---"), ("b3", "---"), ("b1", "++"), ("b2", "++"), ("b3", "++")):
        feed(health, name, outcomes)
        ready.append(health.pools["dns"].ready)

    assert [True, True, False, False, False, True] == ready


def test_a_drained_backend_does_not_count_for_the_quorum() -> None:
    """A backend that is up and drained does not count for the quorum. The reason counts usable backends: all are up."""
    health = begin(dns(quorum=3))

    changes = health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.DRAIN), 1.0)

    assert [(EventKind.BACKEND_CHANGED, "b1"), (EventKind.QUORUM_DOWN, "")] == kinds(changes)
    assert "2 of 3 backends are usable, the quorum is 3" == changes[1].reason


# --- the operator, and the agent -------------------------------------------------------------------------------------


def test_admin_and_health_are_kept_apart() -> None:
    """A drained backend is still checked, and has the state of these checks when it is enabled."""
    health = begin()
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.MAINTENANCE), 1.0)
    feed(health, "b1", "---")

    assert {"b1": BackendState(up=False, admin=Admin.MAINTENANCE)} == states(health)
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.ENABLED), 2.0)
    assert {"b1": BackendState(up=False)} == states(health)


def test_weight_at_run_time() -> None:
    """The operator's weight replaces the file's weight; setting the same weight again changes nothing."""
    health = begin()

    changes = health.set_by_operator("dns", ["b1"], BackendChange(weight=5), 1.0)

    assert [("weight 1", "weight 5")] == [(change.old, change.new) for change in changes]
    assert {"b1": BackendState(weight=5)} == states(health)
    assert [] == health.set_by_operator("dns", ["b1"], BackendChange(weight=5), 1.0)


def test_the_percentage_of_an_agent_scales_the_weight() -> None:
    """The percentage of an agent scales the weight until the agent sends another percentage."""
    health = begin(dns(Health(check=Agent(port=9))))
    health.record_result("dns", "b1", 0, CheckResult(passed=True, reason="75%", seconds=0.0, weight=75), 1.0)
    health.record_result("dns", "b1", 0, PASS, 1.0)

    assert {"b1": BackendState(percent=75)} == states(health)


@pytest.mark.parametrize(
    "other", [{"device": "eth2"}, {"mark": 7}, {"source": (ip_address("10.0.0.1"),)}, {"port": 53}], ids=str
)
def test_checks_with_different_paths_have_separate_results(other: dict[str, Any]) -> None:
    """Checks with another interface, mark, address or port are different checks; a reload does not confuse them."""
    health = begin(dns(PING, replace(PING, **other)))
    feed(health, "b1", "---", check=1)
    kept, changes = health.with_config(config(dns(PING, replace(PING, interval=9000, **other))), 2.0)

    assert ({"b1"}, []) == (down(kept), changes)
    assert [True, False] == [check.state.up for check in kept.pools["dns"].backends["b1"].checks]


AGENT = Health(check=Agent(port=9), rise=1, fall=1)
MAINTENANCE = CheckResult(passed=True, reason="maint", seconds=0.001, weight=50, admin=Admin.MAINTENANCE)


def test_the_wish_of_a_removed_agent_ends() -> None:
    """The wish of an agent ends when a reload removes the agent check, and stays as long as the check exists."""
    health = begin(dns(PING, AGENT))
    health.record_result("dns", "b1", 1, MAINTENANCE, 1.0)
    kept, _ = health.with_config(config(dns(replace(PING, interval=9000), AGENT)), 2.0)
    gone, changes = health.with_config(config(dns(PING)), 2.0)

    assert {"b1": BackendState(admin=Admin.MAINTENANCE, percent=50)} == states(kept)
    assert {} == states(gone)
    assert gone.pools["dns"].backends["b1"].counts
    assert [] == [change for change in changes if change.kind is EventKind.BACKEND_DOWN]


def test_the_wish_of_an_agent_survives_a_restart() -> None:
    """With `initial: last`, a restart keeps the wish of an agent."""
    health = begin(dns(PING, AGENT))
    health.record_result("dns", "b1", 1, MAINTENANCE, 1.0)
    memory = health.memory(0.0, NOON)

    assert states(health) == states(begin(dns(PING, AGENT), memory=memory))
    assert {} == states(begin(dns(PING, replace(AGENT, initial=Initial.UP)), memory=memory))
    assert {} == states(begin(dns(PING, PING), memory=memory))


def test_the_operator_overrides_the_agent() -> None:
    """An agent can drain and enable its backend, but not against the operator's wish."""
    health = begin(dns(Health(check=Agent(port=9))))
    seen = []
    for word in (Admin.DRAIN, Admin.ENABLED):
        health.record_result("dns", "b1", 0, CheckResult(passed=True, reason="", seconds=0.0, admin=word), 1.0)
        seen.append(states(health).get("b1", BackendState()).admin)
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.MAINTENANCE), 1.0)
    health.record_result("dns", "b1", 0, CheckResult(passed=True, reason="", seconds=0.0, admin=Admin.DRAIN), 1.0)

    assert [Admin.DRAIN, None, Admin.MAINTENANCE] == [*seen, states(health)["b1"].admin]


# --- slow start ------------------------------------------------------------------------------------------------------


def test_slow_start_after_coming_up() -> None:
    """A backend that comes up gets its share in tenths, and next_step() gives the time of the next step."""
    health = begin(dns(slow_start=10_000))
    feed(health, "b1", "---", now=1.0)
    feed(health, "b1", "++", now=5.0)
    seen = [states(health, 5.0)["b1"].percent]
    due: list[float] = []
    while (step := health.next_step(due[-1] if due else 5.0)) is not None:
        due.append(step)
        seen.append(states(health, step).get("b1", BackendState()).percent)

    assert list(range(10, 110, 10)) == seen
    assert [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0] == due


def test_no_slow_start_at_the_beginning() -> None:
    """A backend that is up when the daemon starts has its whole share at once."""
    health = begin(dns(slow_start=10_000))

    assert ({}, None) == (states(health), health.next_step(0.0))


def test_slow_start_after_maintenance() -> None:
    """A backend that the operator enables has a slow start, too."""
    health = begin(dns(slow_start=10_000))
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.MAINTENANCE), 1.0)
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.ENABLED), 2.0)

    assert {"b1": BackendState(percent=10)} == states(health, 2.0)


# --- another configuration -------------------------------------------------------------------------------------------


def follow(health: PoolStates, new: Config) -> tuple[PoolStates, list[Change]]:
    return health.with_config(new, 10.0)


def test_a_reload_keeps_health_and_wishes() -> None:
    """A server with the same name and address keeps its health, pending results and the operator's wishes."""
    health = begin()
    feed(health, "b1", "---")
    feed(health, "b2", "--")
    health.set_by_operator("dns", ["b3"], BackendChange(weight=7), 1.0)
    two, changes = follow(health, config(dns(quorum=2)))

    assert [] == changes
    assert {"b1": BackendState(up=False), "b3": BackendState(weight=7)} == states(two)
    assert [(EventKind.BACKEND_DOWN, "b2"), (EventKind.QUORUM_DOWN, "")] == kinds(feed(two, "b2", "-"))


def test_a_refused_configuration_changes_no_state() -> None:
    """A configuration that the kernel refuses changes no state."""
    health = begin()
    two, _ = follow(health, config(dns(replace(PING, fall=1))))
    feed(two, "b1", "-")

    assert (set(), {"b1"}) == (down(health), down(two))


def test_a_new_address_takes_over_no_state() -> None:
    """The same name at another address is another server, and takes over no state."""
    health = begin()
    feed(health, "b1", "---")
    two, changes = follow(health, config(dns(backends=(backend("b1", "10.0.0.99:53"), *THREE[1:]))))

    assert set() == down(two)
    assert [("present", "absent"), ("absent", "present")] == [(change.old, change.new) for change in changes]


def test_a_new_check_takes_no_backend_down() -> None:
    """A check that a reload adds starts with the state of the backend, even with `initial: down`."""
    health = begin()
    feed(health, "b1", "---")
    two, _ = follow(health, config(dns(Health(check=Dns(), initial=Initial.DOWN))))

    assert {"b1"} == down(two)


def test_a_check_that_is_gone_no_longer_counts() -> None:
    """A backend that was down because of a removed check is up again, and this is reported."""
    dns_check = Health(check=Dns(), fall=1)
    health = begin(dns(PING, dns_check))
    feed(health, "b1", "-", check=1)
    two, changes = follow(health, config(dns(PING)))

    assert (set(), [(EventKind.BACKEND_UP, "b1")]) == (down(two), kinds(changes))


def test_the_wish_of_the_operator_ends_when_the_file_changes_the_value() -> None:
    """A wish of the operator ends when the file changes this value, and stays when the file changes another value."""
    health = begin()
    health.set_by_operator("dns", ["b1"], BackendChange(weight=7, admin=Admin.DRAIN), 1.0)
    two, _ = follow(health, config(dns(backends=(backend("b1", "10.0.0.11:53", weight=3), *THREE[1:]))))

    assert {"b1": BackendState(admin=Admin.DRAIN)} == states(two)


def test_pools_come_and_go() -> None:
    """A reload adds new pools and forgets removed pools."""
    health = begin()
    ntp = pool("ntp", "192.0.2.53:123/udp", THREE, health=(PING,))
    two, _ = follow(health, config(ntp))

    assert (["ntp"], {}) == (list(two.pools), dict(two.membership(1.0).pools))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_health_state_and_weight_survive_a_restart() -> None:
    """Health, admin state and weight survive a restart."""
    health = begin()
    feed(health, "b1", "---")
    health.set_by_operator("dns", ["b2"], BackendChange(admin=Admin.DRAIN, weight=9), 1.0)
    memory = health.memory(0.0, NOON)
    two = begin(memory=memory)

    assert states(health) == states(two)


def test_a_file_changed_between_runs_replaces_the_saved_wish() -> None:
    """A saved wish of the operator is dropped if the file has changed the value since."""
    health = begin()
    health.set_by_operator("dns", ["b2"], BackendChange(admin=Admin.DRAIN, weight=9), 1.0)
    memory = health.memory(0.0, NOON)
    changed = dns(backends=(THREE[0], backend("b2", "10.0.0.12:53", weight=2), THREE[2]))

    assert {"b2": BackendState(admin=Admin.DRAIN)} == states(begin(changed, memory=memory))


# --- the way to backends, and what this host lacks --------------------------------------------------------------------


def test_a_backend_that_can_not_be_reached() -> None:
    """An unreachable backend is down at once, and up again when it is reachable; each change is reported once."""
    health = begin()
    away = {("dns", "b2"): "no route to 10.0.0.12", ("gone", "b1"): "no matter"}

    (change,) = health.set_unreachable(away, 2.0)
    assert (EventKind.BACKEND_DOWN, "b2", "no route to 10.0.0.12") == (change.kind, change.backend, change.reason)
    assert [] == health.set_unreachable(away, 3.0)
    assert [] == feed(health, "b2", "+++")
    assert {"b2"} == down(health)
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(health.set_unreachable({}, 4.0))
    assert set() == down(health)


def test_a_reachable_backend_stays_down_until_its_checks_pass() -> None:
    """A backend whose checks failed while it was unreachable stays down until they pass."""
    health = begin()
    health.set_unreachable({("dns", "b2"): "away"}, 2.0)
    assert [] == feed(health, "b2", "---")

    assert [] == health.set_unreachable({}, 3.0)
    assert {"b2"} == down(health)
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(feed(health, "b2", "++"))


def test_silence_passes_no_check_of_a_backend_in_doubt() -> None:
    """Only checks that pass by silence fail while the neighbour has not answered."""
    weak = Health(check=Udp(expect=Expect.NO_ICMP_ERROR), rise=2, fall=3)
    health = begin(dns(weak, PING))
    health.set_unconfirmed({("dns", "b2"): "no answer yet"})

    assert [(EventKind.BACKEND_DOWN, "b2")] == kinds(feed(health, "b2", "+++") + feed(health, "b1", "+++"))
    check = health.pools["dns"].backends["b2"].checks[0]
    assert (False, "no answer yet") == (check.last and check.last.passed, check.last and check.last.reason)
    assert [] == feed(health, "b2", "+++", check=1)
    health.set_unconfirmed({})
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(feed(health, "b2", "++"))


def test_an_unreachable_backend_stays_down_over_a_reload() -> None:
    """An unreachable backend stays down over a reload with new checks, until it is reachable."""
    health = begin()
    health.set_unreachable({("dns", "b2"): "away"}, 2.0)
    two, _ = health.with_config(config(dns(PING, Health(check=Dns()))), 3.0)

    assert {"b2"} == down(two)
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(two.set_unreachable({}, 4.0))


def test_a_pool_that_lacks_something_of_this_host() -> None:
    """A pool that lacks something is not ready, keeps its quorum and the time of the change, also over a reload."""
    health = begin()
    state = health.pools["dns"]
    health.set_lacking({"dns": ("no address",)}, 5.0)
    assert (False, True, 5.0) == (state.ready, state.quorate, state.since)

    health.set_lacking({"dns": ("no address", "no route")}, 6.0)
    assert 5.0 == state.since
    two, _ = health.with_config(config(dns()), 7.0)
    assert ("no address", "no route") == two.pools["dns"].lacking
    health.set_lacking({}, 8.0)
    assert (True, 8.0) == (state.ready, state.since)


# --- priorities ------------------------------------------------------------------------------------------------------

STANDBY = (*backends("10.0.0.11:53", "10.0.0.12:53"), backend("b3", "10.0.0.13:53", priority=2))


def standby(**options: Any) -> Pool:
    return dns(replace(PING, rise=1, fall=1), backends=STANDBY, preempt_delay=5000, **options)


def serving(health: PoolStates, now: float) -> int | None:
    """The priority that serves, by the states that the compiler gets."""
    found = rotation_of(health.pools["dns"].pool, Family.IP, health.state("dns", now)).priority
    followed = health.pools["dns"].precedence.get(Family.IP)  # None: all backends have one priority now
    assert followed is None or followed.serving == found
    return found


def moved(old: str, new: str, reason: str) -> Change:
    return Change(EventKind.PRIORITY_CHANGED, "dns", "", old, new, reason)


def test_a_priority_is_lost_and_returns() -> None:
    """The next priority serves at once; the first returns after the delay; both changes are reported with reasons."""
    health = begin(standby())
    feed(health, "b1", "-")
    assert 1 == serving(health, 1.0)

    lost = feed(health, "b2", "-", now=2.0)
    assert [moved("1", "2", "priority 1 has 0 of 2 backends usable, min_healthy is 1")] == lost[1:]
    assert 2 == serving(health, 2.0)

    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(health, "b1", "+", now=3.0))
    assert (2, 8.0) == (serving(health, 3.0), health.next_preemption())
    assert [] == health.preempt(7.9)
    assert [moved("2", "1", "priority 1 has had enough usable backends for 5 s")] == health.preempt(8.0)
    assert (1, None) == (serving(health, 8.0), health.next_preemption())


def test_a_flapping_priority_does_not_return() -> None:
    """A backend that is never up for the whole delay leaves the packets where they are."""
    health = begin(standby())
    feed(health, "b1", "-")
    feed(health, "b2", "-")
    for moment in range(2, 40, 4):
        feed(health, "b2", "+", now=float(moment))
        assert [] == health.preempt(moment + 3.9)
        assert [(EventKind.BACKEND_DOWN, "b2")] == kinds(feed(health, "b2", "-", now=moment + 3.9))
        assert 2 == serving(health, moment + 3.9)


def test_the_operator_moves_packets_to_the_next_priority() -> None:
    """A priority that is drained is lost at once, and returns after it was enabled and the delay has passed."""
    health = begin(standby())
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.DRAIN), 1.0)
    drained = health.set_by_operator("dns", ["b2"], BackendChange(admin=Admin.MAINTENANCE), 2.0)

    assert (EventKind.PRIORITY_CHANGED, "") in kinds(drained)
    assert 2 == serving(health, 2.0)
    health.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.ENABLED), 3.0)
    assert [(EventKind.PRIORITY_CHANGED, "")] == kinds(health.preempt(8.0))


def test_a_weight_can_cost_a_priority_its_share() -> None:
    """A new weight changes the share that is healthy, also if no backend changes its health."""
    health = begin(standby(min_healthy=MinHealthy(50, percent=True)))
    feed(health, "b1", "-")

    changes = health.set_by_operator("dns", ["b1"], BackendChange(weight=2), 2.0)
    assert moved("1", "2", "priority 1 has 1 of 2 backends usable, min_healthy is 50%") in changes


def test_the_operator_can_change_a_priority() -> None:
    """A priority set at run time counts at once, survives restarts, and ends when the value in the file changes."""
    health = begin(standby())
    joined = health.set_by_operator("dns", ["b3"], BackendChange(priority=1), 1.0)
    assert [("priority 2", "priority 1")] == [(change.old, change.new) for change in joined]
    assert ({"b3": BackendState(priority=1)}, 1) == (states(health), serving(health, 1.0))
    assert [] == health.set_by_operator("dns", ["b3"], BackendChange(priority=1), 1.0)

    again = begin(standby(), memory=health.memory(0.0, NOON))
    assert {"b3": BackendState(priority=1)} == states(again)
    changed = dns(backends=(*STANDBY[:2], replace(STANDBY[2], priority=3)))
    assert {} == states(begin(changed, memory=health.memory(0.0, NOON)))
    assert {} == states(health.with_config(config(changed), 2.0)[0], 2.0)


def test_a_pool_can_get_priorities_at_run_time() -> None:
    """If all backends have one priority in the file, the operator can let one of them stand by."""
    health = begin(dns(replace(PING, fall=1)))
    health.set_by_operator("dns", ["b1"], BackendChange(priority=2), 1.0)

    assert ["b2", "b3"] == [
        backend.backend.name for backend in rotation_of(dns(), Family.IP, health.state("dns", 1.0)).backends
    ]
    feed(health, "b2", "-")
    assert (EventKind.PRIORITY_CHANGED, "") in kinds(feed(health, "b3", "-"))
    assert 2 == serving(health, 1.0)


def test_an_agent_can_drain_a_priority() -> None:
    """A backend whose agent asks for no packets does not count as healthy."""
    agent = Health(check=Agent(port=9999), rise=1, fall=1)
    health = begin(dns(agent, backends=(STANDBY[0], STANDBY[2])))
    gone = health.record_result("dns", "b1", 0, replace(PASS, admin=Admin.DRAIN), 1.0)

    assert (EventKind.PRIORITY_CHANGED, "") in kinds(gone)
    assert 2 == serving(health, 1.0)


def test_the_serving_priority_is_remembered() -> None:
    """After a restart the same priority serves; a lower one with enough waits for the whole delay."""
    health = begin(standby())
    feed(health, "b1", "-")
    feed(health, "b2", "-")
    feed(health, "b2", "+", now=2.0)
    saved = health.memory(0.0, NOON)

    again = begin(standby(), memory=saved)
    assert {Family.IP: 2} == saved["dns"].serving
    assert (2, 5.0) == (serving(again, 0.0), again.next_preemption())
    assert 1 == serving(begin(standby()), 0.0)


def test_a_remembered_priority_without_backends_does_not_serve() -> None:
    """If the priority that served has not enough any more, the lowest with enough serves."""
    assert 1 == serving(begin(standby(), memory={"dns": PoolMemory(serving={Family.IP: 3})}), 0.0)


def test_a_reload_keeps_the_serving_priority() -> None:
    """A reload neither moves packets nor starts the delay again; a priority that leaves the file is lost."""
    health = begin(standby())
    feed(health, "b1", "-")
    feed(health, "b2", "-")
    feed(health, "b2", "+", now=2.0)

    same, changes = health.with_config(config(standby(quorum=2)), 4.0)
    assert ([], 2, 7.0) == (changes, serving(same, 4.0), same.next_preemption())
    less, changes = health.with_config(config(dns(backends=STANDBY[:2])), 4.0)
    assert [(EventKind.BACKEND_CHANGED, "b3")] == kinds(changes)
    assert ({}, None) == (less.pools["dns"].precedence, less.next_preemption())


def test_priorities_that_begin_are_no_change() -> None:
    """A pool that is new, or whose backends had one priority until now, was not without healthy backends before."""
    flat = dns(backends=STANDBY[:2])
    other = replace(standby(), name="other")
    ranked, changes = begin(flat).with_config(config(standby(), other), 2.0)
    assert [(EventKind.BACKEND_CHANGED, "b3")] == kinds(changes)
    assert 1 == serving(ranked, 2.0)

    asked = begin(flat)
    assert [(EventKind.BACKEND_CHANGED, "b2")] == kinds(
        asked.set_by_operator("dns", ["b2"], BackendChange(priority=2), 1.0)
    )
    assert [moved("1", "2", "priority 1 has 0 of 1 backends usable, min_healthy is 1")] == feed(asked, "b1", "---")[1:]


def test_families_have_their_own_priorities() -> None:
    """An event names the family if both have priorities; the other family does not change."""
    six = (backend("s1", "[2001:db8::1]:53"), backend("s2", "[2001:db8::2]:53", priority=2))
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    health = begin(pool("dns", listen, (*STANDBY, *six), health=(replace(PING, fall=1),)))

    reason = "ip6: priority 1 has 0 of 1 backends usable, min_healthy is 1"
    assert [moved("1", "2", reason)] == feed(health, "s1", "-")[1:]
    assert 1 == serving(health, 1.0)


def test_without_priorities_nothing_is_tracked() -> None:
    """A pool whose backends have one priority has no state for priorities, whatever its health."""
    health = begin()
    feed(health, "b1", "---")

    assert ({}, {}, None) == (
        health.pools["dns"].precedence,
        health.memory(0.0, NOON)["dns"].serving,
        health.next_preemption(),
    )


def test_backends_that_return_together_are_seen_together() -> None:
    """After a failure of a link the lowest priority serves, in whatever order the backends of the link are settled."""
    several = (
        *(backend(f"here{number}", f"10.0.0.{number}:53") for number in range(1, 3)),
        *(backend(f"there{number}", f"10.0.1.{number}:53", priority=2) for number in range(1, 21)),
    )
    health = begin(dns(backends=several))
    lost = health.set_unreachable({("dns", one.name): "no route" for one in several}, 1.0)
    found = health.set_unreachable({}, 2.0)

    moves = [change for change in (*lost, *found) if change.kind is EventKind.PRIORITY_CHANGED]
    assert [("1", "none"), ("none", "1")] == [(change.old, change.new) for change in moves]
    assert (1, None) == (serving(health, 2.0), health.next_preemption())


def test_nothing_waits_in_panic() -> None:
    """In panic, backends that are down get packets too: a priority with enough healthy backends serves at once."""
    several = (
        *backends("10.0.0.1:53", "10.0.0.2:53"),
        *(backend(f"t{n}", f"10.0.1.{n}:53", priority=2) for n in range(1, 9)),
    )
    health = begin(dns(backends=several, panic=50, min_healthy=MinHealthy(2)))
    down = {("dns", one.name): "no route" for one in several}
    health.set_unreachable(down, 1.0)
    del down["dns", "b1"]
    health.set_unreachable(down, 2.0)
    assert (None, "all") == (serving(health, 2.0), str(health.pools["dns"].precedence[Family.IP]))

    del down["dns", "b2"]
    moves = [change for change in health.set_unreachable(down, 3.0) if change.kind is EventKind.PRIORITY_CHANGED]
    assert (1, None) == (serving(health, 3.0), health.next_preemption())
    assert [moved("all", "1", "priority 1 has 2 of 2 backends usable, min_healthy is 2, panic is 50%")] == moves


class Priorities(RuleBasedStateMachine):
    """The compiler always gets the serving priority, and the pool is never empty while a backend is healthy."""

    def __init__(self) -> None:
        super().__init__()
        self.health = begin(standby(min_healthy=MinHealthy(60, percent=True)))
        self.now = 1.0

    @rule(name=st.sampled_from(("b1", "b2", "b3")), outcome=st.sampled_from("+-"))
    def check(self, name: str, outcome: str) -> None:
        feed(self.health, name, outcome, now=self.now)

    @rule(
        name=st.sampled_from(("b1", "b2", "b3")),
        admin=st.sampled_from((None, Admin.DRAIN, Admin.ENABLED)),
        weight=st.sampled_from((None, 0, 1, 3)),
        priority=st.sampled_from((None, None, 1, 2)),
    )
    def operate(self, name: str, admin: Admin | None, weight: int | None, priority: int | None) -> None:
        self.health.set_by_operator(
            "dns", [name], BackendChange(admin=admin, weight=weight, priority=priority), self.now
        )

    @rule(seconds=st.sampled_from((1.0, 3.0, 5.0)))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.health.next_preemption()) is not None and due <= end:
            assert self.health.preempt(due)
        self.now = end

    @rule()
    def restart(self) -> None:
        before = serving(self.health, self.now)
        self.health = PoolStates.begin(
            config(standby(min_healthy=MinHealthy(60, percent=True))), self.health.memory(0.0, NOON), self.now
        )
        assert before in (None, serving(self.health, self.now))

    @rule()
    def reload(self) -> None:
        before = serving(self.health, self.now)
        self.health, changes = self.health.with_config(self.health_config(), self.now)
        assert [] == changes
        assert before == serving(self.health, self.now)

    def health_config(self) -> Config:
        return config(self.health.pools["dns"].pool)

    @invariant()
    def someone_serves(self) -> None:
        found = rotation_of(self.health.pools["dns"].pool, Family.IP, self.health.state("dns", self.now))
        assert found.priority == serving(self.health, self.now)
        assert bool(found.backends) is any(tracked.counts for tracked in self.health.pools["dns"].backends.values())


TestPriorities = Priorities.TestCase


def test_backends_that_dns_adds_and_removes() -> None:
    """The reason of a change is the answer of DNS while the file has the name, and then the configuration."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {own: 10.0.0.9:53"
    named, own = (parse_config(f"{text}{more}}}}}}}") for more in (", ns: ns.lab:53", ""))

    def answered(address: str) -> Config:
        return resolve(named, {HostLookup("ns.lab"): (FoundServer(ip_address(address)),)}).config

    states = PoolStates.begin(answered("10.0.0.1"), {}, 0.0)
    states, by_dns = states.with_config(answered("10.0.0.2"), 1.0)
    _, by_file = states.with_config(own, 2.0)

    assert [
        ("ns-10.0.0.1", "absent", "by the answer of DNS for ns.lab"),
        ("ns-10.0.0.2", "present", "by the answer of DNS for ns.lab"),
        ("ns-10.0.0.2", "absent", "by the configuration"),
    ] == [(change.backend, change.new, change.reason) for change in (*by_dns, *by_file)]
