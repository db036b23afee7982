"""What is believed of all backends, and what changes it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from pools import backend, backends, config, pool

from nftlb.compiler import BackendState
from nftlb.health import Change, Fleet, PoolMemory, Result
from nftlb.health.memory import BackendMemory
from nftlb.model import Admin, Agent, Dns, Expect, Health, Icmp, Initial, Udp
from nftlb.service import EventKind

if TYPE_CHECKING:
    from nftlb.model import Config, Pool

PASS, FAIL = Result(passed=True, reason="fine", seconds=0.001), Result(passed=False, reason="no answer", seconds=1.0)
PING = Health(check=Icmp(), rise=2, fall=3)
THREE = backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53")


def dns(*health: Health, **options: Any) -> Pool:
    return pool("dns", "192.0.2.53:53/udp", options.pop("backends", THREE), health=health or (PING,), **options)


def fleet(*pools: Pool, memory: dict[str, PoolMemory] | None = None) -> Fleet:
    return Fleet.begin(config(*(pools or (dns(),))), memory or {}, 0.0)


def feed(one: Fleet, backend_name: str, outcomes: str, check: int = 0, now: float = 1.0) -> list[Change]:
    """Results as `+` and `-`."""
    changes = []
    for outcome in outcomes:
        changes += one.take("dns", backend_name, check, PASS if outcome == "+" else FAIL, now)
    return changes


def down(one: Fleet) -> set[str]:
    return {name for name, tracked in one.pools["dns"].backends.items() if not tracked.up}


def states(one: Fleet, now: float = 1.0) -> dict[str, BackendState]:
    of_it = one.state("dns", now)
    assert of_it == one.membership(now).of("dns")
    return dict(of_it)


def kinds(changes: list[Change]) -> list[tuple[EventKind, str]]:
    return [(change.kind, change.backend) for change in changes]


# --- health ----------------------------------------------------------------------------------------------------------


def test_a_backend_goes_and_comes() -> None:
    """After `fall` failures it is down and not chosen; after `rise` successes it is back: each is told once."""
    one = fleet()

    assert [] == feed(one, "b2", "--")
    assert [Change(EventKind.BACKEND_DOWN, "dns", "b2", "up", "down", "icmp: no answer")] == feed(one, "b2", "-")
    assert {"b2": BackendState(up=False)} == states(one)
    assert [] == feed(one, "b2", "---+")
    assert [Change(EventKind.BACKEND_UP, "dns", "b2", "down", "up", "icmp: fine")] == feed(one, "b2", "+")
    assert {} == states(one)


def test_all_checks_must_pass() -> None:
    """With two checks one that fails takes the backend down, and only both bring it back."""
    one = fleet(dns(PING, Health(check=Dns(), rise=1, fall=1)))

    assert [(EventKind.BACKEND_DOWN, "b1")] == kinds(feed(one, "b1", "-", check=1))
    assert [] == feed(one, "b1", "---", check=0)
    assert [] == feed(one, "b1", "+", check=1)
    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(one, "b1", "++", check=0))


@pytest.mark.parametrize(("initial", "expected"), [(Initial.UP, set()), (Initial.LAST, set()), (Initial.DOWN, {"b1"})])
def test_initial(initial: Initial, expected: set[str]) -> None:
    """Before its first check a backend is what `initial` says; with `last` and nothing remembered, up."""
    one = fleet(dns(replace(PING, initial=initial), backends=THREE[:1]))

    assert expected == down(one)


def test_initial_last_is_what_is_remembered() -> None:
    """With `last`, each check begins with its own verdict from before, if it is still the same server."""
    memory = {
        "b1": BackendMemory(endpoint="10.0.0.11:53", checks=(False,)),
        "b2": BackendMemory(endpoint="10.0.0.99:53", checks=(False,)),
    }

    assert {"b1"} == down(fleet(memory={"dns": PoolMemory(backends=memory)}))


def test_a_changed_list_of_checks_is_remembered_as_a_whole() -> None:
    """Where there are other checks than before, what is remembered is whether all of them passed."""
    memory = {"b1": BackendMemory(endpoint="10.0.0.11:53", checks=(True, False))}
    one = fleet(memory={"dns": PoolMemory(backends=memory)})

    assert {"b1"} == down(one)


def test_without_checks_always_up() -> None:
    """A pool without health checks has all its backends up."""
    assert set() == down(fleet(pool("dns", "192.0.2.53:53/udp", THREE)))


def test_a_refusal_takes_out_at_once() -> None:
    """One refused datagram is enough; then it takes `rise` successes."""
    one = fleet()

    assert [Change(EventKind.BACKEND_DOWN, "dns", "b1", "up", "down", "passive: refused")] == one.refuse(
        "dns", "b1", "refused", 1.0
    )
    assert [] == one.refuse("dns", "b1", "refused", 1.1)
    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(one, "b1", "++"))


DECISIVE = Result(passed=False, reason="connection refused", seconds=0.001, decides=True)


def test_a_failure_that_decides_takes_out_at_once() -> None:
    """It needs no others to agree, and says why; then it takes `rise` successes, and `fall` failures, as ever."""
    one = fleet()

    reason = "icmp: connection refused, after traffic was refused"
    assert [Change(EventKind.BACKEND_DOWN, "dns", "b1", "up", "down", reason)] == one.take(
        "dns", "b1", 0, DECISIVE, 1.0
    )
    assert [] == one.take("dns", "b1", 0, DECISIVE, 1.1)
    assert [(EventKind.BACKEND_UP, "b1")] == kinds(feed(one, "b1", "++"))
    assert [] == kinds(feed(one, "b1", "--"))
    assert [] == one.take("dns", "b1", 0, replace(DECISIVE, passed=True), 3.0)


def test_a_hint_alone_takes_nobody_out() -> None:
    """However many there are: a check decides."""
    one = fleet()

    assert [[]] * 9 == [one.hint("dns", "b1", "port unreachable", float(number)) for number in range(9)]


def test_a_hint_is_what_a_check_for_errors_waits_for() -> None:
    """`expect: no-icmp-error` passes by silence; `fall` hints in a row, with no such silence between, are failures."""
    one = fleet(dns(Health(check=Udp(expect=Expect.NO_ICMP_ERROR), fall=3)))

    def doubt() -> list[Change]:
        return one.hint("dns", "b1", "port unreachable", 1.0)

    assert [[], []] == [doubt(), doubt()]
    feed(one, "b1", "+")
    assert [[], []] == [doubt(), doubt()]
    reason = "udp: port unreachable, said to traffic"
    assert [Change(EventKind.BACKEND_DOWN, "dns", "b1", "up", "down", reason)] == doubt()


# --- quorum ----------------------------------------------------------------------------------------------------------


def test_quorum_is_lost_and_gained() -> None:
    """A pool with fewer healthy backends than its quorum is not ready; both changes are told."""
    one = fleet(dns(quorum=2))

    assert [(EventKind.BACKEND_DOWN, "b1")] == kinds(feed(one, "b1", "---"))
    assert [(EventKind.BACKEND_DOWN, "b2"), (EventKind.QUORUM_DOWN, "")] == kinds(feed(one, "b2", "---"))
    assert [(EventKind.BACKEND_UP, "b2"), (EventKind.QUORUM_UP, "")] == kinds(feed(one, "b2", "++"))


def test_hysteresis() -> None:
    """With a quorum of 2 and hysteresis of 1 it takes three to be ready again, and one is enough to stay so."""
    one = fleet(dns(quorum=2, hysteresis=1))
    ready = []
    for name, outcomes in (("b1", "---"), ("b2", "---"), ("b3", "---"), ("b1", "++"), ("b2", "++"), ("b3", "++")):
        feed(one, name, outcomes)
        ready.append(one.pools["dns"].ready)

    assert [True, True, False, False, False, True] == ready


def test_who_is_drained_does_not_count() -> None:
    """A healthy backend that the operator took out is no help to the quorum."""
    one = fleet(dns(quorum=3))

    changes = one.operate("dns", "b1", 1.0, admin=Admin.DRAIN)

    assert [(EventKind.BACKEND_CHANGED, "b1"), (EventKind.QUORUM_DOWN, "")] == kinds(changes)


# --- the operator, and the agent -------------------------------------------------------------------------------------


def test_admin_and_health_are_kept_apart() -> None:
    """A drained backend is checked on, and what it was found to be holds when it is enabled."""
    one = fleet()
    one.operate("dns", "b1", 1.0, admin=Admin.MAINTENANCE)
    feed(one, "b1", "---")

    assert {"b1": BackendState(up=False, admin=Admin.MAINTENANCE)} == states(one)
    one.operate("dns", "b1", 2.0, admin=Admin.ENABLED)
    assert {"b1": BackendState(up=False)} == states(one)


def test_weight_at_run_time() -> None:
    """The operator's weight replaces the file's; the same again is no change."""
    one = fleet()

    changes = one.operate("dns", "b1", 1.0, weight=5)

    assert [("weight 1", "weight 5")] == [(change.old, change.new) for change in changes]
    assert {"b1": BackendState(weight=5)} == states(one)
    assert [] == one.operate("dns", "b1", 1.0, weight=5)


def test_agent_says_how_much() -> None:
    """An agent's percentage scales the weight until it says another."""
    one = fleet(dns(Health(check=Agent(port=9))))
    one.take("dns", "b1", 0, Result(passed=True, reason="75%", seconds=0.0, weight=75), 1.0)
    one.take("dns", "b1", 0, PASS, 1.0)

    assert {"b1": BackendState(percent=75)} == states(one)


