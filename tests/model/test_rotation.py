"""Which backends get the packets: priorities with enough healthy backends, and what follows if none has enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_builders import ALL, backend, pool

from nftlb.model import Admin, BackendState, Family, MinHealthy, RotationMode, contenders, rotation_of, sufficient

if TYPE_CHECKING:
    from nftlb.model import Pool, Rotation

DOWN = BackendState(up=False)
WAITING = BackendState(waiting=True)
DRAINED = BackendState(admin=Admin.DRAIN)
HALF = MinHealthy(50, percent=True)

TWO = tuple(
    backend(name, f"10.0.0.1{name[1]}:53", priority=1 if name < "b" else 2) for name in ("a1", "a2", "b3", "b4")
)
"""The backends a1 and a2 have priority 1, b3 and b4 priority 2."""


def dns(**options: object) -> Pool:
    return pool("dns", "192.0.2.53:53/udp", TWO, **options)


def rotation(of: Pool, **states: BackendState) -> Rotation:
    return rotation_of(of, Family.IP, frozenset(states.items()))


def names(found: Rotation) -> list[str]:
    return [backend.backend.name for backend in found.backends]


def test_the_lowest_priority_serves() -> None:
    """While the lowest priority has a healthy backend, its healthy backends get all packets."""
    assert ["a1", "a2"] == names(rotation(dns()))
    assert ["a2"] == names(rotation(dns(), a1=DOWN))
    assert (1, RotationMode.HEALTHY) == (rotation(dns(), a1=DOWN).priority, rotation(dns(), a1=DOWN).mode)


@pytest.mark.parametrize("out", [DOWN, DRAINED, BackendState(admin=Admin.MAINTENANCE), BackendState(weight=0)])
def test_the_next_priority_serves(out: BackendState) -> None:
    """A priority whose backends are down, drained, in maintenance or without weight leaves the packets to the next."""
    found = rotation(dns(), a1=out, a2=out)

    assert (["b3", "b4"], 2, frozenset({1, 2})) == (names(found), found.priority, found.priorities)


@pytest.mark.parametrize(
    ("wanted", "down", "serving"),
    [
        (MinHealthy(2), {}, 1),
        (MinHealthy(2), {"a1"}, 2),
        (HALF, {"a1"}, 2),  # a2 has 1 of 4 parts of the weight
        (HALF, {"a2"}, 1),  # a1 has 3 of 4
        (MinHealthy(75, percent=True), {"a2"}, 1),
        (MinHealthy(76, percent=True), {"a2"}, 2),
        (MinHealthy(100, percent=True), {"a2"}, 2),
    ],
)
def test_min_healthy(wanted: MinHealthy, down: set[str], serving: int) -> None:
    """A number counts healthy backends; a share is that of their weight in the whole weight of the priority."""
    heavy = (backend("a1", "10.0.0.11:53", weight=3), *TWO[1:])
    of = pool("dns", "192.0.2.53:53/udp", heavy, min_healthy=wanted)

    assert serving == rotation(of, **dict.fromkeys(down, DOWN)).priority


def test_drained_backends_count_in_a_share() -> None:
    """A drained backend keeps its weight in the whole: with two of three drained, less than half is in service."""
    three = (*TWO[:2], backend("a3", "10.0.0.13:53"), TWO[3])
    of = pool("dns", "192.0.2.53:53/udp", three, min_healthy=HALF)

    assert 1 == rotation(of, a1=DRAINED).priority
    assert 2 == rotation(of, a1=DRAINED, a2=DRAINED).priority


def test_parts_of_a_weight_count_whole() -> None:
    """A slow start and an agent that asks for less do not make a priority lose: they change only shares."""
    assert 1 == rotation(dns(min_healthy=HALF), a1=BackendState(percent=10), a2=DOWN).priority


def test_if_no_priority_has_enough_all_healthy_backends_serve() -> None:
    """Few backends of each priority share the packets, instead of the few of one priority alone."""
    found = rotation(dns(min_healthy=MinHealthy(2)), a1=DOWN, b4=DOWN)

    assert (["a2", "b3"], None, RotationMode.HEALTHY) == (names(found), found.priority, found.mode)


def test_panic_is_for_the_case_that_no_priority_has_enough() -> None:
    """A priority below `panic` leaves the packets to the next; only if all are below, all enabled backends serve."""
    of = dns(panic=60)
    alone = rotation(of, a1=DOWN)
    every = rotation(of, a1=DOWN, b3=DOWN, b4=DRAINED)

    assert (["b3", "b4"], 2, RotationMode.HEALTHY) == (names(alone), alone.priority, alone.mode)
    assert (["a1", "a2", "b3"], None, RotationMode.PANIC) == (names(every), every.priority, every.mode)


def test_the_fallback_is_used_without_a_healthy_backend() -> None:
    """The fallback is for the case that no priority has a healthy backend; `all` uses those of all priorities."""
    all_down = dict.fromkeys(("a1", "a2", "b3", "b4"), DOWN)

    assert ([], RotationMode.FALLBACK) == (names(rotation(dns(), **all_down)), rotation(dns(), **all_down).mode)
    assert ["a1", "a2", "b3", "b4"] == names(rotation(dns(fallback=ALL), **all_down))


def test_a_waiting_priority_does_not_serve_alone() -> None:
    """While a lower priority waits, the next serves; if all wait, all healthy backends do."""
    assert ["b3", "b4"] == names(rotation(dns(), a1=WAITING, a2=DOWN))
    assert ["a1", "b3", "b4"] == names(rotation(dns(), a1=WAITING, a2=DOWN, b3=WAITING, b4=WAITING))


def test_each_family_has_its_own_serving_priority() -> None:
    """Failures in one family change nothing in the other."""
    six = (backend("a6", "[2001:db8::6]:53"), backend("b6", "[2001:db8::7]:53", priority=2))
    of = pool("dns", ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"), (*TWO, *six))

    without_a6 = frozenset({("a6", DOWN)})

    assert 2 == rotation_of(of, Family.IP6, without_a6).priority
    assert 1 == rotation_of(of, Family.IP, without_a6).priority


def test_a_priority_set_at_run_time_counts() -> None:
    """The priority of a state has precedence over that of the configuration."""
    assert ["a1", "a2", "b3"] == names(rotation(dns(), b3=BackendState(priority=1)))


STATES = st.builds(
    BackendState,
    up=st.booleans(),
    admin=st.sampled_from((None, None, Admin.DRAIN)),
    weight=st.sampled_from((None, 0, 2)),
    percent=st.sampled_from((100, 0, 30)),
    waiting=st.booleans(),
)
WANTED = st.one_of(
    st.builds(MinHealthy, st.integers(1, 3)), st.builds(MinHealthy, st.integers(1, 100), percent=st.just(True))
)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), STATES), min_size=1, max_size=7),
    WANTED,
    st.sampled_from((0, 60)),
)
def test_the_chosen_priority_is_the_lowest_with_enough(
    drawn: list[tuple[int, int, BackendState]], wanted: MinHealthy, panic: int
) -> None:
    """No other priority gets packets, no unhealthy backend does, and a healthy backend always does."""
    behind = tuple(
        backend(f"b{number}", f"10.0.0.{number + 1}", priority=priority, weight=weight)
        for number, (priority, weight, _) in enumerate(drawn)
    )
    of = pool("dns", "192.0.2.53:53/udp", behind, min_healthy=wanted, panic=panic)
    state = frozenset((f"b{number}", backend_state) for number, (_, _, backend_state) in enumerate(drawn))
    all_ = contenders(of, Family.IP, state)
    found = rotation_of(of, Family.IP, state)
    ready = [
        priority
        for priority in sufficient(of, all_)
        if not any(backend.waiting and backend.healthy for backend in all_ if backend.priority == priority)
    ]

    assert found.priority == min(ready, default=None)
    if ready:
        assert [backend for backend in all_ if backend.healthy and backend.priority == min(ready)] == list(
            found.backends
        )
    if found.mode is RotationMode.HEALTHY:
        assert all(backend.healthy for backend in found.backends)
    assert bool(found.backends) or not any(backend.healthy for backend in all_)
