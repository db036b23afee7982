"""Things that each have their time: when they begin, and in which order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from clockwork import START, elapsed, play

from nftlb.daemon.schedule import AT_ONCE, EARLY, Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence


def begun(dues: Sequence[float], seconds: float = 10.0) -> list[tuple[float, float]]:
    """Put in things with these times, in this order; give when each began, and when it was due."""
    found: list[tuple[float, float]] = []

    async def scene() -> None:
        schedule = Schedule[int](lambda _, due: found.append((elapsed(), round(due - START, 6))))
        for number, due in enumerate(dues):
            schedule.put(START + due, number)
        await asyncio.sleep(seconds)

    play(scene())
    return found


def test_each_begins_at_its_time() -> None:
    """In the order of their times, whatever that in which they were put in."""
    assert [(0.5, 0.5), (1.0, 1.0), (3.0, 3.0)] == begun([3.0, 0.5, 1.0])


def test_what_is_due_soon_begins_along() -> None:
    """Waking up is what costs, so those of the next few milliseconds take part; a later one does not."""
    assert [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0 + EARLY), (1.006, 1.006)] == begun([1.0, 1.006, 1.0 + EARLY, 1.0])


def test_one_alone_is_never_early() -> None:
    """However short its waits are: it begins along with nobody."""
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


def test_a_fault_in_one_holds_up_no_other() -> None:
    """The loop hears of it, and those behind it begin."""
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


def test_what_is_closed_begins_nothing() -> None:
    """All is forgotten, and the loop is left with no timer."""
    found: list[int] = []

    async def scene() -> None:
        schedule = Schedule[int](lambda number, _: found.append(number))
        schedule.put(START + 1.0, 1)
        schedule.close()
        await asyncio.sleep(2)

    play(scene())
    assert [] == found


def test_others_have_their_turn_after_a_stall() -> None:
    """A thousand are due at once: no turn of the loop begins more than a few, all begin in order, and none is lost."""
    begun_: list[int] = []
    turns: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        schedule = Schedule[int](lambda thing, _: begun_.append(thing))
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