@pytest.mark.parametrize(
    "other", [{"device": "eth2"}, {"mark": 7}, {"source": (ip_address("10.0.0.1"),)}, {"port": 53}], ids=str
)
def test_checks_by_two_ways_keep_each_its_own_verdict(other: dict[str, Any]) -> None:
    """What is asked by another interface, mark, address or port is another check, which a reload does not mix up."""
    one = fleet(dns(PING, replace(PING, **other)))
    feed(one, "b1", "---", check=1)
    kept, changes = one.following(config(dns(PING, replace(PING, interval=9000, **other))), 2.0)

    assert ({"b1"}, []) == (down(kept), changes)
    assert [True, False] == [check.verdict.up for check in kept.pools["dns"].backends["b1"].checks]


AGENT = Health(check=Agent(port=9), rise=1, fall=1)
MAINTENANCE = Result(passed=True, reason="maint", seconds=0.001, weight=50, admin=Admin.MAINTENANCE)


def test_an_agent_that_left_the_file_has_no_say() -> None:
    """What it wanted goes with it: nobody would be left to take it back. As long as it is there, it holds."""
    one = fleet(dns(PING, AGENT))
    one.take("dns", "b1", 1, MAINTENANCE, 1.0)
    kept, _ = one.following(config(dns(replace(PING, interval=9000), AGENT)), 2.0)
    gone, changes = one.following(config(dns(PING)), 2.0)

    assert {"b1": BackendState(admin=Admin.MAINTENANCE, percent=50)} == states(kept)
    assert {} == states(gone)
    assert gone.pools["dns"].backends["b1"].counts
    assert [] == [change for change in changes if change.kind is EventKind.BACKEND_DOWN]


