"""Server-sent events: what happens, to all who listen, until they leave or the server stops."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from fake_service import NOON, two_pools
from serving import Streams, World, hang_up, head, run, serving, until

from nftlb.service import Event, EventKind
from nftlb.web import Limits

if TYPE_CHECKING:
    import pytest

DOWN = Event(
    kind=EventKind.BACKEND_DOWN,
    at=NOON,
    pool="dns",
    backend="ns1",
    old="up",
    new="down",
    reason="two\nlines \u2028 and \u00e9",
    details={"seconds": 0.5},
)
SWAP = Event(kind=EventKind.SWAP, at=NOON)


async def listen(world: World) -> Streams:
    """Begin to listen; return when the server has said so."""
    streams = await world.connect()
    streams[1].write(head("GET", "/api/v1/events", {"Host": "localhost", "Accept": "text/event-stream"}))
    first = (await streams[0].readuntil(b"\r\n\r\n")).decode()
    assert first.startswith("HTTP/1.1 200 ")
    assert "Content-Type: text/event-stream; charset=utf-8\r\n" in first
    assert await read_block(streams) == ": nftlb\nretry: 2000"
    return streams


async def read_block(streams: Streams) -> str:
    """Read a chunk, which is one block of the stream."""
    size = int((await streams[0].readuntil(b"\r\n")).strip(), 16)
    chunk = (await streams[0].readexactly(size + 2)).removesuffix(b"\r\n").decode()
    return chunk.removesuffix("\n\n")


def test_events_are_told() -> None:
    """Each with its kind, when it happened, and itself as JSON in a single line."""

    async def test() -> None:
        async with serving() as world:
            streams = await listen(world)
            world.service.tell(DOWN)
            world.service.tell(SWAP)
            identity, kind, data = (await read_block(streams)).split("\n")
            assert ("id: 2026-01-02T12:00:00+00:00", "event: backend_down") == (identity, kind)
            assert Event.model_validate_json(data.removeprefix("data: ")) == DOWN
            assert re.search("^event: swap$", await read_block(streams), re.MULTILINE)

    run(test())


def test_all_listeners_are_told() -> None:
    """And what happens just after the headers is not lost to anyone."""

    async def test() -> None:
        async with serving() as world:
            streams = [await listen(world) for _ in range(5)]
            world.service.tell(SWAP)
            assert all(["event: swap" in await read_block(one) for one in streams])

    run(test())


def test_silence_is_filled() -> None:
    """Comments keep the connection alive where nothing happens."""

    async def test() -> None:
        async with serving(limits=Limits(comment_seconds=0.05)) as world:
            streams = await listen(world)
            assert [":", ":", ":"] == [await read_block(streams) for _ in range(3)]

    run(test())


def test_a_listener_that_leaves() -> None:
    """Is noticed at once, without anything happening, and its place is free again."""

    async def test() -> None:
        async with serving(limits=Limits(listeners=1)) as world:
            for _ in range(3):
                streams = await listen(world)
                (connection,) = world.connections
                assert len(world.service.listeners) == 1
                await hang_up(streams)
                await connection.lost.wait()
                await until(lambda: not world.service.listeners)

    run(test())


def test_too_many_listeners() -> None:
    """503 for one more than the limit; those who listen are not disturbed."""

    async def test() -> None:
        async with serving(limits=Limits(listeners=2)) as world:
            streams = [await listen(world) for _ in range(2)]
            answer = await world.get("/api/v1/events")
            assert (503, "2 listen already; allowed: no more") == (answer.status, answer.error)
            assert answer.headers["retry-after"] == "5"
            world.service.tell(SWAP)
            assert all(["event: swap" in await read_block(one) for one in streams])

    run(test())


def test_the_server_stops() -> None:
    """Every stream ends as HTTP wants it, at once, and no listener is left with the service."""

    async def test() -> None:
        async with serving(limits=Limits(stop_seconds=60)) as world:
            streams = [await listen(world) for _ in range(3)]
            async with asyncio.timeout(5):
                await world.server.stop()
            assert [b"0\r\n\r\n"] * 3 == [await one[0].read() for one in streams]
            assert world.service.listeners == []

    run(test())


def test_the_service_ends() -> None:
    """When there will be no more events, the stream ends."""

    async def test() -> None:
        async with serving() as world:
            streams = await listen(world)
            world.service.tell(None)
            assert await read_block(streams) == ""

    run(test())


def test_the_service_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the service ends the stream, is in the log, and takes nobody's place for ever."""

    async def test() -> None:
        service = two_pools()
        async with serving(service, limits=Limits(listeners=1)) as world:
            streams = await listen(world)
            service.tell("no event")  # type: ignore[arg-type]
            assert await read_block(streams) == ""
            await listen(world)

    run(test())
    assert [record.name for record in caplog.records][:1] == ["nftlb.web.events"]


def test_a_listener_that_does_not_read() -> None:
    """Is hung up on after a while: what happens is not kept for it in memory without end."""

    async def test() -> None:
        async with serving(limits=Limits(write_seconds=0.1)) as world:
            await listen(world)
            (connection,) = world.connections
            large = SWAP.model_copy(update={"reason": "x" * (1 << 20)})
            for _ in range(30):
                world.service.tell(large)
            async with asyncio.timeout(10):
                await connection.lost.wait()
            await until(lambda: not world.service.listeners)

    run(test())
