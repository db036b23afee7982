"""When the checker starts checks, and what it does with their results, after a reload and after faults."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from checker_world import PING, A, dns
from pool_builders import config
from virtual_time import play, settle

from nftlb.daemon.checker import EARLY, FIRST_CHECKS_PER_SECOND, JITTER, CheckKey
from nftlb.errors import SystemFault
from nftlb.model import Tcp, Udp

if TYPE_CHECKING:
    from checker_world import World


def gaps(times: list[float]) -> list[float]:
    return [round(later - earlier, 6) for earlier, later in pairwise(times)]


def test_the_first_checks_are_staggered(world: World) -> None:
    """The first checks are spread evenly, one for each backend, and no more than a limit begin in a second."""

    async def scene() -> None:
        async with world:
            world.delay = 100.0
            world.checker.configure(dns(replace(PING, interval=60_000), count=3000))
            await asyncio.sleep(50)

    play(scene())
    times = [when for when, _ in world.starts]
    assert 3000 == len({who for _, who in world.starts}) == len(times)
    early = [round(number / FIRST_CHECKS_PER_SECOND - when, 6) for number, when in enumerate(times)]
    assert (0, EARLY) == (min(early), max(early))


def test_the_first_checks_come_within_an_interval(world: World) -> None:
    """A short interval has precedence over the limit of checks in a second."""

    async def scene() -> None:
        async with world:
            world.delay = 100.0
            world.checker.configure(dns(replace(PING, interval=500), count=1000))
            await asyncio.sleep(0.5)

    play(scene())
    assert 1000 == len(world.starts)
    assert 0.4995 - EARLY <= max(when for when, _ in world.starts) <= 0.4995


def test_checks_come_at_a_fixed_rate_less_jitter(world: World) -> None:
    """Starts are an interval apart, less a random part up to 5 %, however long a check takes."""

    async def scene() -> None:
        async with world:
            world.takes = 0.3
            world.checker.configure(dns(count=1))
            await asyncio.sleep(300)

    play(scene())
    waits = gaps(world.times("b1"))
    assert all(1 - JITTER <= wait <= 1 for wait in waits)
    assert len(set(waits)) > 250
    assert 1 - JITTER / 2 == pytest.approx(sum(waits) / len(waits), abs=0.01)


def test_two_runs_of_a_check_do_not_overlap(world: World) -> None:
    """If a check takes longer than the interval, the next run starts after its end, at once."""

    async def scene() -> None:
        async with world:
            world.takes = 2.5
            world.checker.configure(dns(count=1))
            await asyncio.sleep(20)

    play(scene())
    assert 1 == world.most
    assert {2.5} == set(gaps(world.times("b1")))


def test_the_fast_interval_is_used_while_a_change_is_pending(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a change of state is pending, the next check starts sooner."""
    monkeypatch.setattr("nftlb.daemon.checker.random.random", lambda: 0.0)

    async def scene() -> None:
        async with world:
            world.checker.configure(dns(count=1))
            await asyncio.sleep(1.5)
            world.delay = 0.1
            await asyncio.sleep(0.75)
            world.delay = 1.0
            await asyncio.sleep(2.5)

    play(scene())
    assert [0, 1, 2, 2.1, 2.2, 2.3, 3.3, 4.3] == [round(when, 3) for when in world.times("b1")]


def test_results_have_their_place(world: World) -> None:
    """Each of two checks of a backend reports its results under its place in the list."""

    async def scene() -> None:
        async with world:
            world.checker.configure(dns(PING, replace(PING, check=Tcp()), count=1))
            await asyncio.sleep(0.5)

    play(scene())
    assert {CheckKey("dns", "b1", 0), CheckKey("dns", "b1", 1)} == {place for _, place in world.reported}


# --- reload ----------------------------------------------------------------------------------------------------------


