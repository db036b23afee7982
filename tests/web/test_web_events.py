"""Server-sent events: sent to all clients that listen, until they leave or the server stops."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from fake_service import NOON, two_pools
from web_server import RunningApi, Streams, hang_up, head, run, serving, until

from nftlb.model import EventKind
from nftlb.service import Event
from nftlb.web import Limits

if TYPE_CHECKING:
    import pytest

DOWN = Event(
    id=77,
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


async def listen(api: RunningApi) -> Streams:
    """Begin to listen; return when the server's headers have arrived."""
    streams = await api.connect()
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


def test_format() -> None:
    """Each event has its kind, its id, and its JSON in a single line."""

    async def test() -> None:
        async with serving() as api:
            streams = await listen(api)
            api.service.emit(DOWN)
            api.service.emit(SWAP)
            identity, kind, data = (await read_block(streams)).split("\n")
            assert ("id: 77", "event: backend_down") == (identity, kind)
            assert Event.model_validate_json(data.removeprefix("data: ")) == DOWN
            assert re.search("^event: swap$", await read_block(streams), re.MULTILINE)

    run(test())


def test_all_listeners_receive_events() -> None:
    """All clients receive each event, also events just after the headers."""

    async def test() -> None:
        async with serving() as api:
            streams = [await listen(api) for _ in range(5)]
            api.service.emit(SWAP)
            assert all(["event: swap" in await read_block(stream) for stream in streams])

    run(test())


def test_comments() -> None:
    """Comments keep the connection alive if there are no events."""

    async def test() -> None:
        async with serving(limits=Limits(comment_seconds=0.05)) as api:
            streams = await listen(api)
            assert [":", ":", ":"] == [await read_block(streams) for _ in range(3)]

    run(test())


def test_a_listener_that_leaves() -> None:
    """A client that leaves is noticed at once, without an event, and does not count for the limit."""

    async def test() -> None:
        async with serving(limits=Limits(listeners=1)) as api:
            for _ in range(3):
                streams = await listen(api)
                (connection,) = api.connections
                assert len(api.service.listeners) == 1
                await hang_up(streams)
                await connection.lost.wait()
                await until(lambda: not api.service.listeners)

    run(test())


def test_too_many_listeners() -> None:
    """Response 503 for one client more than the limit; the others are not disturbed."""

    async def test() -> None:
        async with serving(limits=Limits(listeners=2)) as api:
            streams = [await listen(api) for _ in range(2)]
            answer = await api.get("/api/v1/events")
            assert (503, "2 clients receive events already; allowed: 2; try again later") == (
                answer.status,
                answer.error,
            )
            assert answer.headers["retry-after"] == "5"
            api.service.emit(SWAP)
            assert all(["event: swap" in await read_block(stream) for stream in streams])

    run(test())


def test_the_server_stops() -> None:
    """Every stream ends at once and properly, and the service has no subscriber left."""

    async def test() -> None:
        async with serving(limits=Limits(stop_seconds=60)) as api:
            streams = [await listen(api) for _ in range(3)]
            async with asyncio.timeout(30):
                await api.server.stop()
            assert [b"0\r\n\r\n"] * 3 == [await stream[0].read() for stream in streams]
            assert api.service.listeners == []

    run(test())


def test_the_service_ends() -> None:
    """When the service's events end, the stream ends."""

    async def test() -> None:
        async with serving() as api:
            streams = await listen(api)
            api.service.emit(None)
            assert await read_block(streams) == ""

    run(test())


def test_the_service_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the service ends the stream, is logged, and does not count for the limit afterwards."""

    async def test() -> None:
        service = two_pools()
        async with serving(service, limits=Limits(listeners=1)) as api:
            streams = await listen(api)
            service.emit("no event")  # type: ignore[arg-type]
            assert await read_block(streams) == ""
            await listen(api)

    run(test())
    assert [record.name for record in caplog.records][:1] == ["nftlb.web.events"]


def test_a_listener_that_does_not_read() -> None:
    """A client that does not read is disconnected: events must not fill the memory."""

    async def test() -> None:
        async with serving(limits=Limits(write_seconds=0.1)) as api:
            await listen(api)
            (connection,) = api.connections
            large = SWAP.model_copy(update={"reason": "x" * (1 << 20)})
            for _ in range(30):
                api.service.emit(large)
            async with asyncio.timeout(30):
                await connection.lost.wait()
            await until(lambda: not api.service.listeners)

    run(test())
