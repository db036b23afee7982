"""A thread for work that may never end, such as a read from a network file system without its server.

The threads of Python's ThreadPoolExecutor are joined when the process ends: the process would not end before the work.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import os
import time
from collections import deque
from concurrent.futures import Executor, Future
from functools import partial
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

IDLE_SECONDS = 60.0
"""Seconds without work after which a thread ends. The next work starts another thread."""


class StillRunning(TimeoutError):  # noqa: N818 - the work may end later
    """Work has not ended in time."""


class _Work(NamedTuple):
    future: Future[Any]
    function: Callable[[], Any]


class OwnThread(Executor):
    """Does work in a thread, piece by piece, in order. The process can end while a piece hangs.

    If this process may have no further thread, the work fails with OSError.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: deque[_Work] = deque()
        self._changed = Condition()
        self._alive = False
        self._since: float | None = None

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do a piece of work after the earlier pieces."""
        work = _Work(Future(), partial(function, *args, **kwargs))
        with self._changed:
            # While a piece hangs, those behind it are cancelled one after the other, and more come.
            while self._waiting and self._waiting[0].future.cancelled():
                self._waiting.popleft()
            self._waiting.append(work)
            if self._alive:
                self._changed.notify()
            else:
                self._start()
        return work.future

    async def result(self, seconds: float, function: Callable[[], T], late: Callable[[T], object] | None = None) -> T:
        """Do a piece of work, and return its result or raise its error. Raises StillRunning after `seconds`.

        `late` gets a result that nobody waits for any more, in the thread of the work; in the calling thread if the
        work ended when the wait did.
        """
        work = self.submit(function)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await asyncio.wrap_future(work)
        except BaseException as error:
            if late is not None:
                work.add_done_callback(partial(_pass_on, late))
            if isinstance(error, TimeoutError) and limit.expired():  # else the work itself raised the error
                raise StillRunning from None
            raise

    def wait_for_result(self, seconds: float, function: Callable[[], T]) -> T:
        """As `result`, but the calling thread waits."""
        work = self.submit(function)
        concurrent.futures.wait([work], seconds)
        if work.cancel() or not work.done():
            raise StillRunning
        return work.result()

    def busy_for(self) -> float:
        """Seconds since the present piece of work began; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _start(self) -> None:
        try:
            Thread(target=self._run, name=self._name, daemon=True).start()
            self._alive = True
        except RuntimeError:
            self._waiting.pop().future.set_exception(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._waiting, IDLE_SECONDS):
                    self._alive = False
                    return
                work = self._waiting.popleft()
                self._since = time.monotonic()
            if work.future.set_running_or_notify_cancel():
                _do(work)
            self._since = None
            del work  # its result may be large


def _pass_on(late: Callable[[T], object], work: Future[T]) -> None:
    if not work.cancelled() and work.exception() is None:
        late(work.result())


def _do(work: _Work) -> None:
    try:
        result = work.function()
    except BaseException as error:  # noqa: BLE001 - who waits for the work gets the error
        work.future.set_exception(error)
    else:
        work.future.set_result(result)
