"""Rise and fall, as a table."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.health.verdict import Verdict, judge
from nftlb.model import Health, Icmp

HEALTH = Health(check=Icmp(), rise=2, fall=3, interval=2000, fast_interval=500)


def after(outcomes: str, begin: Verdict, health: Health = HEALTH) -> Verdict:
    """Outcomes as `+` and `-`."""
    verdict = begin
    for outcome in outcomes:
        verdict = judge(verdict, passed=outcome == "+", health=health)
    return verdict


@pytest.mark.parametrize(
    ("outcomes", "begin", "expected"),
    [
        ("+", Verdict(up=True), Verdict(up=True)),
        ("-", Verdict(up=True), Verdict(up=True, pending=1)),
        ("--", Verdict(up=True), Verdict(up=True, pending=2)),
        ("--+", Verdict(up=True), Verdict(up=True)),
        ("---", Verdict(up=True), Verdict(up=False)),
        ("--+--", Verdict(up=True), Verdict(up=True, pending=2)),
        ("-", Verdict(up=False), Verdict(up=False)),
        ("+", Verdict(up=False), Verdict(up=False, pending=1)),
        ("+-", Verdict(up=False), Verdict(up=False)),
        ("++", Verdict(up=False), Verdict(up=True)),
    ],
)
def test_table(outcomes: str, begin: Verdict, expected: Verdict) -> None:
    """It takes `fall` failures in a row to go down, `rise` successes to come up; one in between starts over."""
    assert expected == after(outcomes, begin)


def test_one_is_enough_where_one_is_asked_for() -> None:
    """With rise and fall of 1 every outcome decides."""
    health = Health(check=Icmp(), rise=1, fall=1)

    assert [False, True] == [after(outcomes, Verdict(up=True), health).up for outcomes in ("-", "-+")]


@given(st.text("+-", max_size=60), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_follows_runs_alone(outcomes: str, rise: int, fall: int, begin: bool) -> None:
    """What is believed changes exactly at the end of a long enough run of outcomes against it."""
    health = Health(check=Icmp(), rise=rise, fall=fall)
    believed = begin
    for outcome, run in groupby(outcomes):
        passed = outcome == "+"
        if passed is not believed and len(list(run)) >= (fall if believed else rise):
            believed = passed

    assert believed == after(outcomes, Verdict(begin), health).up


@pytest.mark.parametrize(("verdict", "seconds"), [(Verdict(up=True), 2.0), (Verdict(up=False), 2.0)])
def test_quiet_checks_take_their_time(verdict: Verdict, seconds: float) -> None:
    """Where nothing is pending, `interval` lies between two checks."""
    assert seconds == verdict.delay(HEALTH)


@pytest.mark.parametrize("up", [True, False])
def test_pending_changes_are_looked_into_fast(up: bool) -> None:
    """While a change of state is pending, it is `fast_interval`; but never more than `interval`."""
    slow = Health(check=Icmp(), interval=100, fast_interval=500)

    assert (0.5, 0.1) == (Verdict(up, 1).delay(HEALTH), Verdict(up, 1).delay(slow))
