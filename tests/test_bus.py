"""Events to those who listen."""

from __future__ import annotations

import asyncio

from nftlb.daemon.bus import BACKLOG, Bus
from nftlb.daemon.clock import wall
from nftlb.service import Event, EventKind


def event(number: int) -> Event:
    return Event(kind=EventKind.SWAP, at=wall(), details={"number": number})


async def listening(bus: Bus) -> tuple[asyncio.Task[list[int]], asyncio.Event]:
    """Begin to listen; ends with event -1."""
    heard_first = asyncio.Event()

    async def listen() -> list[int]:
        heard = []
        events = bus.events()
        async for one in events:
            heard.append(one.details["number"])
            heard_first.set()
            if heard[-1] < 0:
                break
        await events.aclose()  # type: ignore[attr-defined]
        return heard

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    return task, heard_first


def test_all_listeners_hear_all_in_order() -> None:
    """Every listener hears what is published while it listens, in order."""

    async def scene() -> tuple[list[int], list[int]]:
        bus = Bus()
        bus.publish(event(0))
        one, heard = await listening(bus)
        bus.publish(event(1))
        await heard.wait()
        other, _ = await listening(bus)
        for number in (2, 3, -1):
            bus.publish(event(number))
        return await one, await other

    assert ([1, 2, 3, -1], [2, 3, -1]) == asyncio.run(scene())


def test_a_slow_listener_loses_the_oldest() -> None:
    """Nobody is waited for: who is too far behind hears the latest, and no more than is kept."""

    async def scene() -> list[int]:
        bus = Bus()
        task, _ = await listening(bus)
        for number in range(BACKLOG + 10):
            bus.publish(event(number))
        bus.publish(event(-1))
        return await task

    assert [*range(11, BACKLOG + 10), -1] == asyncio.run(scene())


def test_who_went_away_is_forgotten() -> None:
    """After a listener has left, nothing is kept for it, also if it was cancelled while it waited."""

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
