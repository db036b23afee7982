"""The API of the daemon: where the configuration wants it, as soon as it can be had there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fake_service import two_pools
from pools import DNS, config

from nftlb.daemon import api as module
from nftlb.daemon.api import ApiServer
from nftlb.daemon.faults import Faults
from nftlb.metrics import Metrics
from nftlb.model import Api, UnixSocket
from nftlb.service import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nftlb.model import Config


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


def at(path: Path, tokens: Path | None = None) -> Config:
    return replace(config(DNS), api=Api(listen=UnixSocket(str(path)), token_file=str(tokens) if tokens else None))


async def get(path: Path) -> str:
    """The status line of /healthz, once somebody listens there."""
    async with asyncio.timeout(20):
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        return line.decode().strip()


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
