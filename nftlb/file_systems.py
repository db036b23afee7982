"""Looks at files whose file system may never answer, such as NFS without its server.

Threads look, and nobody waits longer than ANSWER_SECONDS for them: neither the event loop nor the end of the process.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from .own_thread import OwnThread, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ANSWER_SECONDS = 3.0
"""Seconds to wait for the answer of a file system. A local disk under load answers sooner, a dead server never."""

_threads: WeakValueDictionary[str, OwnThread] = WeakValueDictionary()
"""By directory: the files of a directory are mostly on the same file system. A running thread keeps its entry."""


async def answer_about(path: str, look: Callable[[], T], late: Callable[[T], object] | None = None) -> T:
    """Return the result of `look`, a function that uses a file. Raises its errors, and TimeoutError without an answer.

    `look` runs in the thread for the directory of the file. Without an answer, `look` goes on in this thread. Until the
    end of `look`, nobody waits for other looks at the directory. `late` gets a late result, in the same thread.
    """
    thread = _free_thread_for(path)
    try:
        return await thread.result(ANSWER_SECONDS, look, late)
    except StillRunning:
        raise _unanswered() from None


def wait_for_answer(path: str, look: Callable[[], T]) -> T:
    """As `answer_about`, for a caller outside of the event loop, which waits."""
    thread = _free_thread_for(path)
    try:
        return thread.wait_for_result(ANSWER_SECONDS, look)
    except StillRunning:
        raise _unanswered() from None


FRESH = 1.0
"""Seconds from a look at a file to the next: a thousand checks a second may use one file."""


class WatchedFile(Generic[T]):
    """What `look` makes of a file: made again when it is asked for and FRESH seconds old."""

    def __init__(self, path: str, look: Callable[[], T]) -> None:
        self._path = path
        self._look = look
        self._found: tuple[float, T] | None = None

    async def now(self) -> T:
        """Return what `look` made. Raises the errors of `answer_about`."""
        began = asyncio.get_running_loop().time()
        if self._found is not None and began < self._found[0] + FRESH:
            return self._found[1]
        found = await answer_about(self._path, self._look)
        self._found = began, found
        return found


def _free_thread_for(path: str) -> OwnThread:
    """Return the thread for the directory of a file. Raises TimeoutError if a look there has no answer for so long."""
    folder = os.path.dirname(path)  # noqa: PTH120 - Path.parent makes "." of ""
    thread = _threads.get(folder)
    if thread is None:
        thread = _threads[folder] = OwnThread("files")
    if thread.busy_for() > ANSWER_SECONDS:
        raise _unanswered()
    return thread


def _unanswered() -> TimeoutError:
    reason = f"its file system has not answered within {ANSWER_SECONDS:g} s, or this host is overloaded"
    return TimeoutError(errno.ETIMEDOUT, reason)