def test_what_an_agent_wants_is_remembered() -> None:
    """As its check's `initial` has it: a start puts nobody in whose agent wants out."""
    one = fleet(dns(PING, AGENT))
    one.take("dns", "b1", 1, MAINTENANCE, 1.0)
    memory = one.memory()

    assert states(one) == states(fleet(dns(PING, AGENT), memory=memory))
    assert {} == states(fleet(dns(PING, replace(AGENT, initial=Initial.UP)), memory=memory))
    assert {} == states(fleet(dns(PING, PING), memory=memory))


def test_the_operator_goes_before_the_agent() -> None:
    """An agent may take its backend out and bring it back, but not against the operator."""
    one = fleet(dns(Health(check=Agent(port=9))))
    seen = []
    for word in (Admin.DRAIN, Admin.ENABLED):
        one.take("dns", "b1", 0, Result(passed=True, reason="", seconds=0.0, admin=word), 1.0)
        seen.append(states(one).get("b1", BackendState()).admin)
    one.operate("dns", "b1", 1.0, admin=Admin.MAINTENANCE)
    one.take("dns", "b1", 0, Result(passed=True, reason="", seconds=0.0, admin=Admin.DRAIN), 1.0)

    assert [Admin.DRAIN, None, Admin.MAINTENANCE] == [*seen, states(one)["b1"].admin]


