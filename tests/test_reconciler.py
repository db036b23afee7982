"""The one who brings the kernel to what is wanted: when, and in how many commits, whatever comes between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import pytest
from clockwork import elapsed, play, settle
from handiwork import Calls, FakeHands, has
from pools import DNS, backend, backends, config, pool

from nftlb.compiler import Compiled, Membership
from nftlb.daemon.reconciler import COLLECT, RESTORE_GAP, RETRY_LAST, TIDY_AFTER, Commit, Reconciler
from nftlb.errors import KernelError
from nftlb.model import Balance, Forward
from nftlb.service import Unapplied

if TYPE_CHECKING:
    from nftlb.errors import NftlbError
    from nftlb.model import Config

ONE = config(DNS)
OTHER = config(replace(DNS, backends=backends("10.0.0.11:5353", "10.0.0.13:5353")))
MANY = config(
    pool("dns", "192.0.2.53:53/udp", backends(*(f"10.0.{i}.{j}:53" for i in range(3) for j in range(1, 101))))
)
FAST = config(
    pool(
        "fast",
        "192.0.2.53:53/udp",
        (backend("b1", "10.0.0.11:53", device="eth1"),),
        forward=Forward.STATELESS,
        balance=Balance.HASH,
        ingress=("eth0",),
    )
)


class World:
    """A reconciler over a kernel in memory; runs inside `async with`, from a first load on."""

    def __init__(self, wanted: Config = ONE) -> None:
        self.config = wanted
        self.down: set[str] = set()
        self.hands = FakeHands()
        self.calls = Calls()
        self.lacks: tuple[str, ...] = ()
        self.reconciler = Reconciler(
            self.hands, self.wanted, self._done, self._failed, lambda: self.calls("mended"), self._lacking
        )

    async def __aenter__(self) -> Self:
        await self.hands.open()
        await self.reconciler.start()
        self._task = asyncio.create_task(self.reconciler.run())
        await settle()
        self.calls.all.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self.hands.close()

    def wanted(self) -> tuple[Config, Membership]:
        return self.config, Membership.with_down((self.config.pools[0].name, one) for one in self.down)

    def fall(self, *names: str) -> None:
        self.down |= set(names)
        self.reconciler.poke()

    def rise(self, *names: str) -> None:
        self.down -= set(names)
        self.reconciler.poke()

    def others_flush(self) -> None:
        self.hands.kernel.flush()
        self.reconciler.suspect()

    @property
    def is_right(self) -> bool:
        return has(self.hands.kernel, *self.wanted())

    def _done(self, commit: Commit) -> None:
        self.calls("restored" if commit.restored else "commit")

    def _failed(self, _: NftlbError) -> None:
        self.calls("refused")

    def _lacking(self, what: tuple[str, ...]) -> None:
        self.lacks = what


# --- when ------------------------------------------------------------------------------------------------------------


def test_many_transitions_of_one_moment_are_one_commit() -> None:
    """300 backends that fall together leave in one transaction, a moment after the first."""

    async def scene() -> list[tuple[float, str]]:
        async with World(MANY) as world:
            for one in MANY.pools[0].backends[1:]:
                world.fall(one.name)
            await asyncio.sleep(TIDY_AFTER / 2)
            assert world.is_right
            return world.calls.all

    assert [(COLLECT, "commit")] == play(scene())


def test_collecting_takes_as_long_as_a_commit() -> None:
    """Under load the batches grow: what comes during a commit, and for as long again, is the next one."""

    async def scene() -> list[tuple[float, str]]:
        async with World(MANY) as world:
            world.hands.takes = 0.25
            for one in MANY.pools[0].backends[:99]:  # one falls every 10 ms, for a second
                world.fall(one.name)
                await asyncio.sleep(0.01)
            world.hands.takes = 0
            await asyncio.sleep(1)
            assert world.is_right
            return world.calls.all

    # Begun at 2 ms, done at 252; waited as long, begun at 502, done at 752; and the rest.
    assert [(0.252, "commit"), (0.752, "commit"), (1.002, "commit")] == play(scene())


def test_what_cancels_out_is_no_commit() -> None:
    """A backend that falls and rises within the moment changes nothing."""

    async def scene() -> list[tuple[float, str]]:
        async with World() as world:
            world.fall("b1")
            world.rise("b1")
            await asyncio.sleep(10)
            return world.calls.all

    assert [] == play(scene())


def test_leftovers_go_when_it_is_quiet() -> None:
    """A second after the last change what it left over is removed, once; pokes that mean nothing don't put it off."""

    async def scene() -> list[float]:
        async with World() as world:
            world.fall("b1")
            for _ in range(20):
                await asyncio.sleep(0.3)
                world.reconciler.poke()
            return world.hands.tidied

    assert [COLLECT + TIDY_AFTER] == play(scene())


