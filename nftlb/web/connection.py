"""A connection of aiohttp with time limits for everything that waits for the client.

Clients take turns, so that a client with many requests does not keep other clients waiting.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from .errors import add_headers, error_response
from .peer import user_of
from .shared import LargeBody

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Counts, bytes and seconds. The defaults leave most of 1,024 file descriptors to the rest of the daemon."""

    connections: int = 512
    """Open connections; for a new one, the connection that has waited longest for its client is closed."""
    listeners: int = 64
    """Clients that receive events at the same time."""
    readers: int = 64
    """Requests that wait at the same time for an expensive response: status, ruleset, metrics."""
    body: int = 64 << 10
    names: int = 2 << 20
    """Bytes of a body with names of backends: as many as 10,000 backends with the longest names have."""
    head_seconds: float = 10
    """From a request's first byte, or from the beginning of the connection, to the end of the head."""
    body_seconds: float = 10
    idle_seconds: float = 30
    """Between two requests of a connection."""
    write_seconds: float = 30
    """For the client to read a response."""
    unsent: int = 32 << 20
    """Unread bytes of all responses together, a shared body counted once; above this, the oldest
    connections are closed."""
    comment_seconds: float = 15
    """Between two comments in a stream of events: middleboxes drop silent connections."""
    stop_seconds: float = 0.5
    """For requests and responses in progress when the server stops; then their connections are closed."""


# --- turns of clients -------------------------------------------------------------------------------------------------

AT_ONCE = 16
"""The most requests that begin in one turn of the loop. A request takes some 0.3 ms, so the requests of 512 connections
would hold up checks and other clients for 150 ms."""


def name_of(transport: asyncio.BaseTransport | None) -> str:
    """The name of a client: an IPv4 address, an IPv6 /64 (one host may have all of it), or a user of this host."""
    if transport is None:
        return "a client that left"
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return network(peer[0])
    return f"the local user {user_of(transport.get_extra_info('socket'))}"


