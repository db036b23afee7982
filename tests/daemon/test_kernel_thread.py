"""The thread that writes to the kernel, and the thread that reads."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
from fake_kernel_thread import CountingKernel, FakeKernelThread
from pool_builders import DNS, config

from nftlb.daemon import kernel_thread as module
from nftlb.daemon.kernel_thread import KernelThread, load_config
from nftlb.errors import KernelError, SystemFault
from nftlb.model import Membership
from nftlb.ruleset import file_lines, file_text
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from nftlb.ruleset import Count, Ruleset
    from nftlb.swap.applier import Applied


class SlowCounters(CountingKernel):
    """Sets `begun` when counters are read, and then waits for `go`. Counts the readings."""

    def __init__(self, begun: threading.Event, go: threading.Event) -> None:
        super().__init__()
        self.readings = 0
        self._begun, self._go = begun, go

    def counters(self, table: str) -> dict[str, Count]:
        del table
        self.readings += 1
        self._begun.set()
        self._go.wait(30)
        return {}


def load(applier: Applier) -> Applied:
    return load_config(applier, config(DNS), Membership())


def test_all_writes_run_in_one_thread() -> None:
    """All writes run in one thread, which is not the thread of the loop."""

    async def scene() -> tuple[set[int], str]:
        kernel_thread = FakeKernelThread()
        await kernel_thread.open()
        threads = {await kernel_thread._in_writer(threading.get_ident) for _ in range(3)}
        await kernel_thread.write(load)
        text = await kernel_thread.text()
        kernel_thread.close()
        return threads, text

    threads, text = asyncio.run(scene())
    assert 1 == len(threads)
    assert threading.get_ident() not in threads
    assert "table ip nftlb" in text


def test_close_waits_for_the_running_transaction() -> None:
    """A cancelled caller does not stop a transaction: close() waits for its end."""
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def transaction() -> None:
        begun.set()
        go.wait(30)
        done.set()

    async def scene() -> None:
        kernel_thread = FakeKernelThread()
        await kernel_thread.open()
        waiting = asyncio.create_task(kernel_thread._in_writer(transaction))
        await asyncio.to_thread(begun.wait, 30)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        asyncio.get_running_loop().call_later(0.01, go.set)
        threading.Timer(0.01, go.set).start()
        kernel_thread.close()
        assert done.is_set()

    asyncio.run(scene())


def test_a_lack_of_descriptors_is_a_system_fault() -> None:
    """A refusal by the system is a SystemFault; a refusal by the kernel stays a KernelError."""

    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def refuse() -> None:
        raise KernelError("no")

    async def scene() -> None:
        kernel_thread = KernelThread("nftlb")
        with pytest.raises(SystemFault, match="the request to the kernel failed: Too many open files"):
            await kernel_thread._in_writer(fail)
        with pytest.raises(KernelError, match="no"):
            await kernel_thread._in_writer(refuse)
        kernel_thread.close()

    asyncio.run(scene())


def test_a_call_before_open_is_an_error() -> None:
    """A call before open() is an error of the caller."""

    async def scene() -> None:
        kernel_thread = FakeKernelThread()
        with pytest.raises(AssertionError, match="open"):
            await kernel_thread.write(lambda applier: applier.in_force)
        kernel_thread.close()

    asyncio.run(scene())


def test_a_reader_does_not_hold_up_a_commit() -> None:
    """A slow reading of counters doesn't delay a write."""
    begun, go = threading.Event(), threading.Event()

    async def scene() -> None:
        kernel_thread = FakeKernelThread()
        kernel_thread.kernel = SlowCounters(begun, go)
        await kernel_thread.open()
        await kernel_thread.write(load)
        waiting = asyncio.create_task(kernel_thread.read(Applier.counters))
        assert await asyncio.to_thread(begun.wait, 30)
        async with asyncio.timeout(20):
            await kernel_thread.write(lambda applier: applier.update(Membership()))
            assert await kernel_thread.write(lambda applier: applier.in_force)
        assert not waiting.done()
        go.set()
        await waiting
        kernel_thread.close()

    asyncio.run(scene())


def test_readings_of_cancelled_callers_are_dropped() -> None:
    """Readings of cancelled callers are dropped, except the reading that has begun."""
    begun, go = threading.Event(), threading.Event()

    async def scene() -> int:
        kernel_thread = FakeKernelThread()
        kernel_thread.kernel = slow = SlowCounters(begun, go)
        await kernel_thread.open()
        await kernel_thread.write(load)
        asked = [asyncio.create_task(kernel_thread.read(Applier.counters)) for _ in range(20)]
        assert await asyncio.to_thread(begun.wait, 30)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        go.set()
        kernel_thread.close()
        return slow.readings

    assert 1 == asyncio.run(scene())


def test_a_long_text_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a text is made, the event loop has a turn after every few parts of it, and the text is whole in the end."""
    monkeypatch.setattr(module, "PARTS", 4)

    async def scene() -> tuple[str, Ruleset, int]:
        kernel_thread = FakeKernelThread()
        await kernel_thread.open()
        await kernel_thread.write(load)
        accepted = kernel_thread.accepted
        assert accepted is not None
        asked = asyncio.create_task(kernel_thread.text())
        turns = 0
        while not asked.done():
            await asyncio.sleep(0)
            turns += 1
        kernel_thread.close()
        return await asked, accepted.ruleset, turns

    text, ruleset, turns = asyncio.run(scene())
    assert file_text(ruleset) == text
    assert turns >= len(list(file_lines(ruleset))) / 4


def test_the_text_is_the_last_accepted_ruleset() -> None:
    """The text is empty before the first load and after a removal."""

    async def scene() -> list[bool]:
        kernel_thread = FakeKernelThread()
        await kernel_thread.open()
        found = [await kernel_thread.text()]
        await kernel_thread.write(load)
        found.append(await kernel_thread.text())
        await kernel_thread.write(lambda applier: applier.remove(config(DNS)))
        found.append(await kernel_thread.text())
        kernel_thread.close()
        return [bool(text) for text in found]

    assert [False, True, False] == asyncio.run(scene())
