"""Which priority serves over time: failover at once, return after a delay, and no flapping."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.health.precedence import Precedence, follow

DELAY = 10.0


def course(*steps: tuple[float, str], before: Precedence | None = None) -> list[str]:
    """Follow steps of a time and the priorities with enough, written as digits; return what serves after each."""
    served = []
    now = before or Precedence()
    for at, enough in steps:
        now = follow(
            now, [int(priority) for priority in enough if priority != "h"], healthy=bool(enough), now=at, delay=DELAY
        )
        served.append(str(now))
    return served


def test_the_lowest_serves_first() -> None:
    """At the beginning, and after a time without a serving backend, the lowest priority with enough serves at once."""
    assert ["1"] == course((0, "12"))
    assert ["2", "none", "1"] == course((0, "2"), (1, ""), (2, "12"))


def test_failover_is_at_once_and_return_is_not() -> None:
    """A priority that has lost its backends is replaced at once, and returns after the delay."""
    assert ["1", "2", "2", "2", "1"] == course((0, "12"), (5, "2"), (6, "12"), (15.9, "12"), (16, "12"))


def test_a_break_starts_the_delay_again() -> None:
    """The priority must have enough without a break."""
    assert ["2", "2", "2", "2", "1"] == course((0, "2"), (1, "12"), (9, "2"), (10, "12"), (20, "12"))


def test_a_waiting_priority_serves_at_once_if_the_other_is_lost() -> None:
    """The delay holds back a return, not a failover."""
    assert ["2", "2", "1"] == course((0, "2"), (1, "12"), (2, "1"))


def test_each_priority_waits_for_itself() -> None:
    """A flapping priority 1 does not keep priority 2 from replacing priority 3."""
    assert ["3", "3", "3", "3", "2"] == course((0, "3"), (1, "23"), (4, "123"), (8, "23"), (11, "23"))


def test_the_delay_also_counts_while_all_healthy_backends_serve() -> None:
    """From all healthy backends to one priority, the delay counts too; `h`: healthy, and no priority has enough."""
    assert ["all", "all", "all", "1"] == course((0, "h"), (1, "1h"), (10, "1h"), (11, "1h"))


def test_without_a_delay_it_returns_at_once() -> None:
    """With a delay of 0, the lowest priority with enough always serves."""
    before = Precedence(2)

    assert Precedence(1) == follow(before, [1, 2], healthy=True, now=3.0, delay=0.0)


@pytest.mark.parametrize("since", [0.1, 1234.567, 98765.4321])
def test_the_announced_time_is_late_enough(since: float) -> None:
    """At the time that `due` names, the priority takes over: rounding does not make it too early."""
    waiting = follow(Precedence(2), [1, 2], healthy=True, now=since, delay=0.1)
    due = waiting.due(0.1)

    assert due is not None
    assert 1 == follow(waiting, [1, 2], healthy=True, now=due, delay=0.1).serving


@given(st.lists(st.tuples(st.integers(1, 8), st.sets(st.integers(1, 3)), st.booleans()), max_size=30))
def test_it_never_flaps(steps: list[tuple[int, set[int], bool]]) -> None:
    """A preferred priority replaces a serving one only after the delay without a break; who serves has enough."""
    now, moment = Precedence(), 0.0
    history: list[tuple[float, set[int]]] = []
    for wait, enough, any_healthy in steps:
        moment += wait
        before = now
        now = follow(before, sorted(enough), healthy=bool(enough) or any_healthy, now=moment, delay=DELAY)
        history.append((moment, enough))

        assert now.serving is None or now.serving in enough
        assert now.serving is not None or now.shared is (bool(enough) or any_healthy)
        if before.serving in enough and now.serving != before.serving:
            assert now.serving is not None
            assert before.serving is not None
            assert now.serving < before.serving
            assert enough_since(history, now.serving) <= moment - DELAY


def enough_since(history: list[tuple[float, set[int]]], priority: int) -> float:
    """The time since which a priority has had enough without a break."""
    since = history[-1][0]
    for (at, enough), _ in reversed(list(pairwise([*history, (0.0, set())]))):
        if priority not in enough:
            break
        since = at
    return since


@given(st.lists(st.integers(1, 4), min_size=2, max_size=40))
def test_alternating_health_means_one_change(periods: list[int]) -> None:
    """However often priority 1 comes and goes within the delay, only its first loss changes who serves."""
    moment = 0.0
    now = follow(Precedence(), [1, 2], healthy=True, now=moment, delay=DELAY)
    changes = 0
    for number, period in enumerate(periods):
        moment += period
        before, now = now, follow(now, [1, 2] if number % 2 else [2], healthy=True, now=moment, delay=DELAY)
        changes += before.serving != now.serving

    assert 1 == changes
