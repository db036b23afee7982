"""A connection: aiohttp's, with a limit to everything that a client can take its time with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from .errors import answer
from .headers import add_headers
from .large import Large

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from .limits import Limits

_MAX_LINE = 8190
_MAX_HEAD = 64 << 10
_LINGER_SECONDS = 2  # to read the rest of a body that was refused, so that the client sees why


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


class Room:
    """All connections of a server. One that waits for its client gives way to a new one, and to what others send.

    So slow clients, however many, can't keep a probe out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # in the order in which they began to

    def enter(self, connection: Connection) -> bool:
        """Take a new one in, if there is a place to be had."""
        if len(self._all) >= self._limits.connections:
            if not self._waiting:
                return False
            self._drop(next(iter(self._waiting)))
        self._all.add(connection)
        return True

    def wait(self, connection: Connection) -> None:
        """Note that it waits for its client from now on."""
        self.work(connection)
        if connection in self._all:
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Note that it no longer does."""
        self._waiting.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        self.work(connection)
        self._all.discard(connection)

    def shed(self) -> None:
        """Close the oldest connections that hold up responses, if all those together take too much memory.

        A body that several clients take counts once, and goes when the last of these is closed.
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
    """One client. `lost` is set when it is gone; `body` is what it is about to take, shared with others."""

    __slots__ = ("_draining", "_head", "_idle", "_limits", "_room", "_timer", "_wire", "body", "lost")

    def __init__(
        self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, limits: Limits, room: Room, **more: Any
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.idle_seconds,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            lingering_time=_LINGER_SECONDS,
            auto_decompress=False,  # a small body may become a large one; none of ours needs it
            **more,
        )
        self.lost = asyncio.Event()
        self.body = b""
        self._limits = limits
        self._room = room
        self._idle = False
        self._head = 0  # bytes of a head that has not ended yet
        self._draining = False  # what comes is the rest of a body that was refused
        self._timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None

    @property
    def unsent(self) -> int:
        """How many bytes the client has not taken yet."""
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for mypy
        self._wire = transport
        if not self._room.enter(self):
            self.abort()
            return
        super().connection_made(transport)
        self._await_client(self._limits.head_seconds)

    def data_received(self, data: bytes) -> None:
        if self._idle:  # a new request begins
            self._idle = False
            self._arm(self._limits.head_seconds)
        super().data_received(data)
        if self._messages or self._request_in_progress or self._draining:
            self._head = 0
            return
        self._head += len(data)
        if self._head > _MAX_HEAD and self._wire is not None:
            self._wire.write(_HEAD_TOO_LARGE)
            self._wire.close()

    def begin(self) -> None:
        """Note that a request's head is there: from now on it is us who work."""
        self._disarm()
        self._room.work(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        sent = resp.body if isinstance(resp, web.Response) else None
        self.body = sent.value if isinstance(sent, Large) else b""
        self._await_client(self._limits.write_seconds)
        self._room.shed()
        try:
            result = await super().finish_response(request, resp, start_time)
        finally:
            self.body = b""
            self._draining = not request.content.is_eof()
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
        """Answer what could not even be read as HTTP."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong):
            response = answer(431, f"a line of the head is too long; allowed: {_MAX_LINE} bytes")
        else:
            response = answer(status, "the request can't be read as HTTP")
        add_headers(response)
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        self._room.leave(self)
        self._wire = None
        self.lost.set()
        super().connection_lost(exc)

    def _await_client(self, seconds: float) -> None:
        self._room.wait(self)
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
async def begin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection that a request's head has come."""
    assert isinstance(request.protocol, Connection)  # noqa: S101 - for mypy: `Server` makes no others
    request.protocol.begin()
    return await handler(request)
