"""Events reach all listeners, and faults are reported once."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from nftlb.daemon.events import LISTENER_BACKLOG, ActiveFaults, Bus, wall
from nftlb.model import EventKind
from nftlb.service import Event

if TYPE_CHECKING:
    import pytest


def event(number: int) -> Event:
    return Event(kind=EventKind.SWAP, at=wall(), details={"number": number})


async def listening(bus: Bus) -> tuple[asyncio.Task[list[int]], asyncio.Event]:
    """Collect events until event -1."""
    received_first = asyncio.Event()

    async def listen() -> list[int]:
        numbers = []
        events = bus.events()
        async for received in events:
            numbers.append(received.details["number"])
            received_first.set()
            if numbers[-1] < 0:
                break
        await events.aclose()  # type: ignore[attr-defined]
        return numbers

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    return task, received_first


def test_all_listeners_get_all_events_in_order() -> None:
    """Every listener gets the events that are published while it listens, in order."""

    async def scene() -> tuple[list[int], list[int]]:
        bus = Bus()
        bus.publish(event(0))
        first, received_first = await listening(bus)
        bus.publish(event(1))
        await received_first.wait()
        second, _ = await listening(bus)
        for number in (2, 3, -1):
            bus.publish(event(number))
        return await first, await second

    assert ([1, 2, 3, -1], [2, 3, -1]) == asyncio.run(scene())


def test_a_slow_listener_loses_the_oldest() -> None:
    """The bus never waits: a slow listener gets the latest LISTENER_BACKLOG events."""

    async def scene() -> list[int]:
        bus = Bus()
        task, _ = await listening(bus)
        for number in range(LISTENER_BACKLOG + 10):
            bus.publish(event(number))
        bus.publish(event(-1))
        return await task

    assert [*range(11, LISTENER_BACKLOG + 10), -1] == asyncio.run(scene())


def test_ended_listeners_are_forgotten() -> None:
    """Nothing is kept for a listener that has ended or was cancelled."""

    async def scene() -> int:
        bus = Bus()
        left, _ = await listening(bus)
        bus.publish(event(-1))
        await left
        cancelled, _ = await listening(bus)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await asyncio.get_running_loop().shutdown_asyncgens()
        return len(bus._listeners)

    assert 0 == asyncio.run(scene())


def test_a_repeated_fault_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """A repeated fault is logged and published once, until its message changes."""
    events: list[Event] = []
    faults = ActiveFaults(events.append)

    faults.set("state_dir", "disk full")
    faults.set("state_dir", "disk full")
    faults.set("state_dir", "read-only")

    assert ["state_dir: disk full", "state_dir: read-only"] == caplog.messages
    assert [(EventKind.FAULT, "disk full"), (EventKind.FAULT, "read-only")] == [
        (fault.kind, fault.reason) for fault in events
    ]
    assert [{"what": "state_dir"}] * 2 == [fault.details for fault in events]


def test_the_pools_of_a_fault_may_change() -> None:
    """A fault with the same message that concerns other pools is shown with these, and not reported again."""
    events: list[Event] = []
    faults = ActiveFaults(events.append)

    faults.set("name ns.lab", "no answer", ["dns"])
    faults.set("name ns.lab", "no answer", ["dns", "sip"])

    assert [("dns", "sip")] == [fault.pools for fault in faults.all()]
    assert 1 == len(events)


def test_an_empty_message_clears_a_fault() -> None:
    """A fault that is set with an empty message ends; without a fault, nothing is published."""
    events: list[Event] = []
    faults = ActiveFaults(events.append)

    for message in ("", "in use", "", ""):
        faults.set("api", message)

    assert () == faults.all()
    assert [EventKind.FAULT, EventKind.FAULT_GONE] == [event.kind for event in events]


def test_a_fault_lasts_until_it_is_cleared(caplog: pytest.LogCaptureFixture) -> None:
    """A fault keeps its start time when its message changes, and is not shown after its end."""
    caplog.set_level(logging.INFO, "nftlb")
    events: list[Event] = []
    faults = ActiveFaults(events.append)
    faults.set("api", "in use")
    (began,) = faults.all()
    faults.set("api", "not there")
    faults.set("kernel", "refused")

    assert [("api", "not there"), ("kernel", "refused")] == [(fault.what, fault.message) for fault in faults.all()]
    assert began.since == faults.all()[0].since

    faults.clear("api")
    assert ["kernel"] == [fault.what for fault in faults.all()]
    assert (EventKind.FAULT_GONE, {"what": "api"}) == (events[-1].kind, events[-1].details)
    assert "api: works again" == caplog.messages[-1]


def test_clearing_a_subject_without_a_fault_causes_no_event() -> None:
    """Clearing a subject without a fault causes no event."""
    events: list[Event] = []
    faults = ActiveFaults(events.append)

    faults.clear("api")

    assert [] == events
    assert () == faults.all()
