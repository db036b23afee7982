"""When scheduled items begin, and in which order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from virtual_time import START, elapsed, play

from nftlb.daemon.checker import AT_ONCE, EARLY, Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence


def begun(dues: Sequence[float], seconds: float = 10.0) -> list[tuple[float, float]]:
    """Schedule items at these times, in this order. Return when each began, and when it was due."""
    found: list[tuple[float, float]] = []

    async def scene() -> None:
        schedule = Schedule[int](lambda _, due: found.append((elapsed(), round(due - START, 6))))
        for number, due in enumerate(dues):
            schedule.put(START + due, number)
        await asyncio.sleep(seconds)

    play(scene())
    return found


def test_checks_begin_in_the_order_of_their_times() -> None:
    """Items begin in the order of their times, whatever the order of the calls of put()."""
    assert [(0.5, 0.5), (1.0, 1.0), (3.0, 3.0)] == begun([3.0, 0.5, 1.0])


def test_checks_due_within_milliseconds_begin_together() -> None:
    """Items due within EARLY begin at one wake-up, because wake-ups are expensive; later items do not."""
    assert [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0 + EARLY), (1.006, 1.006)] == begun([1.0, 1.006, 1.0 + EARLY, 1.0])


def test_a_single_check_never_begins_early() -> None:
    """Without other checks, a check begins at its exact time, however short its interval is."""
    found: list[float] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()

        def begin(left: int, _: float) -> None:
            found.append(elapsed())
            if left:
                loop.call_soon(lambda: schedule.put(loop.time() + EARLY / 2, left - 1))

        schedule = Schedule(begin)
        schedule.put(START + 1.0, 3)
        await asyncio.sleep(2)

    play(scene())
    assert pytest.approx([1.0, 1.0 + EARLY / 2, 1.0 + EARLY, 1.0 + 1.5 * EARLY]) == found


def test_a_faulty_check_does_not_delay_others() -> None:
    """The loop receives the exception, and the checks behind the faulty check begin."""
    found: list[str] = []
    faults: list[object] = []

    async def scene() -> None:
        def begin(what: str, _: float) -> None:
            if what == "bad":
                raise ValueError
            found.append(what)

        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
        schedule = Schedule(begin)
        for what in ("bad", "good", "better"):
            schedule.put(START + 1.0, what)
        await asyncio.sleep(2)

    play(scene())
    assert ["good", "better"] == found
    assert [ValueError] == list(map(type, faults))


def test_a_closed_schedule_begins_nothing() -> None:
    """close() drops all items and cancels the timer."""
    found: list[int] = []

    async def scene() -> None:
        schedule = Schedule[int](lambda number, _: found.append(number))
        schedule.put(START + 1.0, 1)
        schedule.close()
        await asyncio.sleep(2)

    play(scene())
    assert [] == found


def test_others_have_their_turn_after_a_stall() -> None:
    """Of a thousand items that are due, a turn of the loop begins only a few. All begin, in order."""
    begun_: list[int] = []
    turns: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        schedule = Schedule[int](lambda item, _: begun_.append(item))
        for number in range(1000):
            schedule.put(START - 1 + number / 10_000, number)

        def turn() -> None:
            turns.append(len(begun_))
            if len(begun_) < 1000:
                loop.call_soon(turn)

        turn()
        await asyncio.sleep(1)

    play(scene())
    assert list(range(1000)) == begun_
    assert max(after - before for before, after in pairwise(turns)) <= AT_ONCE
