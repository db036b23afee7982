"""A web server with a fake service behind it, and clients for it over real sockets."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from fake_service import FakeService, two_pools

from nftlb.metrics import Metrics
from nftlb.model import Endpoint, UnixSocket
from nftlb.web import Limits, Server, application
from nftlb.web.hosts import no_further_names
from nftlb.web.tokens import digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from logging import Logger

    from nftlb.web.connection import Connection
    from nftlb.web.hosts import Names

TOKEN = "correct-horse-battery-staple"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOOPBACK = Endpoint(IPv4Address("127.0.0.1"), 0)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def one_token() -> frozenset[bytes]:
    return frozenset({digest(TOKEN.encode())})


@dataclass(frozen=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass(frozen=True)
class World:
    """A server that runs."""

    server: Server
    service: FakeService
    metrics: Metrics
    clients: list[Streams] = field(default_factory=list)

    @property
    def connections(self) -> set[Connection]:
        """Those that the server has open."""
        return set(self.server._room._all)

    async def connect(self) -> Streams:
        bound = self.server.bound
        if isinstance(bound, UnixSocket):
            streams = await asyncio.open_unix_connection(bound.path)
        else:
            streams = await asyncio.open_connection(str(bound.address), bound.port)
        self.clients.append(streams)
        return streams

    async def send(self, request: bytes) -> Answer:
        """Send bytes through a connection of their own, and read the one response."""
        streams = await self.connect()
        try:
            streams[1].write(request)
            return await read_answer(streams, head=request.startswith(b"HEAD "))
        finally:
            await hang_up(streams)

    async def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """Ask with a token, and a body of JSON if there is any; bytes are sent as they are."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        all_headers = {"Host": "localhost", "Connection": "close", **BEARER}
        if body is not None:
            all_headers |= {"Content-Type": "application/json", "Content-Length": str(len(sent))}
        return await self.send(
            head(method, path, {**all_headers, **(headers or {})}) + (sent if body is not None else b"")
        )

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path, headers={"Authorization": ""})


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    """Write the head of a request; headers without a value are left out."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode()


async def read_answer(streams: Streams, *, head: bool = False) -> Answer:
    reader = streams[0]
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = 0 if head else int(headers.get("content-length", 0))
    return Answer(int(first.split()[1]), headers, await reader.readexactly(length))


async def hang_up(streams: Streams) -> None:
    streams[1].close()
    with suppress(ConnectionError):
        await streams[1].wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what the server tells nobody of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(
    service: FakeService | None = None,
    *,
    tokens: Any = one_token,
    limits: Limits | None = None,
    listen: Endpoint | UnixSocket = LOOPBACK,
    access_log: Logger | None = None,
    crowded: Callable[[str], None] = lambda _: None,
    allowed: Callable[[], Names] = no_further_names,
) -> AsyncIterator[World]:
    """Run a server, on a free port of the loopback interface if nothing else is said."""
    service, metrics, limits = service or two_pools(), Metrics(), limits or Limits()
    server = Server(application(service, metrics, tokens, limits, allowed), listen, limits, access_log, crowded)
    world = World(server, service, metrics)
    await server.start()
    try:
        yield world
    finally:
        await server.stop()
        for streams in world.clients:
            await hang_up(streams)


def run(test: Coroutine[None, None, None]) -> None:
    """Run a test that must not take long."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(limited())
