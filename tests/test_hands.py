"""The thread in which the kernel is written to."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
from handiwork import FakeHands
from pools import DNS, config

from nftlb.compiler import Membership
from nftlb.daemon import hands as module
from nftlb.daemon.hands import Hands
from nftlb.errors import KernelError, SystemFault
from nftlb.kernel.fake import FakeNft

if TYPE_CHECKING:
    from nftlb.ruleset import Count, Ruleset


def test_all_of_it_in_one_thread() -> None:
    """Whatever is done, one thread does it, and another than the loop's."""

    async def scene() -> tuple[set[int], str]:
        hands = FakeHands()
        await hands.open()
        threads = {await hands._do(threading.get_ident) for _ in range(3)}
        await hands.load(config(DNS), Membership())
        text = await hands.text()
        hands.close()
        return threads, text

    threads, text = asyncio.run(scene())
    assert 1 == len(threads)
    assert threading.get_ident() not in threads
    assert "table ip nftlb" in text


def test_the_end_waits_for_what_is_being_done() -> None:
    """Cancelling who waits does not stop a transaction: close() returns when it is through."""
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def transaction() -> None:
        begun.set()
        go.wait(30)
        done.set()

    async def scene() -> None:
        hands = FakeHands()
        await hands.open()
        waiting = asyncio.create_task(hands._do(transaction))
        await asyncio.to_thread(begun.wait, 30)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        asyncio.get_running_loop().call_later(0.01, go.set)
        threading.Timer(0.01, go.set).start()
        hands.close()
        assert done.is_set()

    asyncio.run(scene())


def test_a_machine_short_of_descriptors_is_no_fault_of_ours() -> None:
    """What the system refuses is a SystemFault; what the kernel refuses stays a KernelError."""

    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def refuse() -> None:
        raise KernelError("no")

    async def scene() -> None:
        hands = Hands("nftlb")
        with pytest.raises(SystemFault, match="the kernel can't be asked: Too many open files"):
            await hands._do(fail)
        with pytest.raises(KernelError, match="no"):
            await hands._do(refuse)
        hands.close()

    asyncio.run(scene())


def test_nothing_goes_before_open() -> None:
    """That would be a fault of ours, and is told as one."""

    async def scene() -> None:
        hands = FakeHands()
        with pytest.raises(AssertionError, match="open"):
            await hands.hold()
        hands.close()

    asyncio.run(scene())


def test_a_reader_does_not_hold_up_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text and counters that take as long as they like: a load is through in the meantime."""
    go = threading.Event()
    reading = [threading.Event(), threading.Event()]

    def slow_text(_: Ruleset) -> str:
        reading[0].set()
        go.wait(30)
        return "text"

    class Slow(FakeNft):
        def counters(self, table: str) -> dict[str, Count]:
            del table
            reading[1].set()
            go.wait(30)
            return {}

    monkeypatch.setattr(module, "file_text", slow_text)

    async def scene() -> None:
        hands = FakeHands()
        hands.kernel = Slow()  # type: ignore[assignment]
        await hands.open()
        await hands.load(config(DNS), Membership())
        for read, begun in zip((hands.text, hands.counters), reading, strict=True):
            go.clear()
            waiting = asyncio.create_task(read())
            assert await asyncio.to_thread(begun.wait, 30)
            async with asyncio.timeout(20):
                await hands.update(Membership())
                assert await hands.hold()
            assert not waiting.done()
            go.set()
            await waiting
        hands.close()

    asyncio.run(scene())


def test_readers_who_left_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many who asked and went, only the reading that had begun is made."""
    begun, go = threading.Event(), threading.Event()
    made = []

    def slow_text(_: Ruleset) -> str:
        begun.set()
        go.wait(30)
        made.append(1)
        return ""

    monkeypatch.setattr(module, "file_text", slow_text)

    async def scene() -> None:
        hands = FakeHands()
        await hands.open()
        await hands.load(config(DNS), Membership())
        asked = [asyncio.create_task(hands.text()) for _ in range(20)]
        assert await asyncio.to_thread(begun.wait, 30)
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)
        go.set()
        hands.close()

    asyncio.run(scene())
    assert [1] == made


def test_the_text_is_of_what_was_accepted_last() -> None:
    """Empty before a load and after a removal."""

    async def scene() -> list[bool]:
        hands = FakeHands()
        await hands.open()
        found = [await hands.text()]
        await hands.load(config(DNS), Membership())
        found.append(await hands.text())
        await hands.remove(config(DNS))
        found.append(await hands.text())
        hands.close()
        return [bool(text) for text in found]

    assert [False, True, False] == asyncio.run(scene())
