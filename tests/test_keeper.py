"""When what is to be remembered is saved."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import dataclass, field

from clockwork import elapsed, play, settle

from nftlb.daemon.faults import Faults
from nftlb.daemon.keeper import AGAIN, APART, SOON, Keeper
from nftlb.health import Memory


@dataclass
class FakeStore:
    """Notes when it was told to save what; fails while `error` is set."""

    name: str = "store"
    error: int = 0
    saved: list[tuple[float, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name

    def save(self, memory: Memory) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.saved.append((elapsed(), memory.table))


class World:
    """A keeper, with its store, and a memory that is called `now`."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.now = "first"
        self.faults = Faults(lambda _: None)
        self.keeper = Keeper(self.store, lambda: Memory(format=1, table=self.now), self.faults)  # type: ignore[arg-type]

    @property
    def shown(self) -> list[str]:
        return [f"{one.what}: {one.message}" for one in self.faults.all()]


def test_changes_are_saved_soon_and_together() -> None:
    """Whatever changes within the time is saved once, as it is then."""

    async def scene() -> list[tuple[float, str]]:
        world = World()
        for name in ("first", "second", "third"):
            world.now = name
            world.keeper.touch()
            await asyncio.sleep(SOON / 4)
        await asyncio.sleep(10 * APART)
        world.now = "fourth"
        world.keeper.touch()
        await asyncio.sleep(2 * SOON)
        await world.keeper.close()
        return world.store.saved[:-1]

    assert [(SOON, "third"), (round(10 * APART + 1.75 * SOON, 6), "fourth")] == play(scene())


def test_a_storm_is_saved_now_and_then() -> None:
    """The first change soon, those that follow it together when the time is over."""

    async def scene() -> list[tuple[float, str]]:
        world = World()
        for number in range(45):
            world.now = f"{number}"
            world.keeper.touch()
            await asyncio.sleep(SOON)
        return world.store.saved

    assert [(SOON, "0"), (SOON + APART, "20"), (SOON + 2 * APART, "40")] == play(scene())


def test_the_start_does_not_hold_up_the_first_change() -> None:
    """What is saved at the start by itself is no change: a crash soon after it forgets no more than any other."""

    async def scene() -> list[tuple[float, str]]:
        world = World()
        world.keeper.begin()
        await asyncio.sleep(2 * SOON)
        world.now = "second"
        world.keeper.touch()
        await asyncio.sleep(2 * SOON)
        world.now = "third"
        world.keeper.touch()
        await asyncio.sleep(APART)
        return world.store.saved

    times = [SOON, round(3 * SOON, 6), round(3 * SOON + APART, 6)]
    assert list(zip(times, ("first", "second", "third"), strict=True)) == play(scene())


def test_who_waits_is_served_at_once() -> None:
    """save() returns when it is on the disk; nothing is left to be saved later."""

    async def scene() -> list[tuple[float, str]]:
        world = World()
        world.keeper.touch()
        await world.keeper.save()
        saved = list(world.store.saved)
        await asyncio.sleep(10 * SOON)
        assert saved == world.store.saved
        return saved

    assert [(0.0, "first")] == play(scene())


def test_a_full_disk_is_a_fault_until_it_is_not() -> None:
    """What could not be saved is shown, and tried again until it can, then as it is by then."""

    async def scene() -> tuple[list[str], list[tuple[float, str]], list[str]]:
        world = World()
        world.store.error = errno.ENOSPC
        await world.keeper.save()
        shown = world.shown
        await asyncio.sleep(2.5 * AGAIN)
        assert shown == world.shown
        world.store.error, world.now = 0, "second"
        await asyncio.sleep(AGAIN)
        return shown, world.store.saved, world.shown

    shown, saved, after = play(scene())
    assert ["state_dir: can't write store: No space left on device"] == shown
    assert [(3 * AGAIN, "second")] == saved
    assert [] == after


def test_the_last_save() -> None:
    """At the end it is saved once more, and no timer stays behind, also if that fails."""

    async def scene(error: int) -> list[tuple[float, str]]:
        world = World()
        world.keeper.touch()
        await asyncio.sleep(SOON - 0.001)
        world.store.error = error
        await world.keeper.close()
        assert world.keeper._timer is None
        await asyncio.sleep(10 * AGAIN)
        return world.store.saved

    assert [(SOON - 0.001, "first")] == play(scene(0))
    assert [] == play(scene(errno.EROFS))


def test_the_end_during_a_save_that_fails() -> None:
    """A save that had begun by itself leaves nothing behind either."""

    async def scene() -> int:
        world = World()
        world.store.error = errno.EIO
        world.keeper._save_now()
        await asyncio.sleep(0)
        await world.keeper.close()
        await settle()
        assert world.keeper._timer is None
        return len(asyncio.all_tasks())

    assert 1 == play(scene())


def test_another_directory() -> None:
    """From use() on it is saved there, and the fault is of that one."""

    async def scene() -> tuple[list[str], list[tuple[float, str]]]:
        world = World()
        await world.keeper.save()
        other = FakeStore("elsewhere", errno.EACCES)
        world.keeper.use(other)  # type: ignore[arg-type]
        await world.keeper.save()
        await world.keeper.close()
        return world.shown, world.store.saved

    assert (["state_dir: can't write elsewhere: Permission denied"], [(0.0, "first")]) == play(scene())


def test_a_save_that_is_broken_off_is_not_overtaken() -> None:
    """Who is cancelled stops waiting; what the thread writes is through before the next begins."""
    begun, go, order = threading.Event(), threading.Event(), []

    class SlowStore(FakeStore):
        def save(self, memory: Memory) -> None:
            order.append(f"begin {memory.table}")
            begun.set()
            go.wait(30)
            order.append(f"end {memory.table}")

    async def scene() -> None:
        world = World()
        world.keeper.use(SlowStore())  # type: ignore[arg-type]
        broken = asyncio.create_task(world.keeper.save())
        await asyncio.to_thread(begun.wait, 30)
        broken.cancel()
        await asyncio.wait([broken])
        world.now = "second"
        last = asyncio.create_task(world.keeper.close())
        await settle()
        go.set()
        await last

    asyncio.run(scene())
    assert ["begin first", "end first", "begin second", "end second"] == order
