"""The API of the daemon: where the configuration wants it, as soon as it can be had there."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

import pytest
from fake_service import two_pools
from pools import DNS, config

from nftlb.daemon import api as module
from nftlb.daemon.api import ApiServer
from nftlb.daemon.faults import Faults
from nftlb.lab import Namespace
from nftlb.metrics import Metrics
from nftlb.model import Api, Endpoint, UnixSocket
from nftlb.service import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nftlb.model import Config

PORT = 9146


class World:
    """An API server with a fake service; `events` are those of its faults."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[EventKind, str]] = asyncio.Queue()
        self.faults = Faults(self._publish)
        self.server = ApiServer(two_pools(), Metrics(), self.faults)

    def _publish(self, event: Event) -> None:
        self.told.put_nowait((event.kind, str(event.details["what"])))

    async def next(self) -> tuple[EventKind, str]:
        """Wait for a fault to begin or to end."""
        async with asyncio.timeout(20):
            return await self.told.get()

    @property
    def shown(self) -> list[str]:
        return [one.what for one in self.faults.all()]


@asynccontextmanager
async def running(first: Config) -> AsyncIterator[World]:
    world = World()
    world.server.follow(first)
    task = asyncio.create_task(world.server.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.02)


def on(address: str) -> Config:
    return replace(config(DNS), api=Api(listen=Endpoint(IPv4Address(address), PORT)))


def at(path: Path, tokens: Path | None = None) -> Config:
    return replace(config(DNS), api=Api(listen=UnixSocket(str(path)), token_file=str(tokens) if tokens else None))


Where: TypeAlias = "Path | tuple[str, int]"


