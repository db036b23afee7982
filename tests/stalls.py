"""How long a machine that others use too has kept processes waiting: what their timers may be late by."""

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
    """A moment, and for how many seconds each thread had waited for a processor by then."""

    at: float
    waited: dict[str, float]


class Stalls:
    """A context manager that watches processes. A thread of ours also naps for 5 ms again and again.

    How much longer that takes shows where the whole machine stands still, which its kernel doesn't count.
    """

    def __init__(self, watched: Callable[[], Iterable[int]]) -> None:
        """`watched` says whose processes are meant, by their numbers."""
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
                with suppress(OSError):  # it has ended meanwhile
                    _ran, nanoseconds, _times = path.read_text(encoding="ascii").split()
                    waited[path.parent.name] = int(nanoseconds) / 1e9
        return Mark(time.monotonic(), waited)

    def since(self, mark: Mark, turns: int) -> float:
        """Return the seconds that the processes lost at most, if they had to go on so many times one after another."""
        waited = sum(now - mark.waited.get(thread, 0.0) for thread, now in self.mark().waited.items())
        return waited + sum(nlargest(turns, (late for at, late in self._overslept if at > mark.at)))

    def _nap(self) -> None:
        before = time.monotonic()
        while not self._enough.wait(NAP):
            now = time.monotonic()
            self._overslept.append((now, max(0.0, now - before - NAP)))
            before = now
