"""A server in several pools is checked once, and each pool gets the results."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from checker_world import PING
from pool_builders import backends, config, pool
from virtual_time import play

from nftlb.daemon.checker import CheckKey
from nftlb.health import CheckResult
from nftlb.model import Exec, Health, Pool, Tcp, Udp

if TYPE_CHECKING:
    from checker_world import World

SLOW = replace(PING, interval=60_000, fast_interval=1000, timeout=5000)
ASK = replace(SLOW, check=Udp(send="ping"))
FAILED = CheckResult(passed=False, reason="no answer", seconds=0.001)


def member(number: int, health: Health = PING, **options: Any) -> Pool:
    """A pool with one server, the same in all pools."""
    behind = tuple(replace(one, name=f"of{number}") for one in backends("10.0.0.1:53"))
    return pool(f"p{number}", f"192.0.2.{number}:53/udp", behind, health=(health,), **options)


def key(number: int) -> CheckKey:
    return CheckKey(f"p{number}", f"of{number}", 0)


def test_one_check_for_twenty_pools(world: World) -> None:
    """The server is checked once in an interval, and each pool gets each result; `rise` and `fall` may differ."""

    async def scene() -> None:
        async with world:
            world.delay = 10.0
            world.checker.configure(
                config(*(member(number, replace(PING, rise=1 + number, fall=21 - number)) for number in range(1, 21)))
            )
            await asyncio.sleep(25)

    play(scene())
    assert 3 == len(world.starts)
    assert {key(number) for number in range(1, 21)} == {place for _, place in world.reported}
    assert 60 == len(world.reported)


@pytest.mark.parametrize(
    "other",
    [
        replace(PING, interval=1001),
        replace(PING, fast_interval=101),
        replace(PING, timeout=501),
        replace(PING, check=Tcp()),
        replace(PING, port=54),
        replace(PING, device="eth1"),
        replace(PING, mark=7),
        replace(PING, source=(member(1).listen[0].address,)),
    ],
    ids=str,
)
def test_checks_that_differ_are_separate(world: World, other: Health) -> None:
    """Any other option, time, port or source makes another check."""

    async def scene() -> None:
        async with world:
            world.delay = 10.0
            world.checker.configure(config(member(1), member(2, other)))
            await asyncio.sleep(5)

    play(scene())
    assert ["of1", "of2"] == sorted(who for _, who in world.starts)


def test_a_program_that_gets_the_names_runs_for_each_pool(world: World) -> None:
    """A plugin may do different things for different pools."""

    async def scene() -> None:
        async with world:
            world.delay = 10.0
            plugin = replace(PING, check=Exec(argv=("/bin/true",)))
            world.checker.configure(config(member(1, plugin), member(2, plugin)))
            await asyncio.sleep(5)

    play(scene())
    assert ["of1", "of2"] == sorted(who for _, who in world.starts)


def test_pools_come_and_go(world: World) -> None:
    """A new pool gets a result soon, a pool that is gone gets none, and the others keep the timer of the check."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(config(member(1, SLOW)))
            await asyncio.sleep(10)
            world.checker.configure(config(member(1, SLOW), member(2, SLOW)))
            await asyncio.sleep(10)
            world.checker.configure(config(member(2, SLOW)))
            await asyncio.sleep(60)

    play(scene())
    found = [(round(when, -1), place) for when, place in world.reported]
    assert [(0, key(1)), (10, key(1)), (10, key(2)), (70, key(2))] == found


def test_the_shortest_delay_counts(world: World) -> None:
    """While a change is pending in one pool, the check comes at the fast interval."""

    async def scene() -> None:
        async with world:
            delays = {key(1): 60.0, key(2): 1.0}
            world.checker._on_result = lambda place, _: delays[place]
            world.checker.configure(config(member(1, SLOW), member(2, SLOW)))
            await asyncio.sleep(10.5)

    play(scene())
    assert 10 < len(world.starts) <= 12


def test_a_hint_for_one_pool(world: World) -> None:
    """A failure decides only for the pool in doubt, and counts for no other pool: the time-out was shorter."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(config(member(1, ASK), member(2, ASK)))
            await asyncio.sleep(10)
            world.result = FAILED
            world.checker.hurry("p1", "of1")
            await asyncio.sleep(20)
            world.result = replace(FAILED, passed=True)
            world.checker.hurry("p2", "of2")
            await asyncio.sleep(20)

    play(scene())
    decided = [
        (round(when), place, result.decides)
        for (when, place), result in zip(world.reported, world.results, strict=True)
    ]
    assert [(10, key(1), True)] == [found for found in decided if 5 < found[0] < 11]
    assert not any(decides for when, _, decides in decided if when > 11)
    assert {key(1), key(2)} == {place for when, place, _ in decided if when == 30}


def test_a_fault_in_one_pool_withholds_no_result(world: World) -> None:
    """If the result of one pool can't be recorded, the other pools get theirs."""
    got = []

    def record(place: CheckKey, _: CheckResult) -> float:
        if place == key(1):
            raise ZeroDivisionError("oops")
        got.append(place)
        return 10.0

    async def scene() -> None:
        async with world:
            world.checker._on_result = record
            world.checker.configure(config(member(1), member(2)))
            await asyncio.sleep(0.5)

    play(scene())
    assert [key(2)] == got
