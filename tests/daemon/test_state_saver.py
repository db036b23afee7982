"""The times at which the state is saved."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from daemon_wiring import FakeStore
from virtual_time import play, settle

from nftlb.daemon import state_saver
from nftlb.daemon.events import ActiveFaults
from nftlb.daemon.state_saver import AGAIN, APART, SOON, StateSaver
from nftlb.health import Memory

if TYPE_CHECKING:
    import pytest


class SaverSetup:
    """A StateSaver with its store, and a state whose table name is `now`."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.now = "first"
        self.faults = ActiveFaults(lambda _: None)
        self.saver = StateSaver(self.store, self, self.faults)  # type: ignore[arg-type]

    def memory(self) -> Memory:
        return Memory(format=1, table=self.now)

    def good_file(self) -> None:
        return None

    def preparation(self) -> None:
        return None

    @property
    def shown(self) -> list[str]:
        return [f"{fault.what}: {fault.message}" for fault in self.faults.all()]


def test_changes_are_saved_soon_and_together() -> None:
    """All changes within the delay are saved once."""

    async def scene() -> list[tuple[float, str]]:
        setup = SaverSetup()
        for name in ("first", "second", "third"):
            setup.now = name
            setup.saver.touch()
            await asyncio.sleep(SOON / 4)
        await asyncio.sleep(10 * APART)
        setup.now = "fourth"
        setup.saver.touch()
        await asyncio.sleep(2 * SOON)
        await setup.saver.close()
        return setup.store.saved[:-1]

    assert [(SOON, "third"), (round(10 * APART + 1.75 * SOON, 6), "fourth")] == play(scene())


def test_a_storm_is_saved_now_and_then() -> None:
    """The first change is saved soon, later changes together after APART seconds."""

    async def scene() -> list[tuple[float, str]]:
        setup = SaverSetup()
        for number in range(45):
            setup.now = f"{number}"
            setup.saver.touch()
            await asyncio.sleep(SOON)
        return setup.store.saved

    assert [(SOON, "0"), (SOON + APART, "20"), (SOON + 2 * APART, "40")] == play(scene())


def test_the_start_does_not_hold_up_the_first_change() -> None:
    """The save at the start does not delay the save of the first change."""

    async def scene() -> list[tuple[float, str]]:
        setup = SaverSetup()
        setup.saver.begin()
        await asyncio.sleep(2 * SOON)
        setup.now = "second"
        setup.saver.touch()
        await asyncio.sleep(2 * SOON)
        setup.now = "third"
        setup.saver.touch()
        await asyncio.sleep(APART)
        return setup.store.saved

    times = [SOON, round(3 * SOON, 6), round(3 * SOON + APART, 6)]
    assert list(zip(times, ("first", "second", "third"), strict=True)) == play(scene())


def test_save_returns_when_the_state_is_on_the_disk() -> None:
    """save() returns when the state is on the disk, and no timer is left."""

    async def scene() -> list[tuple[float, str]]:
        setup = SaverSetup()
        setup.saver.touch()
        await setup.saver.save()
        saved = list(setup.store.saved)
        await asyncio.sleep(10 * SOON)
        assert saved == setup.store.saved
        return saved

    assert [(0.0, "first")] == play(scene())


def test_a_failed_save_is_a_fault_and_is_repeated() -> None:
    """A failed save is a fault and is tried again; then the present state is saved."""

    async def scene() -> tuple[list[str], list[tuple[float, str]], list[str]]:
        setup = SaverSetup()
        setup.store.error = errno.ENOSPC
        await setup.saver.save()
        shown = setup.shown
        await asyncio.sleep(2.5 * AGAIN)
        assert shown == setup.shown
        setup.store.error, setup.now = 0, "second"
        await asyncio.sleep(AGAIN)
        return shown, setup.store.saved, setup.shown

    shown, saved, after = play(scene())
    assert ["state_dir: can't write store: No space left on device"] == shown
    assert [(3 * AGAIN, "second")] == saved
    assert [] == after


def test_the_last_save() -> None:
    """close() saves the state and leaves no timer, even if the save fails."""

    async def scene(error: int) -> list[tuple[float, str]]:
        setup = SaverSetup()
        setup.saver.touch()
        await asyncio.sleep(SOON - 0.001)
        setup.store.error = error
        await setup.saver.close()
        assert setup.saver._timer is None
        await asyncio.sleep(10 * AGAIN)
        return setup.store.saved

    assert [(SOON - 0.001, "first")] == play(scene(0))
    assert [] == play(scene(errno.EROFS))


def test_the_end_during_a_save_that_fails() -> None:
    """close() during a failing save leaves no timer."""

    async def scene() -> int:
        setup = SaverSetup()
        setup.store.error = errno.EIO
        setup.saver._save_now()
        await asyncio.sleep(0)
        await setup.saver.close()
        await settle()
        assert setup.saver._timer is None
        return len(asyncio.all_tasks())

    assert 1 == play(scene())


