"""How long this machine keeps a process waiting that only wants to go on: what timers of others may be late by."""

from __future__ import annotations

import time
from heapq import nlargest
from threading import Event, Thread
from typing import Self

NAP = 0.005


class Stalls:
    """A context manager: a thread sleeps for 5 ms again and again, and notes how much longer it took."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._enough = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def worst(self, since: float, times: int) -> float:
        """Return the seconds that something was at most late by which had to go on so many times since a moment."""
        return sum(nlargest(times, (late for at, late in self._seen if at > since)))

    def _run(self) -> None:
        before = time.monotonic()
        while not self._enough.wait(NAP):
            now = time.monotonic()
            self._seen.append((now, max(0.0, now - before - NAP)))
            before = now
