"""Events and faults of the daemon: published to listeners, who never delay the publisher, and shown in the status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nftlb.model import EventKind
from nftlb.printable import encodable
from nftlb.service import Event, Fault

from .history import EventHistory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

_log = logging.getLogger(__name__)

LISTENER_BACKLOG = 4096
"""The number of events that a listener may be behind. After that it loses the oldest."""


_AT_THE_SAME_TIME = 0.001
"""The most seconds between the readings of two clocks that are compared."""


def now() -> float:
    """Seconds of the running event loop's clock, which is the monotonic clock."""
    return asyncio.get_running_loop().time()


def wall(moment: float | None = None) -> datetime:
    """The time of day at a moment of the monotonic clock, as today's wall clock counts it; without a moment, now."""
    return datetime.fromtimestamp(time.time() if moment is None else moment + _offset(), UTC)


def _offset() -> float:
    """The seconds by which the wall clock is ahead of the monotonic clock now."""
    while True:
        before, wall_clock, after = time.monotonic(), time.time(), time.monotonic()
        if after - before < _AT_THE_SAME_TIME:  # else this thread waited for a processor between the two clocks
            return wall_clock - before


class Bus:
    """Numbers events, keeps the last of them, and passes them on to all listeners on one event loop."""

    def __init__(self, history: EventHistory | None = None) -> None:
        self.history = history or EventHistory()
        self._listeners: set[_Listener] = set()

    def publish(self, event: Event) -> None:
        """Pass an event on. Never waits."""
        event = self.history.add(event)
        for listener in self._listeners:
            listener.queue.append(event)
            listener.ready.set()

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """Yield the events that are published after the first `anext`; first the kept events with a higher id."""
        with self._listener() as listener:
            if after is not None:
                listener.queue += self.history.after(after)
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
        self.queue: deque[Event] = deque(maxlen=LISTENER_BACKLOG)
        self.ready = asyncio.Event()


class ActiveFaults:
    """The present faults by subject. Each is logged and published when it begins and when it ends."""

    def __init__(self, publish: Callable[[Event], None]) -> None:
        self._publish = publish
        self._present: dict[str, Fault] = {}

    def all(self) -> tuple[Fault, ...]:
        """The present faults."""
        return tuple(self._present.values())

    def set(self, what: str, message: str, pools: Iterable[str] = ()) -> None:
        """Record that something does not work. A fault with the same message is not reported again; "" clears it.

        `pools`: those that the fault concerns; none: it concerns the whole host.
        """
        if not message:
            self.clear(what)
            return
        message = encodable(message)  # the path of a file may have bytes that are not UTF-8
        at = wall()
        before = self._present.get(what)
        since = at if before is None else before.since
        self._present[what] = Fault(what=what, message=message, since=since, pools=tuple(pools))
        if before is not None and before.message == message:
            return
        _log.error("%s: %s", what, message, extra={"fields": {"event": EventKind.FAULT, "what": what}})
        self._publish(Event(kind=EventKind.FAULT, at=at, reason=message, details={"what": what}))

    def clear(self, what: str) -> None:
        """Record that something works, or works again."""
        if self._present.pop(what, None) is not None:
            _log.info("%s: works again", what, extra={"fields": {"event": EventKind.FAULT_GONE, "what": what}})
            self._publish(Event(kind=EventKind.FAULT_GONE, at=wall(), details={"what": what}))
