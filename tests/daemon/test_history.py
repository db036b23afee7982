"""The last events: numbered, found again, kept over a restart, and limited in memory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from nftlb.daemon.events import Bus
from nftlb.daemon.history import KEPT, LONGEST, MOST_BYTES, EventHistory, events_text
from nftlb.daemon.store import Store
from nftlb.model import EventKind
from nftlb.service import Event

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
FIRST = int(NOON.timestamp() * 1000)


def down(backend: str = "ns1", seconds: float = 0.0, pool: str = "dns", reason: str = "") -> Event:
    at = NOON + timedelta(seconds=seconds)
    return Event(kind=EventKind.BACKEND_DOWN, at=at, pool=pool, backend=backend, reason=reason)


def test_ids_increase() -> None:
    """An id is the time of the event in milliseconds, or one more than the id before: also if the clock goes back."""
    history = EventHistory()
    ids = [history.add(down(seconds=seconds)).id for seconds in (0.0, 0.0, 1.0, -60.0)]

    assert [FIRST, FIRST + 1, FIRST + 1000, FIRST + 1001] == ids


def test_events_are_found() -> None:
    """The newest event comes first; pool, backend, kind, id and number limit what is found."""
    history = EventHistory()
    for number, name in enumerate(("ns1", "ns2", "ns1")):
        history.add(down(name, float(number)))
    history.add(down("a", 3.0, pool="web"))
    history.add(Event(kind=EventKind.SWAP, at=NOON + timedelta(seconds=4)))

    def found(**wanted: object) -> list[int]:
        return [(event.id - FIRST) // 1000 for event in history.find(**wanted)]  # type: ignore[arg-type]

    assert [4, 3, 2, 1, 0] == found()
    assert [2, 1, 0] == found(pool="dns")
    assert [2, 0] == found(pool="dns", backend="ns1")
    assert [4] == found(kind=EventKind.SWAP)
    assert [1, 0] == found(before=FIRST + 2000)
    assert [4, 3] == found(limit=2)
    assert [] == found(pool="none")


def test_a_restart_keeps_events(tmp_path: Path) -> None:
    """The next daemon has the events, and goes on with higher ids, even if its clock is behind."""
    before, store = EventHistory(), Store(str(tmp_path), "nftlb")
    for number in range(3):
        before.add(
            down(
                f"ns{number}",
                reason="two\nlines \u2028 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
            )
        )
    store.keep_events(events_text(before.kept()))

    after = EventHistory(store.events())
    assert before.kept() == after.kept()
    assert before.last + 1 == after.add(down(seconds=-3600)).id


def test_a_damaged_file_stops_nothing(tmp_path: Path) -> None:
    """Lines that can't be read, or that another version wrote, are left out. A missing file, or a folder, has none."""
    good = events_text((EventHistory().add(down()),))
    damaged = b"\xff\n{\n" + good + b'{"kind": "of the future", "at": "2026-01-02T12:00:00Z", "id": 9}\n' + good[:20]

    assert ["ns1"] == [event.backend for event in EventHistory(damaged).kept()]
    store = Store(str(tmp_path), "nftlb")
    assert b"" == store.events()
    (tmp_path / "nftlb.events").mkdir()
    assert b"" == store.events()


def test_the_memory_is_limited() -> None:
    """A thousand events are kept, each with a part of a long reason."""
    history = EventHistory()
    for _ in range(KEPT + 10):
        history.add(down(reason="\u2028" * 100_000))

    kept = history.kept()
    assert KEPT == len(kept)
    assert {LONGEST} == {len(event.reason) for event in kept}
    assert len(events_text(kept)) < MOST_BYTES


def test_no_text_stops_the_readers() -> None:
    """Characters that UTF-8 does not have, such as bytes of a file name, are kept as escape sequences."""
    history, half = EventHistory(), "\ud800 \udcff"
    event = down(half, pool=half, reason=half).model_copy(update={"old": half, "new": half})
    history.add(event.model_copy(update={"details": {half: [half, 1, {"who": half}]}}))

    (kept,) = history.kept()
    shown = "\\ud800 \\xff"
    assert [shown] * 5 == [kept.pool, kept.backend, kept.old, kept.new, kept.reason]
    assert {shown: [shown, 1, {"who": shown}]} == kept.details
    assert (kept,) == EventHistory(events_text((kept,))).kept()


def test_an_event_that_cant_be_written_costs_no_other() -> None:
    """The events before and after it are saved, and a line in the log names its kind."""
    assert 2 == events_text((down("ns1"), down("\ud800"), down("ns2"))).count(b"\n")


def test_a_listener_continues_without_a_gap() -> None:
    """A listener that names an id gets the kept events after it, and then the new events, each once."""

    async def scene() -> list[str]:
        bus = Bus()
        for name in ("a", "b", "c"):
            bus.publish(down(name))
        events = bus.events(bus.history.kept()[0].id)
        names = [(await anext(events)).backend]
        bus.publish(down("d"))
        names += [(await anext(events)).backend for _ in range(2)]
        await events.aclose()  # type: ignore[attr-defined]
        return names

    assert ["b", "c", "d"] == asyncio.run(scene())
