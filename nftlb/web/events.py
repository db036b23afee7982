"""`GET /api/v1/events`: transitions and changes as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from aiohttp import web

from .connection import Connection
from .errors import RequestError
from .query import number_of, read_query
from .routes import MOST_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.typedefs import Handler

    from nftlb.service import Event, Service

    from .connection import Limits

log = logging.getLogger(__name__)


class EventStreams:
    """The responses to clients that receive events; `stop` ends them all."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self._service = service
        self._limits = limits
        self._listeners = 0
        self._stopping = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        return {"events": self.listen}

    async def stop(self, _: web.Application) -> None:
        self._stopping.set()

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Send events to a client until it leaves or the server stops. RequestError 503 if too many clients do this."""
        if self._listeners >= self._limits.listeners:
            most = self._limits.listeners
            message = f"{most} clients receive events already; allowed: {most}; try again later"
            raise RequestError(503, message, headers={"Retry-After": "5"})
        self._listeners += 1
        try:
            return await self._send_events(request)
        finally:
            self._listeners -= 1

    async def _send_events(self, request: web.Request) -> web.StreamResponse:
        events = self._service.events(_after(request))
        coming = asyncio.ensure_future(_next(events))
        # The generator subscribes in its first step: events after the headers must not be missed.
        await asyncio.sleep(0)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        ends = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(_client_left(request))]
        try:
            await response.prepare(request)
            await self._write(request, response, b": nftlb\nretry: 2000\n\n")
            while True:
                waited = [coming, *ends]
                timeout = self._limits.comment_seconds
                done, _ = await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if done.intersection(ends):
                    break
                if not done:
                    await self._write(request, response, b":\n\n")
                    continue
                event = coming.result()
                if event is None:
                    break
                coming = asyncio.ensure_future(_next(events))
                await self._write(request, response, _text(event))
        except ConnectionError:
            pass  # the client left
        except Exception:  # the response has begun: an error response is not possible any more
            log.exception("a fault of nftlb itself: the events end")
        finally:
            for task in (coming, *ends):
                task.cancel()
            await asyncio.gather(coming, *ends, return_exceptions=True)
            if isinstance(events, AsyncGenerator):
                await events.aclose()
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await response.write(data)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionAbortedError from None


def _after(request: web.Request) -> int | None:
    """The id after which the client wants the kept events; None: it wants only new events.

    The header of the last event that a browser has received is newer than its query, which does not change. A header
    that is no id of nftlb is ignored: it may come from another server, or from an earlier version.
    """
    given = read_query(request, "after")
    after = number_of(given, "after", 0, MOST_ID, "the id of an event")
    last = request.headers.get("Last-Event-ID", "")
    if last.isascii() and last.isdecimal() and len(last) <= len(f"{MOST_ID}"):
        return int(last)
    return after


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _client_left(request: web.Request) -> None:
    """Return when the client has left. aiohttp alone would notice this at the next write."""
    assert isinstance(request.protocol, Connection)  # noqa: S101 - for mypy: HttpServer makes only these
    await request.protocol.lost.wait()


def _text(event: Event) -> bytes:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
