"""Events to those who listen, without ever waiting for one of them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nftlb.service import Event

BACKLOG = 4096
"""So many events a listener may be behind; then it loses the oldest."""


class Bus:
    """One loop's events."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, event: Event) -> None:
        for listener in self._listeners:
            listener.queue.append(event)
            listener.ready.set()

    async def events(self) -> AsyncIterator[Event]:
        """What is published from now on, that is, from the first `anext` on."""
        with self._listener() as listener:
            while True:
                while listener.queue:
                    yield listener.queue.popleft()
                listener.ready.clear()
                await listener.ready.wait()

    @contextmanager
    def _listener(self) -> Iterator[_Listener]:
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self.queue: deque[Event] = deque(maxlen=BACKLOG)
        self.ready = asyncio.Event()