# --- slow start ------------------------------------------------------------------------------------------------------


def test_slow_start_after_coming_up() -> None:
    """A backend that comes back gets its share in tenths; the fleet says when the next is due."""
    one = fleet(dns(slow_start=10_000))
    feed(one, "b1", "---", now=1.0)
    feed(one, "b1", "++", now=5.0)
    seen = [states(one, 5.0)["b1"].percent]
    due: list[float] = []
    while (step := one.next_step(due[-1] if due else 5.0)) is not None:
        due.append(step)
        one.advance()
        seen.append(states(one, step).get("b1", BackendState()).percent)

    assert list(range(10, 110, 10)) == seen
    assert [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0] == due


def test_no_slow_start_at_the_beginning() -> None:
    """Who is up when the daemon starts has all of its share at once: a restart changes nothing."""
    one = fleet(dns(slow_start=10_000))

    assert ({}, None) == (states(one), one.next_step(0.0))


def test_slow_start_after_maintenance() -> None:
    """A backend that the operator puts back begins slowly, too."""
    one = fleet(dns(slow_start=10_000))
    one.operate("dns", "b1", 1.0, admin=Admin.MAINTENANCE)
    one.operate("dns", "b1", 2.0, admin=Admin.ENABLED)

    assert {"b1": BackendState(percent=10)} == states(one, 2.0)


# --- another configuration -------------------------------------------------------------------------------------------


def follow(one: Fleet, new: Config) -> tuple[Fleet, list[Change]]:
    return one.following(new, 10.0)


def test_a_reload_keeps_what_is_known() -> None:
    """The same server by the same name keeps health, pending results and what the operator set."""
    one = fleet()
    feed(one, "b1", "---")
    feed(one, "b2", "--")
    one.operate("dns", "b3", 1.0, weight=7)
    two, changes = follow(one, config(dns(quorum=2)))

    assert [] == changes
    assert {"b1": BackendState(up=False), "b3": BackendState(weight=7)} == states(two)
    assert [(EventKind.BACKEND_DOWN, "b2"), (EventKind.QUORUM_DOWN, "")] == kinds(feed(two, "b2", "-"))


def test_the_old_fleet_is_left_alone() -> None:
    """A configuration that the kernel then refuses has changed nothing that is believed."""
    one = fleet()
    two, _ = follow(one, config(dns(replace(PING, fall=1))))
    feed(two, "b1", "-")

    assert (set(), {"b1"}) == (down(one), down(two))


def test_another_server_begins_anew() -> None:
    """The same name at another address is another server: nothing of the old one holds."""
    one = fleet()
    feed(one, "b1", "---")
    two, changes = follow(one, config(dns(backends=(backend("b1", "10.0.0.99:53"), *THREE[1:]))))

    assert set() == down(two)
    assert [("present", "absent"), ("absent", "present")] == [(change.old, change.new) for change in changes]


def test_a_new_check_takes_nobody_out() -> None:
    """A check that a reload brings begins with what is believed, even with `initial: down`."""
    one = fleet()
    feed(one, "b1", "---")
    two, _ = follow(one, config(dns(Health(check=Dns(), initial=Initial.DOWN))))

    assert {"b1"} == down(two)


def test_a_check_that_is_gone_no_longer_counts() -> None:
    """Who was down for a check that a reload removes is up again, and that is told."""
    dns_check = Health(check=Dns(), fall=1)
    one = fleet(dns(PING, dns_check))
    feed(one, "b1", "-", check=1)
    two, changes = follow(one, config(dns(PING)))

    assert (set(), [(EventKind.BACKEND_UP, "b1")]) == (down(two), kinds(changes))


def test_the_file_has_the_newer_word() -> None:
    """What the operator set goes when the file itself changes that value, and stays when it changes another."""
    one = fleet()
    one.operate("dns", "b1", 1.0, weight=7, admin=Admin.DRAIN)
    two, _ = follow(one, config(dns(backends=(backend("b1", "10.0.0.11:53", weight=3), *THREE[1:]))))

    assert {"b1": BackendState(admin=Admin.DRAIN)} == states(two)