def stateless(*names: str) -> Config:
    behind = tuple(backend(name, f"10.0.0.1{name[1:]}:53") for name in names)
    return config(pool("dns", "192.0.2.53:53/udp", behind, forward=Forward.STATELESS))


def answered(world: World) -> set[str]:
    """The backends whose answers get the service's address."""
    (table,) = (listing.table for listing in world.hands.kernel.list("nftlb").values())
    return {element.comment.removeprefix("dns/") for element in table.sets["replies"].elements}


@pytest.mark.parametrize("flapping", [False, True])
def test_what_answers_need_goes_when_their_time_has_come(flapping: bool) -> None:
    """Each former backend has its own, whatever else is loaded meanwhile, and however much changes."""

    async def pass_time(world: World, seconds: float) -> None:
        for _ in range(20):
            if flapping:
                (world.rise if world.down else world.fall)("b1")
            await asyncio.sleep(seconds / 20)

    async def scene() -> list[set[str]]:
        seen = []
        async with World(stateless("b1", "b2", "b3", "b4")) as world:
            seen.append(answered(world))
            for left in (("b1", "b2", "b3"), ("b1", "b2")):
                world.config = stateless(*left)
                await world.reconciler.adopt(*world.wanted(), lambda: None)
                await pass_time(world, 10)
            seen.append(answered(world))
            for _ in range(2):
                await pass_time(world, 10.2)
                seen.append(answered(world))
            assert world.is_right
            return seen

    assert [{"b1", "b2", "b3", "b4"}, {"b1", "b2", "b3", "b4"}, {"b1", "b2", "b3"}, {"b1", "b2"}] == play(scene())


@pytest.mark.parametrize("failing", [False, True])
def test_the_end_is_not_lost(failing: bool) -> None:
    """Cancelled in the moment in which it is woken, it ends nevertheless."""

    async def scene() -> bool:
        async with World() as world:
            if failing:
                world.hands.error = KernelError("no")
                world.fall("b1")
                await asyncio.sleep(5)
            world.reconciler.poke()
            world._task.cancel()
            await asyncio.sleep(10)
            return world._task.cancelled()

    assert play(scene())


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_refused_commit_is_tried_again_ever_more_slowly() -> None:
    """After 0.1 s, 0.2, 0.4 and so on, at most 5; until it is accepted, which is told once."""

    async def scene() -> tuple[list[float], list[tuple[float, str]]]:
        async with World() as world:
            world.hands.error = KernelError("no")
            world.fall("b1")
            await asyncio.sleep(25)
            assert ("no", False) == (world.reconciler.error, world.reconciler.synced)
            refused = world.calls.of("refused")
            world.hands.error = None
            await asyncio.sleep(2 * RETRY_LAST)
            assert ("", True) == (world.reconciler.error, world.reconciler.synced)
            assert world.is_right
            return refused, world.calls.all[len(refused) :]

    refused, after = play(scene())
    assert COLLECT == refused[0]
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0] == [
        round(later - earlier, 6) for earlier, later in pairwise(refused)
    ]
    assert [(26.302, "commit"), (26.302, "mended")] == after


