"""Threads for work that may never end."""

from __future__ import annotations

import asyncio
import errno
import queue
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from nftlb import own_thread
from nftlb.own_thread import OwnThread, StillRunning

if TYPE_CHECKING:
    from concurrent.futures import Future


def test_work_is_done_in_order_in_one_thread() -> None:
    """Results and errors arrive, and all work is done by the same thread."""
    thread, order = OwnThread("test"), list[int]()
    done = [thread.submit(order.append, number) for number in range(10)]
    divided = thread.submit(divmod, 1, 0)
    names = [thread.submit(threading.get_ident) for _ in range(2)]
    assert isinstance(divided.exception(30), ZeroDivisionError)
    assert 1 == len({name.result(30) for name in names})
    assert [None] * 10 == [future.result(30) for future in done]
    assert list(range(10)) == order


ENDS = """
import threading
from nftlb.own_thread import OwnThread
begun = threading.Event()

def hang():
    begun.set()
    threading.Event().wait()

OwnThread("test").submit(hang)
begun.wait()
"""


def test_the_process_ends_while_work_hangs() -> None:
    """The interpreter does not wait for the thread."""
    subprocess.run([sys.executable, "-c", ENDS], timeout=50, check=True)


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time without work the thread ends, and the next work has another."""
    monkeypatch.setattr(own_thread, "IDLE_SECONDS", 0.01)
    thread = OwnThread("test")
    first = thread.submit(threading.current_thread).result(30)
    first.join(30)
    assert not first.is_alive()
    assert first is not thread.submit(threading.current_thread).result(30)


def test_no_further_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this process may have no further thread, the work fails with EAGAIN, and later work is done."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    thread = OwnThread("test")
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        error = thread.submit(int).exception(30)
    assert isinstance(error, OSError)
    assert errno.EAGAIN == error.errno
    assert 0 == thread.submit(int).result(30)


def test_cancelled_work_does_not_pile_up() -> None:
    """Work that was cancelled while an earlier piece hung is forgotten and not done."""
    thread, begun, go = OwnThread("test"), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait(30)

    hung = thread.submit(hang)
    assert begun.wait(30)
    assert thread.busy_for() > 0
    done: list[int] = []
    cancelled: list[Future[None]] = []
    for number in range(100):
        cancelled.append(thread.submit(done.append, number))
        assert cancelled[-1].cancel()
    last = thread.submit(done.append, 100)
    assert 1 == len(thread._waiting)
    go.set()
    hung.result(30)
    last.result(30)
    assert [100] == done


def test_the_result_of_work() -> None:
    """A result and an error arrive, also an error that looks like a missing answer."""

    def time_out() -> None:
        raise TimeoutError(errno.ETIMEDOUT, "of a file system")

    thread = OwnThread("test")
    assert 7 == asyncio.run(thread.result(30, lambda: 7))
    assert 7 == thread.wait_for_result(30, lambda: 7)
    with pytest.raises(TimeoutError, match="of a file system"):
        asyncio.run(thread.result(30, time_out))
    with pytest.raises(TimeoutError, match="of a file system"):
        thread.wait_for_result(30, time_out)


def test_work_that_hangs_is_not_waited_for() -> None:
    """StillRunning after the time; a result that comes later is passed on, and the thread goes on."""
    thread, began, go, late = OwnThread("test"), threading.Event(), threading.Event(), queue.Queue[int]()

    def hang() -> int:
        began.set()
        assert go.wait(30)
        return 7

    while not began.is_set():  # on a busy machine, the time can be over before the thread begins
        with pytest.raises(StillRunning):
            asyncio.run(thread.result(0.01, hang, late.put))
    with pytest.raises(StillRunning):
        thread.wait_for_result(0.01, hang)
    go.set()
    assert 7 == late.get(timeout=30)
    assert 8 == thread.wait_for_result(30, lambda: 8)
    assert late.empty()


def test_a_result_in_the_moment_of_a_cancellation() -> None:
    """A result that has arrived is passed on too if its task is cancelled before the task goes on."""
    thread, go, late = OwnThread("test"), threading.Event(), list[int]()

    def hang() -> int:
        assert go.wait(30)
        return 7

    async def test() -> None:
        waiting = asyncio.create_task(thread.result(30, hang, late.append))
        await asyncio.sleep(0)
        go.set()
        thread.submit(int).result(30)  # then the event loop has the result, but the task does not
        await asyncio.sleep(0)
        assert waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(test())
    assert [7] == late
