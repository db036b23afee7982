"""Large responses: made in turn for all clients that wait, with pauses in between, and sent in pieces.

Any number of clients costs the daemon no more than a few clients do. Checks and transactions have priority.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.payload import Payload

from .compression import COMPRESSED, FAST, PLAIN, accepts_gzip, compress
from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from aiohttp.abc import AbstractStreamWriter


REST = 4
"""The pause after a response, as a multiple of its time: the responses of a lane use at most a fifth of the loop's
time."""
LONGEST_REST = 2.0
"""Maximum pause in seconds: clients that wait for the next response must get it in time."""
RETRY_AFTER = "2"
_JSON = "application/json; charset=utf-8"


class Lane(Enum):
    """Responses of a lane are made one at a time, with a pause after each. No lane waits for another lane."""

    LARGE = "the state of all pools"
    SMALL = "the state of one pool, which a page reads after each event"
    SLOW = "what waits for a thread, up to seconds"


@dataclass(eq=False)
class _Round:
    """A response that is scheduled or being made, and the number of clients that wait for it."""

    task: asyncio.Task[bytes]
    waiting: int = 0


class _Turn:
    """Responses that are made one at a time, with a pause after each."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._not_before = 0.0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for the turn, and for the end of the pause."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            await asyncio.sleep(self._not_before - loop.time())
            began = loop.time()
            try:
                yield
            finally:
                ended = loop.time()
                self._not_before = ended + min(LONGEST_REST, REST * (ended - began))


class SharedResponses:
    """Makes responses for up to `most` waiting clients.

    Making a response begins after the request, so the response contains all changes before the request. `close` ends
    the thread that compresses.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._next: dict[str, _Round] = {}
        self._turns = {lane: _Turn() for lane in Lane}
        # Its own thread: directory services and DNS may fill the threads of the event loop with calls that hang.
        self._thread = ThreadPoolExecutor(1, "gzip")

    def close(self) -> None:
        """Compress no more responses."""
        self._thread.shutdown()

    async def get(self, what: str, make: Callable[[], Awaitable[bytes]], lane: Lane = Lane.LARGE) -> bytes:
        """Return the response `what`. Requests for the same response before `make` begins share the same bytes.

        RequestError 503 if too many clients wait already. Raises the errors of `make`.
        """
        with self._place():
            round_ = self._next.get(what)
            if round_ is None:
                round_ = self._next[what] = _Round(asyncio.create_task(self._make(what, make, self._turns[lane])))
            round_.waiting += 1
            try:
                return await asyncio.shield(round_.task)
            finally:
                round_.waiting -= 1
                if not round_.waiting and not round_.task.done():  # all clients have left
                    round_.task.cancel()
                    self._begin(what, round_.task)

    async def respond(
        self,
        request: web.Request,
        what: str,
        make: Callable[[], Awaitable[bytes]],
        content_type: str = _JSON,
        lane: Lane = Lane.LARGE,
    ) -> web.Response:
        """Return `what` as an HTTP response, compressed if the client accepts that. See `get`."""
        if not accepts_gzip(request):
            return large_response(await self.get(what, make, lane), content_type, PLAIN)

        async def compressed() -> bytes:
            body = await make()
            return await asyncio.get_running_loop().run_in_executor(self._thread, compress, body, FAST)

        return large_response(await self.get(f"gzip {what}", compressed, lane), content_type, COMPRESSED)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._waiting >= self._most:
            message = f"{self._most} requests wait for a large response already; allowed: {self._most}; try again later"
            raise RequestError(503, message, headers={"Retry-After": RETRY_AFTER})
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _make(self, what: str, make: Callable[[], Awaitable[bytes]], turn: _Turn) -> bytes:
        async with turn.take():
            self._begin(what, asyncio.current_task())
            return await make()

    def _begin(self, what: str, task: asyncio.Task[bytes] | None) -> None:
        """Let no further request wait for this task: it may miss the latest changes."""
        if what in self._next and self._next[what].task is task:
            del self._next[what]


# --- bodies -----------------------------------------------------------------------------------------------------------

PIECE = 64 << 10
"""Bytes given to the transport at a time. Python 3.11 copies unread bytes, so this limits the copy of each client."""


class LargeBody(Payload):
    """A response body that may be shared with other connections."""

    _value: bytes
    _autoclose = True

    def __init__(self, value: bytes, content_type: str) -> None:
        super().__init__(value, content_type=content_type)
        self._size = len(value)

    @property
    def value(self) -> bytes:
        return self._value

    async def write(self, writer: AbstractStreamWriter) -> None:
        whole = memoryview(self._value)
        for begin in range(0, len(whole), PIECE):
            await writer.write(whole[begin : begin + PIECE])
            await writer.drain()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)


def large_response(body: bytes, content_type: str = _JSON, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with a body that may be shared."""
    return web.Response(body=LargeBody(body, content_type), headers=headers)
