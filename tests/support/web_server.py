"""A web server with a simulated service, and clients that use real sockets."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from fake_service import FakeService, two_pools

from nftlb.metrics import Metrics
from nftlb.model import Endpoint, UnixSocket
from nftlb.web import HttpServer, Limits, application
from nftlb.web.admission import digest, no_operators, only_own_hosts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from logging import Logger

    from nftlb.web.admission import AllowedHosts
    from nftlb.web.connection import Connection

TOKEN = "correct-horse-battery-staple"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOOPBACK = Endpoint(IPv4Address("127.0.0.1"), 0)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def one_token() -> dict[bytes, str]:
    return {digest(TOKEN.encode()): "ann"}


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
class RunningApi:
    """A running server."""

    server: HttpServer
    service: FakeService
    metrics: Metrics
    clients: list[Streams] = field(default_factory=list)

    @property
    def connections(self) -> set[Connection]:
        """The open connections of the server."""
        return set(self.server._connections._all)

    async def connect(self) -> Streams:
        bound = self.server.bound
        if isinstance(bound, UnixSocket):
            streams = await asyncio.open_unix_connection(bound.path)
        else:
            streams = await asyncio.open_connection(str(bound.address), bound.port)
        self.clients.append(streams)
        return streams

    async def send(self, request: bytes) -> Answer:
        """Send bytes through a new connection, and read one response."""
        streams = await self.connect()
        try:
            streams[1].write(request)
            return await read_answer(streams, head=request.startswith(b"HEAD "))
        finally:
            await hang_up(streams)

    async def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """Send a request with the token, and read the response; a body that is not bytes is sent as JSON."""
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
    _, status, phrase = first.split(" ", 2)
    assert HTTPStatus(int(status)).phrase == phrase
    return Answer(int(status), headers, await reader.readexactly(length))


async def hang_up(streams: Streams) -> None:
    streams[1].close()
    with suppress(ConnectionError):
        await streams[1].wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, for states that the server does not announce."""
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
    allowed: Callable[[], AllowedHosts] = only_own_hosts,
    operators: Callable[[], frozenset[int]] | None = no_operators,
) -> AsyncIterator[RunningApi]:
    """Run a server, by default on a free port of the loopback interface."""
    service, metrics, limits = service or two_pools(), Metrics(), limits or Limits()
    server = HttpServer(
        application(service, metrics, tokens, limits, allowed, operators), listen, limits, access_log, crowded
    )
    api = RunningApi(server, service, metrics)
    await server.start()
    try:
        yield api
    finally:
        await server.stop()
        for streams in api.clients:
            await hang_up(streams)


def run(test: Coroutine[None, None, None]) -> None:
    """Run a test with a time limit."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(limited())