def test_an_unchanged_check_is_not_restarted_by_a_reload(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that changes other things, a weight too, neither restarts nor delays a check."""
    monkeypatch.setattr("nftlb.daemon.checker.random.random", lambda: 0.0)

    async def scene() -> None:
        async with world:
            world.takes = 0.4
            world.checker.configure(dns(count=1))
            for _ in range(40):
                await asyncio.sleep(0.1)
                heavy = replace(dns(count=1).pools[0].backends[0], weight=7)
                world.checker.configure(config(replace(dns(count=1).pools[0], backends=(heavy,), quorum=1)))

    play(scene())
    assert [0, 1, 2, 3] == [round(when, 3) for when in world.times("b1") if when < 4]
    assert [0.4, 1.4, 2.4, 3.4] == [round(when, 3) for when, _ in world.reported]


def test_a_changed_check_is_restarted_by_a_reload(world: World) -> None:
    """A check whose options change is cancelled without a result, and starts again."""

    async def scene() -> None:
        async with world:
            world.takes = 0.4
            world.checker.configure(dns(count=1))
            await asyncio.sleep(0.2)
            world.checker.configure(dns(replace(PING, check=Udp()), count=1))
            await settle()
            assert ["b1"] == world.running
            await asyncio.sleep(0.5)

    play(scene())
    assert [0.0, 0.2] == world.times("b1")
    assert [(0.6, A)] == world.reported


def test_a_removed_backend_gets_no_further_results(world: World) -> None:
    """The timer and the check of a removed backend end; a result that arrives at that moment is dropped."""

    async def scene() -> None:
        async with world:
            world.takes = 0.4
            world.checker.configure(dns(replace(PING, interval=60_000)))
            await asyncio.sleep(0.4)
            world.checker.configure(dns(replace(PING, interval=60_000), count=1))
            await asyncio.sleep(5)

    play(scene())
    assert {A} == {place for _, place in world.reported}


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_of_the_host_is_not_a_result_for_the_backend(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is reported with its reason and without a result. The check is repeated after growing waits."""
    monkeypatch.setattr("nftlb.daemon.checker.random.random", lambda: 0.0)

    async def scene() -> None:
        async with world:
            world.answers["b1"] = SystemFault("no descriptors")
            world.checker.configure(dns(count=1))
            await asyncio.sleep(20)
            assert {"no descriptors"} == set(world.unable)
            assert [] == world.reported
            world.answers.clear()
            await asyncio.sleep(2.5)
            world.answers["b1"] = SystemFault("no descriptors")
            await asyncio.sleep(2.0)

    play(scene())
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 1, 1, 0.1, 0.2, 0.4] == gaps(world.times("b1"))[:14]
    assert [(21.3, A), (22.3, A)] == world.reported
    assert 1 == world.unable.count("")


def test_the_fault_lasts_until_the_last_check_works(world: World) -> None:
    """The fault lasts until every check can be carried out again."""

    async def scene() -> None:
        async with world:
            world.answers["b1"] = SystemFault("no secret")
            world.checker.configure(dns(count=3))
            await asyncio.sleep(10)
            assert {"no secret"} == set(world.unable)
            world.answers["b2"] = SystemFault("no plugin")
            await asyncio.sleep(10)
            del world.answers["b1"]
            await asyncio.sleep(10)
            assert "no plugin" == world.unable[-1]
            del world.answers["b2"]
            await asyncio.sleep(10)

    play(scene())
    assert [""] == [said for said in world.unable if said not in {"no secret", "no plugin"}]
    assert "" == world.unable[-1]


def test_the_fault_ends_when_its_check_is_removed(world: World) -> None:
    """A reload that removes the check ends the fault."""

    async def scene() -> None:
        async with world:
            world.answers["b2"] = SystemFault("no secret")
            world.checker.configure(dns())
            await asyncio.sleep(3)
            world.checker.configure(dns(count=1))
            assert "" == world.unable[-1]

    play(scene())


@pytest.mark.parametrize("where", ["probe", "listener"])
def test_an_internal_error_does_not_end_a_check(where: str, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the check is repeated."""

    async def scene() -> None:
        async with world:
            if where == "probe":
                world.answers["b1"] = ZeroDivisionError("oops")
            else:
                world.broken = KeyError("oops")
            world.checker.configure(dns(count=1))
            await asyncio.sleep(3.5)

    play(scene())
    assert 4 == len(world.starts)
    assert "a fault of nftlb itself in the icmp check of CheckKey(pool='dns', backend='b1', check=0)" in caplog.messages


def test_the_delay_of_each_check_is_reported(world: World) -> None:
    """For each check, the seconds between its planned and its actual start are reported."""

    async def scene() -> None:
        async with world:
            world.checker.configure(dns(count=1))
            await asyncio.sleep(0.5)
            asyncio.get_running_loop().now += 0.75  # type: ignore[attr-defined]  # the loop was blocked
            await settle()

    play(scene())
    assert [0.0] == world.late[:1]
    assert 0.25 <= world.late[1] <= 0.3