def test_another_directory() -> None:
    """After use(), the state is saved to the new store, and faults name this store."""

    async def scene() -> tuple[list[str], list[tuple[float, str]]]:
        setup = SaverSetup()
        await setup.saver.save()
        other = FakeStore("elsewhere", errno.EACCES)
        setup.saver.use(other)  # type: ignore[arg-type]
        await setup.saver.save()
        await setup.saver.close()
        return setup.shown, setup.store.saved

    assert (["state_dir: can't write elsewhere: Permission denied"], [(0.0, "first")]) == play(scene())


def test_a_disk_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves, also the last one, give up waiting, and the fault is shown; when the disk works, the state is saved."""
    monkeypatch.setattr(state_saver, "HUNG", 0.05)
    monkeypatch.setattr(state_saver, "AGAIN", 0.05)
    works, saved = threading.Event(), []

    async def scene() -> None:
        loop, again = asyncio.get_running_loop(), asyncio.Event()

        class HungStore(FakeStore):
            def save(self, memory: Memory) -> None:
                works.wait(30)
                saved.append(memory.table)
                if memory.table == "second":
                    loop.call_soon_threadsafe(again.set)

        setup = SaverSetup()
        setup.saver.use(HungStore())  # type: ignore[arg-type]
        for name in ("first", "second"):
            setup.now = name
            async with asyncio.timeout(10):
                await setup.saver.save()
            assert ["state_dir: can't write store: the disk has not answered for more than 0.05 s"] == setup.shown
        assert [] == saved
        monkeypatch.setattr(state_saver, "HUNG", 30)
        works.set()
        async with asyncio.timeout(10):
            await again.wait()
            await setup.saver.save()
        assert [] == setup.shown
        works.clear()
        monkeypatch.setattr(state_saver, "HUNG", 0.05)
        async with asyncio.timeout(10):
            await setup.saver.close()
        works.set()

    asyncio.run(scene())
    assert ["first", "second"] == saved[:2]


def test_another_directory_in_place_of_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault names the directory that hangs. After use(), the state is saved to the new directory at once."""
    monkeypatch.setattr(state_saver, "HUNG", 0.05)
    works, old, new = threading.Event(), [], []

    class RecordingStore(FakeStore):
        def save(self, memory: Memory) -> None:
            new.append(memory.table)

    class HungStore(FakeStore):
        def save(self, memory: Memory) -> None:
            works.wait(30)
            old.append(memory.table)

    async def scene() -> None:
        setup = SaverSetup()
        setup.saver.use(HungStore("hangs"))  # type: ignore[arg-type]
        first = asyncio.create_task(setup.saver.save())
        await settle()
        setup.saver.use(RecordingStore("works"))  # type: ignore[arg-type]
        await first
        assert ["state_dir: can't write hangs: the disk has not answered for more than 0.05 s"] == setup.shown
        monkeypatch.setattr(state_saver, "HUNG", 30)
        setup.now = "second"
        async with asyncio.timeout(10):
            await setup.saver.save()
            assert ([], ["second"], []) == (old, new, setup.shown)
            await setup.saver.close()
        works.set()

    asyncio.run(scene())


ENDS = """
import asyncio, threading
from nftlb.daemon import state_saver
from nftlb.daemon.events import ActiveFaults
from nftlb.health import Memory

class Hung:
    def save(self, memory):
        threading.Event().wait()

class State:
    def memory(self):
        return Memory(format=1)

async def main():
    saver = state_saver.StateSaver(Hung(), State(), ActiveFaults(lambda _: None))
    await saver.close()

state_saver.HUNG = 0.05
asyncio.run(main())
print("closed", flush=True)
"""


def test_the_process_ends_while_a_disk_hangs() -> None:
    """The end of the process does not wait for the write."""
    done = subprocess.run([sys.executable, "-c", ENDS], stdout=subprocess.PIPE, text=True, timeout=50, check=True)
    assert "closed\n" == done.stdout


def test_a_save_that_is_broken_off_is_not_overtaken() -> None:
    """A cancelled save stops waiting, but its write ends before the next write starts."""
    begun, go, order = threading.Event(), threading.Event(), []

    class SlowStore(FakeStore):
        def save(self, memory: Memory) -> None:
            order.append(f"begin {memory.table}")
            begun.set()
            go.wait(30)
            order.append(f"end {memory.table}")

    async def scene() -> None:
        setup = SaverSetup()
        setup.saver.use(SlowStore())  # type: ignore[arg-type]
        broken = asyncio.create_task(setup.saver.save())
        await asyncio.to_thread(begun.wait, 30)
        broken.cancel()
        await asyncio.wait([broken])
        setup.now = "second"
        last = asyncio.create_task(setup.saver.close())
        await settle()
        go.set()
        await last

    asyncio.run(scene())
    assert ["begin first", "end first", "begin second", "end second"] == order