def network(address: str) -> str:
    """The name of the clients with an address."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))
    return str(found)


class Turns:
    """Lets AT_ONCE requests begin in one turn of the loop. Clients with waiting requests take turns."""

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._armed = False

    async def wait(self, client: str) -> None:
        """Wait until a request of this client may begin."""
        loop = asyncio.get_running_loop()
        if not self._armed:
            self._armed = True
            loop.call_soon(self._next)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        await turn

    def _next(self) -> None:
        self._left = AT_ONCE
        while self._left and self._waiting:
            client = next(iter(self._waiting))
            waiting = self._waiting.pop(client)
            turn = waiting.popleft()
            if waiting:
                self._waiting[client] = waiting  # behind the other clients
            if not turn.done():  # it was cancelled if the client is gone
                turn.set_result(None)
                self._left -= 1
        self._armed = self._left < AT_ONCE
        if self._armed:
            asyncio.get_running_loop().call_soon(self._next)


# --- connections ------------------------------------------------------------------------------------------------------

_MAX_LINE = 8190
_MAX_HEAD = 64 << 10
_LINGER_SECONDS = 2  # to read the rest of a refused body, so that the client receives the response


_TOO_LARGE = b'{"error": "the head is too large; allowed: 64 KiB"}\n'
_HEAD_TOO_LARGE = b"\r\n".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"Content-Type: application/json; charset=utf-8",
        b"Content-Length: %d" % len(_TOO_LARGE),
        b"Connection: close",
        b"",
        _TOO_LARGE,
    )
)


class OpenConnections:
    """All connections of a server. At a limit, connections that wait for their clients are closed.

    The client with the most connections loses its oldest waiting connection. So slow clients can't keep a probe out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # in the order in which the waits began
        self._of_client: Counter[str] = Counter()
        self.turns = Turns()

    def enter(self, connection: Connection) -> bool:
        """Add a new connection. Return False if the limit is reached and all connections are busy."""
        if len(self._all) >= self._limits.connections:
            if not self._waiting:
                return False
            self._drop(max(self._waiting, key=lambda connection: self._of_client[connection.client]))
        self._all.add(connection)
        self._of_client[connection.client] += 1
        return True

    def wait(self, connection: Connection) -> None:
        """Record that a connection waits for its client from now on."""
        self.work(connection)
        if connection in self._all:
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Record that a connection no longer waits for its client."""
        self._waiting.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        self.work(connection)
        if connection in self._all:
            self._all.discard(connection)
            self._of_client[connection.client] -= 1
            if not self._of_client[connection.client]:
                del self._of_client[connection.client]

    def shed(self) -> None:
        """Close the oldest connections with unread responses if all unread responses together use too much memory.

        A body that several connections share counts once, and is freed when the last of these is closed.
        """
        for connection in list(self._waiting):
            if self._unsent() <= self._limits.unsent:
                break
            if connection.unsent:
                self._drop(connection)

    def _unsent(self) -> int:
        bodies = {id(connection.body): len(connection.body) for connection in self._waiting}
        return sum(bodies.values()) + sum(connection.unsent for connection in self._waiting)

    def clear(self) -> None:
        for connection in list(self._all):
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self.leave(connection)
        connection.abort()


class Connection(web.RequestHandler):
    """A connection of a client. `lost` is set when it is closed.

    `body` is the shared body that it is sending; `client` is the client's name.
    """

    __slots__ = (
        *("_answering", "_connections", "_draining", "_head", "_idle", "_limits", "_timer", "_wire"),
        *("body", "client", "lost"),
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        connections: OpenConnections,
        **more: Any,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.idle_seconds,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            lingering_time=_LINGER_SECONDS,
            auto_decompress=False,  # a small body could become a large one, and no request needs it
            **more,
        )
        self.lost = asyncio.Event()
        self.body = b""
        self.client = ""
        self._limits = limits
        self._connections = connections
        self._idle = False
        self._head = 0  # bytes of an incomplete head
        self._answering = False  # from the end of a head to the end of the response; the body comes in between
        self._draining = False  # receiving the rest of a refused body
        self._timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None

    @property
    def unsent(self) -> int:
        """Bytes that the client has not read yet."""
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._wire = transport
        self.client = name_of(transport)
        if not self._connections.enter(self):
            self.abort()
            return
        super().connection_made(transport)
        self._await_client(self._limits.head_seconds)

    def data_received(self, data: bytes) -> None:
        if self._idle:  # a new request begins
            self._idle = False
            self._arm(self._limits.head_seconds)
        super().data_received(data)
        self._answering = self._answering or bool(self._messages)
        if self._answering or self._draining:
            self._head = 0
            return
        self._head += len(data)
        if self._head > _MAX_HEAD and self._wire is not None:
            self._wire.write(_HEAD_TOO_LARGE)
            self._wire.close()

    async def begin(self) -> None:
        """Record that a request's head is complete, and wait for the client's turn: from then on the server works."""
        await self._connections.turns.wait(self.client)
        self._disarm()
        self._connections.work(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        sent = resp.body if isinstance(resp, web.Response) else None
        self.body = sent.value if isinstance(sent, LargeBody) else b""
        self._await_client(self._limits.write_seconds)
        self._connections.shed()
        try:
            result = await super().finish_response(request, resp, start_time)
        finally:
            self.body = b""
            self._draining = not request.content.is_eof()
            self._answering = bool(self._messages)  # the client may have sent the next request already
        self._idle = True
        self._await_client(self._limits.idle_seconds)
        return result

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that is not valid HTTP."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            response = error_response(431, f"a line of the head is too long; allowed: {_MAX_LINE} bytes")
        else:
            response = error_response(status, "the request can't be read as HTTP")
        add_headers(response)
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        self._connections.leave(self)
        self._wire = None
        self.lost.set()
        super().connection_lost(exc)

    def _await_client(self, seconds: float) -> None:
        self._connections.wait(self)
        self._arm(seconds)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        if self._wire is not None:
            self._timer = self._loop.call_later(seconds, self.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@web.middleware
async def request_started(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Notify the connection that a request's head is complete."""
    assert isinstance(request.protocol, Connection)  # noqa: S101 - for mypy: HttpServer makes only these
    await request.protocol.begin()
    return await handler(request)
