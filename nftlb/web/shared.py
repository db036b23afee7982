"""Answers that take work: one is made at a time, for all who have asked by then, and with rests in between.

However many ask, and however often, the daemon works no more for them than for a few; checks and commits go first.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

REST = 4
"""After an answer was made, so many times as long as that took: a fifth of the loop's time, at most, is for readers."""
LONGEST_REST = 2.0
"""Seconds: those who wait for the next answer must get that in time too."""
RETRY_AFTER = "2"


@dataclass(eq=False)
class _Round:
    """One answer, to be made or in the making, and how many wait for it."""

    task: asyncio.Task[bytes]
    waiting: int = 0


class Shared:
    """Makes answers for up to `most` who wait at the same time.

    Who asks gets an answer whose making began after that: what was changed before the question is in it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._next: dict[str, _Round] = {}
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    async def get(self, what: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Give the answer of that name; whoever asks for the same before the making begins waits for the same bytes.

        Refused with 503 where too many wait already. Raises what `make` raises.
        """
        with self._place():
            round_ = self._next.get(what)
            if round_ is None:
                round_ = self._next[what] = _Round(asyncio.create_task(self._make(what, make)))
            round_.waiting += 1
            try:
                return await asyncio.shield(round_.task)
            finally:
                round_.waiting -= 1
                if not round_.waiting and not round_.task.done():  # everybody left: the work has no use
                    round_.task.cancel()
                    self._begin(what, round_.task)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._waiting >= self._most:
            message = (
                f"{self._most} requests wait for an answer of this size already; allowed: no more; ask again later"
            )
            raise Refused(503, message, headers={"Retry-After": RETRY_AFTER})
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _make(self, what: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(self._not_before - loop.time())
            self._begin(what, asyncio.current_task())
            began = loop.time()
            try:
                return await make()
            finally:
                ended = loop.time()
                self._not_before = ended + min(LONGEST_REST, REST * (ended - began))

    def _begin(self, what: str, task: asyncio.Task[bytes] | None) -> None:
        """Let nobody else wait for this one."""
        if what in self._next and self._next[what].task is task:
            del self._next[what]
