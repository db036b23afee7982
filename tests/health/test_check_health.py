"""Rise and fall of a check."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.health.check_health import CheckState, apply_outcome
from nftlb.model import Health, Icmp

HEALTH = Health(check=Icmp(), rise=2, fall=3, interval=2000, fast_interval=500)


def after(outcomes: str, begin: CheckState, health: Health = HEALTH) -> CheckState:
    """The state after outcomes, written as `+` and `-`."""
    verdict = begin
    for outcome in outcomes:
        verdict = apply_outcome(verdict, passed=outcome == "+", health=health)
    return verdict


@pytest.mark.parametrize(
    ("outcomes", "begin", "expected"),
    [
        ("+", CheckState(up=True), CheckState(up=True)),
        ("-", CheckState(up=True), CheckState(up=True, pending=1)),
        ("--", CheckState(up=True), CheckState(up=True, pending=2)),
        ("--+", CheckState(up=True), CheckState(up=True)),
        ("---", CheckState(up=True), CheckState(up=False)),
        ("--+--", CheckState(up=True), CheckState(up=True, pending=2)),
        ("-", CheckState(up=False), CheckState(up=False)),
        ("+", CheckState(up=False), CheckState(up=False, pending=1)),
        ("+-", CheckState(up=False), CheckState(up=False)),
        ("++", CheckState(up=False), CheckState(up=True)),
    ],
)
def test_runs_of_rise_and_fall(outcomes: str, begin: CheckState, expected: CheckState) -> None:
    """`fall` failures in a row lead to down, `rise` successes to up; another outcome starts the count again."""
    assert expected == after(outcomes, begin)


def test_a_rise_and_fall_of_1_need_one_result() -> None:
    """With a rise and fall of 1 each outcome changes the state."""
    health = Health(check=Icmp(), rise=1, fall=1)

    assert [False, True] == [after(outcomes, CheckState(up=True), health).up for outcomes in ("-", "-+")]


@given(st.text("+-", max_size=60), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_only_runs_of_outcomes_change_the_state(outcomes: str, rise: int, fall: int, begin: bool) -> None:
    """The state changes exactly at the end of a long enough run of contradicting outcomes."""
    health = Health(check=Icmp(), rise=rise, fall=fall)
    believed = begin
    for outcome, run in groupby(outcomes):
        passed = outcome == "+"
        if passed is not believed and len(list(run)) >= (fall if believed else rise):
            believed = passed

    assert believed == after(outcomes, CheckState(begin), health).up


@pytest.mark.parametrize(("verdict", "seconds"), [(CheckState(up=True), 2.0), (CheckState(up=False), 2.0)])
def test_stable_checks_use_the_interval(verdict: CheckState, seconds: float) -> None:
    """While no change is pending, checks start every `interval`."""
    assert seconds == verdict.delay(HEALTH)


@pytest.mark.parametrize("up", [True, False])
def test_pending_changes_use_the_fast_interval(up: bool) -> None:
    """While a change of state is pending, checks start every `fast_interval`, or every `interval` if that is less."""
    slow = Health(check=Icmp(), interval=100, fast_interval=500)

    assert (0.5, 0.1) == (CheckState(up, 1).delay(HEALTH), CheckState(up, 1).delay(slow))
