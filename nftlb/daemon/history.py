"""The last events of the daemon: numbered, limited in memory, and kept over a restart as lines of JSON. No I/O."""

from __future__ import annotations

import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nftlb.printable import encodable
from nftlb.service import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model import EventKind

_log = logging.getLogger(__name__)

KEPT = 1000
"""The number of events that are kept."""
LONGEST = 4000
"""The most characters of the reason of an event: a file with a thousand faults must not fill the memory."""
BETWEEN = ", "
"""What is between the names of `backends`, in the details of an event."""
MOST_BYTES = 16 << 20
"""More than KEPT events can take as text, with characters of four bytes and all of them escaped."""


class EventHistory:
    """The last KEPT events.

    Each event gets an id, which is higher than all ids before: the milliseconds since 1970, or one more than the id
    before. So ids also increase over a restart that has lost the kept events.
    """

    def __init__(self, text: bytes = b"") -> None:
        """`text`: what `text()` returned before the restart. Lines that can't be read are left out."""
        self._events: deque[Event] = deque(_read(text), maxlen=KEPT)
        self._last = self._events[-1].id if self._events else 0

    @property
    def last(self) -> int:
        """The id of the last event; 0 without one."""
        return self._last

    def add(self, event: Event) -> Event:
        """Keep an event. Return the event with its id."""
        self._last = max(self._last + 1, int(event.at.timestamp() * 1000))
        kept = event.model_copy(
            update={
                "id": self._last,
                **{name: _encodable(getattr(event, name)) for name in ("pool", "backend", "old", "new", "details")},
                "reason": _cut(encodable(event.reason)),
            }
        )
        self._events.append(kept)
        return kept

    def after(self, id_: int) -> list[Event]:
        """The kept events with a higher id, the oldest first."""
        return [event for event in self._events if event.id > id_]

    def find(
        self,
        *,
        pool: str | None = None,
        backend: str | None = None,
        kind: EventKind | None = None,
        before: int | None = None,
        limit: int = KEPT,
    ) -> tuple[Event, ...]:
        """The last events that fit, the newest first, at most `limit`."""
        found = (
            event
            for event in reversed(self._events)
            if (pool is None or event.pool == pool)
            and (backend is None or _concerns(event, backend))
            and (kind is None or event.kind is kind)
            and (before is None or event.id < before)
        )
        return tuple(islice(found, limit))

    def kept(self) -> tuple[Event, ...]:
        """All kept events, the oldest first."""
        return tuple(self._events)


def _concerns(event: Event, backend: str) -> bool:
    return event.backend == backend or backend in event.details.get("backends", "").split(BETWEEN)


def events_text(events: tuple[Event, ...]) -> bytes:
    """The text of events, for the constructor of the next EventHistory. Takes milliseconds."""
    return b"".join(_lines(events))


def _lines(events: Iterable[Event]) -> Iterator[bytes]:
    """The line of each event. An event that can't be written is left out: the others must not be lost with it."""
    for event in events:
        try:
            yield event.model_dump_json().encode() + b"\n"
        except ValueError as error:
            _log.warning("an event %s is not saved: %s", event.kind, error)


def _read(text: bytes) -> Iterator[Event]:
    """Read events. A line of another version of nftlb may not fit, and an id must be higher than those before."""
    last = 0
    for line in text[:MOST_BYTES].splitlines():
        try:
            event = Event.model_validate_json(line)
        except ValidationError:
            continue
        if event.id > last:
            last = event.id
            yield event


def _encodable(value: Any) -> Any:
    """Texts without characters that JSON can't hold: one of them would stop every reader of the history."""
    match value:
        case str():
            return encodable(value)
        case dict():
            return {_encodable(key): _encodable(part) for key, part in value.items()}
        case list() | tuple():
            return [_encodable(part) for part in value]
    return value


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