def test_something_new_does_not_wait_for_the_next_attempt() -> None:
    """While attempts are seconds apart, a change is tried at once, but not more often than every 0.1 s."""

    async def scene() -> list[float]:
        async with World() as world:
            world.hands.error = KernelError("no")
            world.fall("b1")
            await asyncio.sleep(10)
            seen = len(world.calls.all)
            for _ in range(100):
                world.reconciler.poke()
                await asyncio.sleep(0.01)
            return world.calls.of("refused")[seen:]

    times = play(scene())
    assert 10.0 == times[0]
    assert 10 == len(times)


def test_what_is_no_longer_wanted_ends_the_trouble() -> None:
    """If what was refused is taken back, all is well again without a commit."""

    async def scene() -> tuple[list[str], bool]:
        async with World() as world:
            world.hands.error = KernelError("no")
            world.fall("b1")
            await asyncio.sleep(0.05)
            world.hands.error = None
            world.rise("b1")
            await asyncio.sleep(1)
            return [what for _, what in world.calls.all], world.reconciler.synced

    assert (["refused", "mended"], True) == play(scene())


def test_a_fault_of_ours_is_a_refusal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody expected is in the log, and it goes on."""

    async def scene() -> tuple[str, list[str]]:
        async with World() as world:
            with monkeypatch.context() as broken:
                broken.setattr(Compiled, "ruleset", lambda *_: 1 / 0)
                world.fall("b1")
                await asyncio.sleep(0.01)
                error = world.reconciler.error
            await asyncio.sleep(1)
            assert world.is_right
            return error, [what for _, what in world.calls.all]

    assert ("a fault of nftlb itself: ZeroDivisionError: division by zero", ["refused", "commit", "mended"]) == (
        play(scene())
    )
    assert "Traceback" in caplog.text


def test_a_first_load_that_is_refused() -> None:
    """start() tells it; run() tries again, and there is nothing that pretends to be loaded before."""

    async def scene() -> tuple[list[tuple[float, str]], bool]:
        world = World()
        await world.hands.open()
        world.hands.error = KernelError("no")
        with pytest.raises(KernelError, match="no"):
            await world.reconciler.start()
        assert not world.reconciler.loaded
        assert not world.reconciler.synced
        task = asyncio.create_task(world.reconciler.run())
        await asyncio.sleep(0.15)
        world.hands.error = None
        await asyncio.sleep(1)
        assert world.is_right
        task.cancel()
        await asyncio.wait([task])
        world.hands.close()
        return world.calls.all, world.reconciler.loaded

    calls = [(0.0, "refused"), (0.1, "refused"), (0.3, "commit"), (0.3, "mended")]
    assert (calls, True) == play(scene())


# --- others ----------------------------------------------------------------------------------------------------------


def test_own_transactions_are_not_taken_for_others() -> None:
    """The kernel announces ours too: nothing is restored then, nor are the tables listed."""

    async def scene() -> tuple[list[str], int]:
        async with World() as world:
            listings = world.hands.kernel.listings
            for number in range(10):
                (world.rise if number % 2 else world.fall)("b1")
                await asyncio.sleep(0.3)
                world.reconciler.suspect()
                await asyncio.sleep(0.3)
            return [what for _, what in world.calls.all], world.hands.kernel.listings - listings

    assert (["commit"] * 10, 0) == play(scene())


def test_what_others_did_is_undone_and_counted() -> None:
    """After `nft flush ruleset` all is as it was within moments."""

    async def scene() -> list[tuple[float, str]]:
        async with World() as world:
            world.fall("b1")
            await asyncio.sleep(5)
            before = world.hands.kernel.content
            world.others_flush()
            await asyncio.sleep(0.01)
            assert before == world.hands.kernel.content
            await asyncio.sleep(5)
            return world.calls.all

    assert [(COLLECT, "commit"), (5 + COLLECT, "restored")] == play(scene())


@pytest.mark.parametrize("announced", [0.0, 1.0])
def test_a_sweep_hides_nothing(announced: float) -> None:
    """A change by others that is announced only when we cleared up behind ourselves is undone all the same."""

    async def scene() -> list[str]:
        async with World() as world:
            world.fall("b1")
            await asyncio.sleep(0.9)
            world.reconciler.poke()
            await asyncio.sleep(0.3)  # by now a sweep is due, but not begun
            world.hands.kernel.flush()
            await asyncio.sleep(announced)
            world.reconciler.suspect()
            await asyncio.sleep(1)
            assert world.is_right
            return [what for _, what in world.calls.all]

    assert ["commit", "restored"] == play(scene())


def test_two_at_odds_do_not_spin() -> None:
    """Against somebody who undoes at once whatever we do, we try five times a second, no more."""

    async def scene() -> int:
        async with World() as world:
            done = world.reconciler.done

            def answered(commit: Commit) -> None:
                done(commit)
                world.others_flush()

            world.reconciler.done = answered
            world.others_flush()
            await asyncio.sleep(10)
            return len(world.calls.of("restored"))

    assert abs(10 / RESTORE_GAP - play(scene())) <= 2


def test_a_failure_forgets_no_suspicion() -> None:
    """If the kernel can't be asked whether others wrote, it is asked again."""

    async def scene() -> list[str]:
        async with World() as world:
            world.hands.kernel.flush()
            world.hands.error = KernelError("no")
            world.reconciler.suspect()
            await asyncio.sleep(0.05)
            world.hands.error = None
            await asyncio.sleep(1)
            assert world.is_right
            return [what for _, what in world.calls.all]

    assert ["refused", "restored", "mended"] == play(scene())


