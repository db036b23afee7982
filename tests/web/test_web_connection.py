"""Connections: limits for clients that are slow, or many."""

from __future__ import annotations

import asyncio
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from fake_service import a_backend, a_pool, two_pools
from web_server import BEARER, RunningApi, Streams, hang_up, head, read_answer, run, serving, until

from nftlb.web import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from fake_service import FakeService

    from nftlb.web.connection import Connection

QUICK = 0.2
HEALTH = head("GET", "/healthz", {"Host": "localhost"})


async def in_time(begin: float, end: Awaitable[object]) -> bool:
    """Whether the connection ends when a limit of `QUICK` seconds is over that began then or a little later."""
    async with asyncio.timeout(20):
        await end
    return QUICK - 0.01 < time.monotonic() - begin < 9  # the shortest limit by default is 10 s


async def closed(streams: Streams) -> None:
    """Wait until the server closes the connection."""
    try:
        while await streams[0].read(1 << 16):
            pass
    except ConnectionResetError:
        pass


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_an_incomplete_head(sent: bytes) -> None:
    """A client that does not send a whole head in time is disconnected, after any part of the head."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK)) as api:
            begin = time.monotonic()
            streams = await api.connect()
            streams[1].write(sent)
            assert await in_time(begin, closed(streams))

    run(test())


def test_a_slow_head() -> None:
    """Single bytes, as slow-loris sends them, do not extend the limit."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK)) as api:
            begin = time.monotonic()
            streams = await api.connect()

            async def drip() -> None:
                streams[1].write(b"GET /healthz HTTP/1.1\r\n")
                while True:
                    await asyncio.sleep(QUICK / 10)
                    streams[1].write(b"a")

            dripping = asyncio.ensure_future(drip())
            assert await in_time(begin, closed(streams))
            dripping.cancel()

    run(test())


def test_a_slow_second_head() -> None:
    """The second request of a connection has the same limit, which begins with its first byte."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK, idle_seconds=60)) as api:
            streams = await api.connect()
            streams[1].write(HEALTH)
            assert (await read_answer(streams)).status == 200
            await asyncio.sleep(2 * QUICK)  # idle for longer than the limit for a head
            begin = time.monotonic()
            streams[1].write(b"GET /heal")
            assert await in_time(begin, closed(streams))

    run(test())


@pytest.mark.parametrize("before", [b"", HEALTH, HEALTH * 3])
def test_an_endless_head(before: bytes) -> None:
    """Many short headers get 431 after 64 KiB, in the first and in a later head, so that they use little memory."""

    async def test() -> None:
        async with serving() as api:
            streams = await api.connect()
            streams[1].write(before)
            for _ in range(before.count(b"GET")):
                assert (await read_answer(streams)).status == 200
            streams[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            for number in range(9):
                streams[1].write(f"X-{number}: {'x' * 8000}\r\n".encode())
            answer = await read_answer(streams)
            assert (431, "the head is too large; allowed: 64 KiB") == (answer.status, answer.error)
            await closed(streams)

    run(test())


def test_a_long_request() -> None:
    """A request that takes longer than the limit for its head is answered."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK)) as api:
            api.service.hold = asyncio.Event()
            asked = asyncio.ensure_future(api.ask("POST", "/api/v1/reload"))
            await asyncio.sleep(2 * QUICK)
            api.service.hold.set()
            assert (await asked).status == 200

    run(test())


def test_an_idle_connection() -> None:
    """A connection without a request is closed after a limit."""

    async def test() -> None:
        async with serving(limits=Limits(idle_seconds=QUICK)) as api:
            streams = await api.connect()
            begin = time.monotonic()
            streams[1].write(HEALTH)
            await read_answer(streams)
            assert await in_time(begin, closed(streams))

    run(test())


def test_a_missing_body() -> None:
    """Response 408, and the connection is closed."""

    async def test() -> None:
        async with serving(limits=Limits(body_seconds=QUICK)) as api:
            streams = await api.connect()
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "10", **BEARER}
            streams[1].write(head("PATCH", "/api/v1/pools/dns/backends/ns1", headers) + b"{")
            answer = await read_answer(streams)
            assert (408, "the body is incomplete after 0.2 s; allowed: less time") == (answer.status, answer.error)
            await closed(streams)
            assert api.service.done == []

    run(test())


def test_a_refusal_before_the_body() -> None:
    """A request without a token is refused before the first byte of its body."""

    async def test() -> None:
        async with serving() as api:
            streams = await api.connect()
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "60000"}
            streams[1].write(head("PATCH", "/api/v1/pools/dns/backends/ns1", headers))
            assert (await read_answer(streams)).status == 401
            await hang_up(streams)

    run(test())


async def connect_many(api: RunningApi, count: int) -> list[Streams]:
    """Open connections that send nothing, and wait until the server has accepted them."""
    many = [await api.connect() for _ in range(count)]
    await until(lambda: len(api.connections) >= min(count, api.server._limits.connections))
    return many


def test_slow_clients_do_not_block_others() -> None:
    """At the limit of connections the one that has been idle longest is closed, and a probe is answered."""

    async def test() -> None:
        async with serving(limits=Limits(connections=10)) as api:
            slow = await connect_many(api, 10)
            assert (await api.get("/healthz")).status == 200
            await closed(slow[0])
            assert len(api.connections) == 9
            slow[1][1].write(HEALTH)
            assert (await read_answer(slow[1])).status == 200

    run(test())


