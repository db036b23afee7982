"""Checks of backends for which traffic gave a hint of a failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from checker_world import PING, A, dns
from virtual_time import play

from nftlb.health import CheckResult
from nftlb.model import Udp

if TYPE_CHECKING:
    from checker_world import World

SLOW_PING = replace(PING, interval=60_000, fast_interval=1000, timeout=5000)
ASK = replace(SLOW_PING, check=Udp(send="ping"))


def test_all_checks_of_a_doubted_backend_start_at_once(world: World) -> None:
    """All checks of this backend start, no others; their next runs are an interval later."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(dns(SLOW_PING, ASK))
            await asyncio.sleep(20)
            world.checker.hurry("dns", "b1")
            world.checker.hurry("dns", "unknown")
            world.checker.hurry("nothing", "b1")
            await asyncio.sleep(56)

    play(scene())
    assert [0, 0, 20, 20] == [round(when) for when in world.times("b1")]
    assert 4 == len(world.times("b2"))
    assert {A, A._replace(check=1)} == {place for when, place in world.reported if when == 20.0}


@pytest.mark.parametrize(
    ("passed", "doubt", "decides"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_a_failure_in_doubt_decides(world: World, passed: bool, doubt: bool, decides: bool) -> None:
    """A failed check decides only if the backend was in doubt. A passed check never decides."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(dns(ASK, count=1))
            await asyncio.sleep(10)
            world.result = CheckResult(passed=passed, reason="so it was", seconds=0.001)
            if doubt:
                world.checker.hurry("dns", "b1")
            await asyncio.sleep(60)

    play(scene())
    assert decides is world.results[1].decides
    assert not any(result.decides for result in (world.results[0], *world.results[2:]))


def test_doubts_come_thousands_of_times(world: World) -> None:
    """Many hints cause one check in a `fast_interval`, and one check after the last hint."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(dns(ASK, count=1))
            await asyncio.sleep(10)
            for _ in range(2500):
                world.checker.hurry("dns", "b1")
                await asyncio.sleep(0.001)
            await asyncio.sleep(10)

    play(scene())
    assert [10.0, 11.0, 12.0, 13.0] == [round(when, 3) for when in world.times("b1")[1:]]


def test_a_check_over_udp_that_is_on_the_way_is_given_up(world: World) -> None:
    """The request may be older than the hint. The new check waits one `fast_interval`, as refusals may be lost."""

    async def scene() -> None:
        async with world:
            world.delay, world.takes = 60.0, 4.0
            world.checker.configure(dns(ASK, count=1))
            await asyncio.sleep(2)
            world.checker.hurry("dns", "b1")
            await asyncio.sleep(10)

    play(scene())
    assert [0.0, 2.0] == world.times("b1")
    assert [(6.0, A)] == world.reported
    assert [5.0, 1.0] == world.patience


def test_a_running_check_that_passes_is_repeated(world: World) -> None:
    """The server may have replied before the hint: the check is repeated, with the usual time-out."""

    async def scene() -> None:
        async with world:
            world.delay, world.takes = 60.0, 4.0
            world.checker.configure(dns(SLOW_PING, count=1))
            await asyncio.sleep(2)
            world.checker.hurry("dns", "b1")
            await asyncio.sleep(10)

    play(scene())
    assert [0.0, 4.0] == world.times("b1")
    assert [5.0, 5.0] == world.patience


def test_a_running_check_that_fails_decides(world: World) -> None:
    """A running check that fails is not repeated: its result decides."""

    async def scene() -> None:
        async with world:
            world.delay, world.takes = 60.0, 4.0
            world.result = CheckResult(passed=False, reason="no answer", seconds=4.0)
            world.checker.configure(dns(SLOW_PING, count=1))
            await asyncio.sleep(2)
            world.checker.hurry("dns", "b1")
            await asyncio.sleep(10)

    play(scene())
    assert [0.0] == world.times("b1")
    assert [True] == [result.decides for result in world.results]