def test_others_and_a_transition_at_once() -> None:
    """What others did is undone by the commit for a transition too."""

    async def scene() -> bool:
        async with World() as world:
            world.others_flush()
            world.fall("b1")
            await asyncio.sleep(1)
            return world.is_right

    assert play(scene())


def test_what_lacks_is_looked_for_again() -> None:
    """A missing interface is told, and taken into use seconds after it is there, whatever else happens meanwhile."""

    async def scene() -> tuple[tuple[str, ...], list[tuple[float, str]], tuple[str, ...]]:
        async with World(FAST) as world:
            lacking = world.lacks
            for second in range(12):
                if second == 7:
                    world.hands.interfaces = ("eth0",)
                world.reconciler.poke()
                await asyncio.sleep(1)
            return lacking, world.calls.all, world.lacks

    lacking, calls, after = play(scene())
    assert ("pool fast: there is no interface eth0, so its fast path is left out there",) == lacking
    assert [(10 + 2 * COLLECT, "commit")] == [(round(when, 2) + 2 * COLLECT, what) for when, what in calls]
    assert () == after


# --- follow ----------------------------------------------------------------------------------------------------------


def test_follow_returns_with_the_commit_that_has_the_change() -> None:
    """One who asks while another commit is on the way waits for the next."""

    async def scene() -> list[float]:
        async with World() as world:
            world.hands.takes = 1.0
            times = []

            async def follow(name: str) -> None:
                world.fall(name)
                await world.reconciler.follow()
                times.append(elapsed())

            first = asyncio.create_task(follow("b1"))
            await asyncio.sleep(0.5)
            await asyncio.gather(first, follow("b2"))
            return times

    first, second = play(scene())
    assert 1 + COLLECT == first
    assert 3 + COLLECT == second  # collected for as long as the first took


def test_follow_is_done_at_once_where_nothing_is_to_do() -> None:
    """A wish that changes nothing is fulfilled after the next look."""

    async def scene() -> tuple[float, list[tuple[float, str]]]:
        async with World() as world:
            await world.reconciler.follow()
            return elapsed(), world.calls.all

    assert (COLLECT, []) == play(scene())