async def connect(where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(where, tuple):
        return await asyncio.open_connection(*where)
    return await asyncio.open_unix_connection(str(where))


async def ask(where: Where, request: str, *headers: str) -> str:
    """The status line of an answer, once somebody listens there."""
    async with asyncio.timeout(20):
        while True:
            try:
                reader, writer = await connect(where)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)
        head = [f"{request} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(head).encode())
        line = await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        return line.decode().strip()


async def get(where: Where) -> str:
    return await ask(where, "GET /healthz")


async def reload(where: Where, token: str) -> int:
    """The status of a request for a reload."""
    return int((await ask(where, "POST /api/v1/reload", f"Authorization: Bearer {token}")).split()[1])


async def inode(path: Path) -> int:
    """Tell the socket that serves there from another of the same name."""
    await get(path)
    return os.stat(path).st_ino  # noqa: PTH116 - of a file in memory


async def refused(where: Where) -> None:
    """Wait until nobody listens there."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await connect(where)
            except ConnectionResetError:
                continue  # it was about to be closed
            except ConnectionRefusedError:
                return
            writer.close()
            await writer.wait_closed()


def test_it_serves_until_the_end(tmp_path: Path) -> None:
    """From the first configuration on; afterwards the socket is gone."""
    socket = tmp_path / "api"

    async def scene() -> str:
        async with running(at(socket)) as world:
            line = await get(socket)
            assert [] == world.shown
        return line

    assert "HTTP/1.1 200 OK" == asyncio.run(scene())
    assert not socket.exists()


def test_it_moves(tmp_path: Path) -> None:
    """Another configuration is followed; the same again changes nothing."""
    old, new = tmp_path / "old", tmp_path / "new"

    async def scene() -> tuple[str, bool]:
        async with running(at(old)) as world:
            await get(old)
            before = old.stat().st_ino
            world.server.follow(at(old))
            await get(old)
            assert before == old.stat().st_ino
            world.server.follow(at(new))
            return await get(new), old.exists()

    assert ("HTTP/1.1 200 OK", False) == asyncio.run(scene())


def test_an_address_that_can_not_be_had(tmp_path: Path) -> None:
    """It is a fault, and tried again until it can."""
    socket = tmp_path / "api"
    socket.write_text("a file")

    async def scene() -> None:
        async with running(at(socket)) as world:
            assert (EventKind.FAULT, "api") == await world.next()
            socket.unlink()
            assert (EventKind.FAULT_GONE, "api") == await world.next()
            assert "HTTP/1.1 200 OK" == await get(socket)

    asyncio.run(scene())


def test_it_stays_until_it_can_move(tmp_path: Path) -> None:
    """Who gave an address that can't be had finds the API where it was, with the fault in its status."""
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_text("a file")

    async def scene() -> bool:
        async with running(at(old)) as world:
            await get(old)
            world.server.follow(at(new))
            assert (EventKind.FAULT, "api") == await world.next()
            assert "HTTP/1.1 200 OK" == await get(old)
            new.unlink()
            assert (EventKind.FAULT_GONE, "api") == await world.next()
            assert "HTTP/1.1 200 OK" == await get(new)
            return old.exists()

    assert not asyncio.run(scene())


def test_an_address_that_is_wanted_no_longer(tmp_path: Path) -> None:
    """The fault goes when the configuration is back at where it serves."""
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_text("a file")

    async def scene() -> None:
        async with running(at(old)) as world:
            before = await inode(old)
            world.server.follow(at(new))
            assert (EventKind.FAULT, "api") == await world.next()
            world.server.follow(at(old))
            assert (EventKind.FAULT_GONE, "api") == await world.next()
            assert before == await inode(old)

    asyncio.run(scene())


def test_of_all_addresses_with_the_same_port() -> None:
    """One of them has to be left before 0.0.0.0 can be had; if that can't, the API is back where it was."""
    one, all_ = on("127.0.0.1"), on("0.0.0.0")  # noqa: S104 - in a namespace of its own

    async def scene() -> None:
        async with running(one) as world:
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.1", PORT))
            world.server.follow(all_)
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.2", PORT))
            world.server.follow(one)
            await refused(("127.0.0.2", PORT))
            with socket.create_server(("127.0.0.3", PORT)):
                world.server.follow(all_)
                assert (EventKind.FAULT, "api") == await world.next()
                assert "HTTP/1.1 200 OK" == await get(("127.0.0.1", PORT))
            assert (EventKind.FAULT_GONE, "api") == await world.next()
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.3", PORT))

    with Namespace("api") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.call(lambda: asyncio.run(scene()))


def test_connections_are_not_closed_again_and_again() -> None:
    """Ever fewer tries of an address that can't be had close those that are open; another address is tried at once."""

    async def closed(seconds: float) -> int:
        """How many connections, one after the other, were closed in that time."""
        number, until = 0, asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            with suppress(TimeoutError, ConnectionRefusedError, ConnectionResetError):
                reader, writer = await connect(("127.0.0.1", PORT))
                with closing(writer):
                    async with asyncio.timeout_at(until):
                        await reader.read()
                        number += 1
            await asyncio.sleep(0.001)
        return number

    async def scene() -> None:
        async with running(on("0.0.0.0")) as world:  # noqa: S104 - in a namespace of its own
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.1", PORT))
            world.server.follow(on("10.0.0.1"))
            assert (EventKind.FAULT, "api") == await world.next()
            assert await closed(1) <= 6  # after 0.02 s, 0.04 s and so on; every 0.02 s it would be 50
            world.server.follow(on("127.0.0.1"))
            assert (EventKind.FAULT_GONE, "api") == await world.next()
            await refused(("127.0.0.2", PORT))

    with Namespace("api") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.call(lambda: asyncio.run(scene()))


def test_other_tokens_at_the_same_address(tmp_path: Path) -> None:
    """They are taken without closing the socket."""
    at_, one, other = tmp_path / "api", tmp_path / "one", tmp_path / "other"
    one.write_text("first\n")
    other.write_text("second\n")
    one.chmod(0o600)
    other.chmod(0o600)

    async def scene() -> list[int]:
        async with running(at(at_, one)) as world:
            before = await inode(at_)
            statuses = [await reload(at_, "first")]
            world.server.follow(at(at_, other))
            async with asyncio.timeout(20):
                while await reload(at_, "first") != HTTPStatus.UNAUTHORIZED:
                    pass
            statuses.append(await reload(at_, "second"))
            assert before == await inode(at_)
            return statuses

    assert [HTTPStatus.OK, HTTPStatus.OK] == asyncio.run(scene())


def test_a_token_file_that_can_not_be_read(tmp_path: Path) -> None:
    """It is shown though nobody uses it, until it is there; the API reads meanwhile."""
    socket, tokens = tmp_path / "api", tmp_path / "tokens"

    async def scene() -> None:
        async with running(at(socket, tokens)) as world:
            assert (EventKind.FAULT, "token_file") == await world.next()
            assert "HTTP/1.1 200 OK" == await get(socket)
            tokens.touch(0o600)
            assert (EventKind.FAULT, "token_file") == await world.next()  # it is empty
            tokens.write_text("secret\n")
            assert (EventKind.FAULT_GONE, "token_file") == await world.next()
            tokens.unlink()
            assert (EventKind.FAULT, "token_file") == await world.next()

    asyncio.run(scene())


def test_a_token_file_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    """The fault goes with it."""
    socket = tmp_path / "api"

    async def scene() -> list[str]:
        async with running(at(socket, tmp_path / "missing")) as world:
            assert (EventKind.FAULT, "token_file") == await world.next()
            world.server.follow(at(socket))
            assert (EventKind.FAULT_GONE, "token_file") == await world.next()
            return world.shown

    assert [] == asyncio.run(scene())


async def status_by(host: str) -> int:
    """The status of a question by that name."""
    reader, writer = await asyncio.open_connection("127.0.0.3", PORT)
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


def test_other_names_are_followed_in_place() -> None:
    """What is configured holds from the reload on; no connection is closed for it."""
    before = on("127.0.0.3")
    after = replace(before, api=replace(before.api, hosts=("lb.example.net",)))

    async def scene() -> None:
        async with running(before) as world:
            await get(("127.0.0.3", PORT))
            stays = await asyncio.open_connection("127.0.0.3", PORT)
            assert await status_by("lb.example.net") == HTTPStatus.MISDIRECTED_REQUEST
            world.server.follow(after)
            assert await status_by("lb.example.net") == HTTPStatus.OK
            assert await status_by("evil.example") == HTTPStatus.MISDIRECTED_REQUEST
            stays[1].write(b"GET /healthz HTTP/1.1\r\nHost: lb.example.net\r\n\r\n")
            assert (await stays[0].readline()).split()[1] == b"200"
            stays[1].close()
            await stays[1].wait_closed()

    asyncio.run(scene())


def test_a_lack_of_descriptors_is_shown(tmp_path: Path) -> None:
    """As one fault, until connections can be taken again."""

    async def scene() -> list[tuple[EventKind, str]]:
        async with running(at(tmp_path / "api")) as world:
            await get(tmp_path / "api")
            world.server._crowd("no connection can be taken")
            world.server._crowd("no connection can be taken")
            world.server._crowd("")
            return [await world.next() for _ in range(2)]

    assert [(EventKind.FAULT, "api_connections"), (EventKind.FAULT_GONE, "api_connections")] == asyncio.run(scene())