def test_pools_come_and_go() -> None:
    """A new pool begins, one that is gone leaves nothing."""
    one = fleet()
    ntp = pool("ntp", "192.0.2.53:123/udp", THREE, health=(PING,))
    two, _ = follow(one, config(ntp))

    assert (["ntp"], {}) == (list(two.pools), dict(two.membership(1.0).pools))


# --- memory ----------------------------------------------------------------------------------------------------------


def test_what_is_remembered_comes_back() -> None:
    """Health, admin state and weight survive a restart."""
    one = fleet()
    feed(one, "b1", "---")
    one.operate("dns", "b2", 1.0, admin=Admin.DRAIN, weight=9)
    memory = one.memory()
    two = fleet(memory=memory)

    assert states(one) == states(two)


def test_the_file_changed_while_nobody_ran() -> None:
    """What the operator set is forgotten if the file says something else now than it did then."""
    one = fleet()
    one.operate("dns", "b2", 1.0, admin=Admin.DRAIN, weight=9)
    memory = one.memory()
    changed = dns(backends=(THREE[0], backend("b2", "10.0.0.12:53", weight=2), THREE[2]))

    assert {"b2": BackendState(admin=Admin.DRAIN)} == states(fleet(changed, memory=memory))


# --- the way to backends, and what this host lacks --------------------------------------------------------------------


def test_a_backend_that_can_not_be_reached() -> None:
    """It is down at once, whatever its checks say, and back as soon as there is a way; each is told once."""
    one = fleet()
    away = {("dns", "b2"): "no route to 10.0.0.12", ("gone", "b1"): "no matter"}

    (change,) = one.reach(away, 2.0)
    assert (EventKind.BACKEND_DOWN, "b2", "no route to 10.0.0.12") == (change.kind, change.backend, change.reason)
    assert [] == one.reach(away, 3.0)
    assert [] == feed(one, "b2", "+++")
    assert {"b2"} == down(one)
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(one.reach({}, 4.0))
    assert set() == down(one)


def test_a_way_is_no_sign_of_life() -> None:
    """A backend whose checks failed meanwhile stays down until they pass."""
    one = fleet()
    one.reach({("dns", "b2"): "away"}, 2.0)
    assert [] == feed(one, "b2", "---")

    assert [] == one.reach({}, 3.0)
    assert {"b2"} == down(one)
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(feed(one, "b2", "++"))


def test_silence_passes_no_check_of_a_backend_in_doubt() -> None:
    """Only of those checks that silence passes: an answer is one, by whatever way it came."""
    weak = Health(check=Udp(expect=Expect.NO_ICMP_ERROR), rise=2, fall=3)
    one = fleet(dns(weak, PING))
    one.doubt({("dns", "b2"): "no answer yet"})

    assert [(EventKind.BACKEND_DOWN, "b2")] == kinds(feed(one, "b2", "+++") + feed(one, "b1", "+++"))
    check = one.pools["dns"].backends["b2"].checks[0]
    assert (False, "no answer yet") == (check.last and check.last.passed, check.last and check.last.reason)
    assert [] == feed(one, "b2", "+++", check=1)
    one.doubt({})
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(feed(one, "b2", "++"))


def test_what_can_not_be_reached_stays_so_across_a_reload() -> None:
    """Its checks' verdicts too: they are not what is wrong."""
    one = fleet()
    one.reach({("dns", "b2"): "away"}, 2.0)
    two, _ = one.following(config(dns(PING, Health(check=Dns()))), 3.0)

    assert {"b2"} == down(two)
    assert [(EventKind.BACKEND_UP, "b2")] == kinds(two.reach({}, 4.0))


def test_a_pool_that_lacks_something_of_this_host() -> None:
    """It is not ready, keeps its quorum, and knows since when; a reload keeps that."""
    one = fleet()
    told = one.pools["dns"]
    one.lack({"dns": ("no address",)}, 5.0)
    assert (False, True, 5.0) == (told.ready, told.quorate, told.since)

    one.lack({"dns": ("no address", "no route")}, 6.0)
    assert 5.0 == told.since
    two, _ = one.following(config(dns()), 7.0)
    assert ("no address", "no route") == two.pools["dns"].lacking
    one.lack({}, 8.0)
    assert (True, 8.0) == (told.ready, told.since)