def test_follow_says_when_it_is_refused() -> None:
    """Unapplied, with the reason; who asks during a refused attempt is not answered by that."""

    async def scene() -> list[str]:
        async with World() as world:
            world.hands.takes, world.hands.error = 1.0, KernelError("no")
            world.fall("b1")
            refused = asyncio.create_task(world.reconciler.follow())
            await asyncio.sleep(0.5)
            follows = asyncio.create_task(world.reconciler.follow())
            with pytest.raises(Unapplied) as caught:
                await refused
            world.hands.error = None
            await follows
            return [str(caught.value), *(what for _, what in world.calls.all)]

    assert ["noted, but not in the kernel yet, and tried again: no", "refused", "commit", "mended"] == play(scene())


def test_who_stopped_waiting_is_forgotten() -> None:
    """A request that was broken off disturbs nobody."""

    async def scene() -> bool:
        async with World() as world:
            world.hands.takes = 1.0
            world.fall("b1")
            gone = asyncio.create_task(world.reconciler.follow())
            stays = asyncio.create_task(world.reconciler.follow())
            await asyncio.sleep(0.1)
            gone.cancel()
            await stays
            return world.is_right

    assert play(scene())


# --- adopt -----------------------------------------------------------------------------------------------------------


def test_adopting_switches_after_the_kernel() -> None:
    """The switch comes when the kernel has the new configuration, and before anything else is done."""

    async def scene() -> list[tuple[float, str]]:
        async with World() as world:
            world.hands.takes = 1.0
            world.fall("b1")

            def switch() -> None:
                world.calls("switch")
                world.config = OTHER

            await world.reconciler.adopt(OTHER, world.wanted()[1], switch)
            await asyncio.sleep(10)
            assert world.is_right
            return world.calls.all

    assert [(1.0, "commit"), (1.0, "switch")] == play(scene())


@pytest.mark.parametrize("when", ["error", "error_after"])
def test_adopting_is_all_or_nothing(when: str) -> None:
    """If the new configuration is refused, even halfway, nothing switches and the kernel has the old one again."""

    async def scene() -> list[str]:
        async with World() as world:
            before = world.hands.kernel.content
            setattr(world.hands, when, KernelError("no"))
            with pytest.raises(KernelError, match="no"):
                await world.reconciler.adopt(OTHER, Membership(), lambda: world.calls("switch"))
            world.hands.error = None
            await asyncio.sleep(1)
            assert before == world.hands.kernel.content
            return [what for _, what in world.calls.all if what in {"switch", "refused"}]

    assert [] == play(scene())


def test_adopting_that_is_broken_off() -> None:
    """Cancelled on the way, it leaves the old configuration in mind and in the kernel."""

    async def scene() -> list[str]:
        async with World() as world:
            world.hands.takes = 1.0
            before = world.hands.kernel.content
            task = asyncio.create_task(world.reconciler.adopt(OTHER, Membership(), lambda: world.calls("switch")))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(5)
            assert before == world.hands.kernel.content
            return [what for _, what in world.calls.all]

    assert [] == play(scene())


def test_a_transition_waits_for_an_adoption() -> None:
    """There is one writer: what happens while another configuration is loaded is committed after that."""

    async def scene() -> list[tuple[float, str]]:
        async with World() as world:
            world.hands.takes = 1.0

            def switch() -> None:
                world.config = OTHER

            adoption = asyncio.create_task(world.reconciler.adopt(OTHER, Membership(), switch))
            await asyncio.sleep(0.5)
            world.fall("b2")
            await adoption
            assert elapsed() == 1.0
            await asyncio.sleep(5)
            assert world.is_right
            return world.calls.all

    assert [(1.0, "commit"), (2.0, "commit")] == play(scene())


def test_how_long_it_has_been_at_work() -> None:
    """busy_for() grows while the kernel is at it, and is zero else: the watchdog goes by that."""

    async def scene() -> list[float]:
        async with World() as world:
            seen = [world.reconciler.busy_for()]
            world.hands.takes = 100.0
            world.fall("b1")
            for _ in range(3):
                await asyncio.sleep(40)
                seen.append(round(world.reconciler.busy_for(), 6))
                world.hands.takes = 0  # from the next work on
            return seen

    assert [0.0, 40 - COLLECT, 80 - COLLECT, 0.0] == play(scene())
