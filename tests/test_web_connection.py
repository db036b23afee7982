"""Connections: nobody takes up the daemon by being slow, or many."""

from __future__ import annotations

import asyncio
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from fake_service import a_backend, a_pool, two_pools
from serving import BEARER, Streams, World, hang_up, head, read_answer, run, serving, until

from nftlb.web import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from fake_service import FakeService

    from nftlb.web.connection import Connection

QUICK = 0.2
HEALTH = head("GET", "/healthz", {"Host": "localhost"})


async def in_time(begin: float, end: Awaitable[object]) -> bool:
    """Whether it ends when a limit of `QUICK` that began then, or a little later, wants it."""
    async with asyncio.timeout(10):
        await end
    return QUICK - 0.01 < time.monotonic() - begin < QUICK + 5


async def closed(streams: Streams) -> None:
    """Wait for the server to hang up."""
    try:
        while await streams[0].read(1 << 16):
            pass
    except ConnectionResetError:
        pass


@pytest.mark.parametrize("sent", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_come(sent: bytes) -> None:
    """Who does not send a whole head in time is hung up on, however much of it has come."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK)) as world:
            begin = time.monotonic()
            streams = await world.connect()
            streams[1].write(sent)
            assert await in_time(begin, closed(streams))

    run(test())


def test_a_head_that_drips() -> None:
    """A byte now and then does not buy more time: that is what slow-loris does."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK)) as world:
            begin = time.monotonic()
            streams = await world.connect()

            async def drip() -> None:
                streams[1].write(b"GET /healthz HTTP/1.1\r\n")
                while True:
                    await asyncio.sleep(QUICK / 10)
                    streams[1].write(b"a")

            dripping = asyncio.ensure_future(drip())
            assert await in_time(begin, closed(streams))
            dripping.cancel()

    run(test())


def test_a_second_head_that_drips() -> None:
    """Nor is there more time for the second request of a connection, whose wait until it began was another limit."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK, idle_seconds=60)) as world:
            streams = await world.connect()
            streams[1].write(HEALTH)
            assert (await read_answer(streams)).status == 200
            await asyncio.sleep(2 * QUICK)  # idle for longer than a head may take
            begin = time.monotonic()
            streams[1].write(b"GET /heal")
            assert await in_time(begin, closed(streams))

    run(test())


@pytest.mark.parametrize("before", [b"", HEALTH, HEALTH * 3])
def test_a_head_without_end(before: bytes) -> None:
    """Many headers, each short enough: 431 after 64 KiB, and not a megabyte for each connection. Also a later head."""

    async def test() -> None:
        async with serving() as world:
            streams = await world.connect()
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


def test_a_whole_head_ends_its_limit() -> None:
    """A request that takes longer than its head may is answered."""

    async def test() -> None:
        async with serving(limits=Limits(head_seconds=QUICK)) as world:
            world.service.hold = asyncio.Event()
            asked = asyncio.ensure_future(world.ask("POST", "/api/v1/reload"))
            await asyncio.sleep(2 * QUICK)
            world.service.hold.set()
            assert (await asked).status == 200

    run(test())


def test_an_idle_connection() -> None:
    """Between two requests there is a limit too."""

    async def test() -> None:
        async with serving(limits=Limits(idle_seconds=QUICK)) as world:
            streams = await world.connect()
            begin = time.monotonic()
            streams[1].write(HEALTH)
            await read_answer(streams)
            assert await in_time(begin, closed(streams))

    run(test())


def test_a_body_that_does_not_come() -> None:
    """408, and the end of the connection."""

    async def test() -> None:
        async with serving(limits=Limits(body_seconds=QUICK)) as world:
            streams = await world.connect()
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "10", **BEARER}
            streams[1].write(head("PATCH", "/api/v1/pools/dns/backends/ns1", headers) + b"{")
            answer = await read_answer(streams)
            assert (408, "the body did not come within 0.2 s") == (answer.status, answer.error)
            await closed(streams)
            assert world.service.done == []

    run(test())


def test_a_body_that_nobody_asked_for() -> None:
    """Is not waited for: without a token, one is refused before the first byte of the body."""

    async def test() -> None:
        async with serving() as world:
            streams = await world.connect()
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "60000"}
            streams[1].write(head("PATCH", "/api/v1/pools/dns/backends/ns1", headers))
            assert (await read_answer(streams)).status == 401
            await hang_up(streams)

    run(test())


async def connect_many(world: World, count: int) -> list[Streams]:
    """Open connections that send nothing, and see that the server has them."""
    many = [await world.connect() for _ in range(count)]
    await until(lambda: len(world.connections) >= min(count, world.server._limits.connections))
    return many


def test_slow_clients_do_not_keep_others_out() -> None:
    """When all places are taken, who has been waiting for longest goes, and a probe is answered."""

    async def test() -> None:
        async with serving(limits=Limits(connections=10)) as world:
            slow = await connect_many(world, 10)
            assert (await world.get("/healthz")).status == 200
            await closed(slow[0])
            assert len(world.connections) == 9
            slow[1][1].write(HEALTH)
            assert (await read_answer(slow[1])).status == 200

    run(test())


def test_a_flood_of_connections() -> None:
    """Far more than there are places: probes are answered all the while, and the limit holds."""

    async def test() -> None:
        async with serving(limits=Limits(connections=10)) as world:
            for _ in range(10):
                await connect_many(world, 30)
                assert (await world.get("/healthz")).status == 200
                assert len(world.connections) <= 10

    run(test())


def test_no_place_at_all() -> None:
    """When every place is at work, a new connection is closed at once, and the others are not disturbed."""

    async def test() -> None:
        async with serving(limits=Limits(connections=3)) as world:
            world.service.hold = asyncio.Event()
            asked = [asyncio.ensure_future(world.ask("POST", "/api/v1/reload")) for _ in range(3)]
            await until(lambda: len(world.connections) == 3 and not world.server._room._waiting)
            await closed(await world.connect())
            world.service.hold.set()
            assert [200, 200, 200] == [answer.status for answer in await asyncio.gather(*asked)]
            assert (await world.get("/healthz")).status == 200

    run(test())


def test_all_places_come_back() -> None:
    """A connection that is gone leaves nothing behind."""

    async def test() -> None:
        async with serving(limits=Limits(connections=5)) as world:
            for _ in range(20):
                assert (await world.get("/healthz")).status == 200
            connections = world.connections
            for connection in connections:
                await connection.lost.wait()
            assert (set(), {}) == (world.connections, world.server._room._waiting)

    run(test())


def large_service() -> FakeService:
    """Make a service whose status is much larger than what the kernel's buffers take."""
    service = two_pools()
    service.put(a_pool("large", *(a_backend(f"b{number}", reason="x" * 4000) for number in range(4000))))
    return service


async def connect_slow(world: World) -> socket.socket:
    """Ask for the status, through a socket with a small buffer, and read nothing."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, (str(world.server.bound.address), world.server.bound.port))  # type: ignore[union-attr]
    await loop.sock_sendall(slow, head("GET", "/api/v1/status", {"Host": "localhost"}))
    return slow


def another_waits(world: World, others: set[Connection]) -> bool:
    """Whether there is a connection, besides the others, that has not taken its response."""
    return any(connection.unsent for connection in world.connections - others)


def test_a_slow_reader() -> None:
    """Who does not take a response in time is hung up on, and its memory is free again."""

    async def test() -> None:
        async with serving(large_service(), limits=Limits(write_seconds=QUICK)) as world:
            begin = time.monotonic()
            with await connect_slow(world):
                await until(lambda: world.connections)
                (connection,) = world.connections
                assert await in_time(begin, connection.lost.wait())
                assert (0, set()) == (connection.unsent, world.connections)

    run(test())


def test_many_slow_readers() -> None:
    """All together hold no more than the limit, and the oldest of them go for the new ones."""

    async def test() -> None:
        limits = Limits(unsent=40 << 20)
        async with serving(large_service(), limits=limits) as world:
            slow = []
            for _ in range(6):
                others = world.connections
                slow.append(await connect_slow(world))
                await until(partial(another_waits, world, others))
            held = {id(one.body): len(one.body) for one in world.connections}
            assert 8 << 20 < max(held.values())
            assert sum(held.values()) <= limits.unsent
            assert len(world.connections) < 6
            assert max(connection.unsent for connection in world.connections) < 1 << 20
            assert (await world.get("/healthz")).status == 200
            for sock in slow:
                sock.close()

    run(test())


def test_slow_readers_share_a_body() -> None:
    """Those who asked together get the same bytes: the memory of one answer, and nobody has to go."""

    async def test() -> None:
        async with serving(large_service(), limits=Limits(unsent=20 << 20)) as world:
            slow = [await connect_slow(world)]
            await until(lambda: any(connection.unsent for connection in world.connections))
            # The next answer is made after a rest; all these have asked by then.
            slow += [await connect_slow(world) for _ in range(20)]
            slow.pop(0).close()
            await until(lambda: sum(bool(connection.unsent) for connection in world.connections) == 20)
            assert len({id(connection.body) for connection in world.connections}) == 1
            assert sum(connection.unsent for connection in world.connections) < 20 << 18
            for sock in slow:
                sock.close()

    run(test())