def test_a_flood_of_connections() -> None:
    """Far more connections than the limit: probes are answered all the time, and the limit holds."""

    async def test() -> None:
        async with serving(limits=Limits(connections=10)) as api:
            for _ in range(10):
                await connect_many(api, 30)
                assert (await api.get("/healthz")).status == 200
                assert len(api.connections) <= 10

    run(test())


def test_all_connections_busy() -> None:
    """If all connections are busy, a new connection is closed at once, and the others are not disturbed."""

    async def test() -> None:
        async with serving(limits=Limits(connections=3)) as api:
            api.service.hold = asyncio.Event()
            asked = [asyncio.ensure_future(api.ask("POST", "/api/v1/reload")) for _ in range(3)]
            await until(lambda: len(api.connections) == 3 and not api.server._connections._waiting)
            await closed(await api.connect())
            api.service.hold.set()
            assert [200, 200, 200] == [answer.status for answer in await asyncio.gather(*asked)]
            assert (await api.get("/healthz")).status == 200

    run(test())


def test_closed_connections_are_not_counted() -> None:
    """A closed connection does not count for the limit."""

    async def test() -> None:
        async with serving(limits=Limits(connections=5)) as api:
            for _ in range(20):
                assert (await api.get("/healthz")).status == 200
            connections = api.connections
            for connection in connections:
                await connection.lost.wait()
            assert (set(), {}) == (api.connections, api.server._connections._waiting)

    run(test())


def large_service() -> FakeService:
    """Return a service whose status is much larger than the kernel's buffers."""
    service = two_pools()
    service.put(a_pool("large", *(a_backend(f"b{number}", reason="x" * 4000) for number in range(4000))))
    return service


async def connect_slow(api: RunningApi) -> socket.socket:
    """Request the status through a socket with a small buffer, and read nothing."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, (str(api.server.bound.address), api.server.bound.port))  # type: ignore[union-attr]
    await loop.sock_sendall(slow, head("GET", "/api/v1/status", {"Host": "localhost"}))
    return slow


def another_waits(api: RunningApi, others: set[Connection]) -> bool:
    """Whether a connection other than `others` has not taken its response."""
    return any(connection.unsent for connection in api.connections - others)


def test_a_slow_reader() -> None:
    """A client that does not read its response in time is disconnected, and the memory is freed."""

    async def test() -> None:
        async with serving(large_service(), limits=Limits(write_seconds=QUICK)) as api:
            begin = time.monotonic()
            with await connect_slow(api):
                await until(lambda: api.connections)
                (connection,) = api.connections
                assert await in_time(begin, connection.lost.wait())
                assert (0, set()) == (connection.unsent, api.connections)

    run(test())


def test_many_slow_readers() -> None:
    """All unread responses together stay below the limit; the oldest connections are closed for new ones."""

    async def test() -> None:
        limits = Limits(unsent=40 << 20)
        async with serving(large_service(), limits=limits) as api:
            slow = []
            for _ in range(6):
                others = api.connections
                slow.append(await connect_slow(api))
                await until(partial(another_waits, api, others))
            held = {id(connection.body): len(connection.body) for connection in api.connections}
            assert 8 << 20 < max(held.values())
            assert sum(held.values()) <= limits.unsent
            assert len(api.connections) < 6
            assert max(connection.unsent for connection in api.connections) < 1 << 20
            assert (await api.get("/healthz")).status == 200
            for sock in slow:
                sock.close()

    run(test())


def test_slow_readers_share_a_body() -> None:
    """Clients that asked at the same time share one response in memory, and no connection is closed."""

    async def test() -> None:
        async with serving(large_service(), limits=Limits(unsent=20 << 20)) as api:
            slow = [await connect_slow(api)]
            await until(lambda: any(connection.unsent for connection in api.connections))
            # The next response is made after a pause; all these clients have asked by then.
            slow += [await connect_slow(api) for _ in range(20)]
            slow.pop(0).close()
            await until(lambda: sum(bool(connection.unsent) for connection in api.connections) == 20)
            assert len({id(connection.body) for connection in api.connections}) == 1
            assert sum(connection.unsent for connection in api.connections) < 20 << 18
            for sock in slow:
                sock.close()

    run(test())


def test_the_server_stops_while_many_read(caplog: pytest.LogCaptureFixture) -> None:
    """Those who do not take their responses, and those who wait for an answer, are closed after one `stop_seconds`."""

    async def test() -> None:
        async with serving(large_service(), limits=Limits(stop_seconds=3, unsent=1 << 30)) as api:
            slow = [await connect_slow(api) for _ in range(50)]
            await until(lambda: sum(bool(connection.unsent) for connection in api.connections) == len(slow))
            api.service.hold = asyncio.Event()
            waiting = [asyncio.ensure_future(api.ask("POST", "/api/v1/reload")) for _ in range(5)]
            await api.service.begun.wait()
            connections = api.connections
            begin = time.monotonic()
            await api.server.stop()
            assert 3 <= time.monotonic() - begin < 5.9
            assert all(connection.lost.is_set() for connection in connections)
            await asyncio.gather(*waiting, return_exceptions=True)
            for sock in slow:
                sock.close()

    run(test())
    assert [] == caplog.records
