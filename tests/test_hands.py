"""The thread in which the kernel is written to."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest
from handiwork import FakeHands
from pools import DNS, config

from nftlb.compiler import Membership
from nftlb.daemon.hands import Hands
from nftlb.errors import KernelError, SystemFault


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
            await hands.text()
        hands.close()

    asyncio.run(scene())
