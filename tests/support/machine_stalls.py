"""Measures how long a busy machine kept processes waiting: their timers may be late by this time."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAP = 0.005


@dataclass(frozen=True)
class Mark:
    """A moment, and the seconds that each thread had waited for a processor until then."""

    at: float
    waited: dict[str, float]


class Stalls:
    """Watches processes inside `with`. A thread of this process also sleeps for 5 ms repeatedly.

    Longer sleeps show that the whole machine stands still, which its kernel does not count.
    """

    def __init__(self, watched: Callable[[], Iterable[int]]) -> None:
        """`watched` returns the process ids to watch."""
        self._watched = watched
        self._overslept: list[tuple[float, float]] = []
        self._enough = Event()
        self._thread = Thread(target=self._nap, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def mark(self) -> Mark:
        waited = {}
        for pid in self._watched():
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(OSError):  # the process has ended meanwhile
                    _ran, nanoseconds, _times = path.read_text(encoding="ascii").split()
                    waited[path.parent.name] = int(nanoseconds) / 1e9
        return Mark(time.monotonic(), waited)

    def since(self, mark: Mark, turns: int) -> float:
        """The most seconds that the processes can have lost in a number of consecutive steps."""
        waited = sum(now - mark.waited.get(thread, 0.0) for thread, now in self.mark().waited.items())
        return waited + sum(nlargest(turns, (late for at, late in self._overslept if at > mark.at)))

    def _nap(self) -> None:
        before = time.monotonic()
        while not self._enough.wait(NAP):
            now = time.monotonic()
            self._overslept.append((now, max(0.0, now - before - NAP)))
            before = now
