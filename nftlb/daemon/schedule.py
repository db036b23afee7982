"""Ten thousand things that each have their time: a heap that compares in C, and one timer of the loop's.

The loop's own timers are compared in Python, a dozen comparisons each time one is set or ends.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

EARLY = 0.005
"""Seconds by which a thing may begin before its time, together with one whose time has come. At two thousand a second
ten then share what waking up costs: 40 % of the processor time of checks (`python bench/checks.py`: 24 % of a core
became 14 %)."""


AT_ONCE = 64
"""Things that begin in one turn of the loop. After a stall thousands are due: without a limit these stall the loop
anew, and probes and commits with it."""


class Schedule(Generic[T]):
    """Calls `begin` with each thing and the time that it was due, on the loop's clock. Nothing can be taken out.

    A thing begins when its time has come, or up to EARLY before that, together with another.
    """

    def __init__(self, begin: Callable[[T, float], None]) -> None:
        self._begin = begin
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, due: float, thing: T) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), thing))
        if self._timer is None or due < self._timer.when():
            self._arm()

    def close(self) -> None:
        """Forget all."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._run)

    def _run(self) -> None:
        self._timer = None
        soon = asyncio.get_running_loop().time() + EARLY
        try:
            for _ in range(AT_ONCE):
                if not self._heap or self._heap[0][0] > soon:
                    break
                due, _, thing = heapq.heappop(self._heap)
                self._begin(thing, due)
        finally:
            if self._heap and self._timer is None:
                self._arm()
