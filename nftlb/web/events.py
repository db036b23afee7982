"""`GET /api/v1/events`: what happens, as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from aiohttp import web

from .connection import Connection
from .errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nftlb.service import Event, Service

    from .limits import Limits

log = logging.getLogger(__name__)


class Events:
    """The listeners; `stop` ends them all."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self._service = service
        self._limits = limits
        self._listeners = 0
        self._stopping = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/events", self.listen, allow_head=False)]

    async def stop(self, _: web.Application) -> None:
        self._stopping.set()

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Tell a client of events until it leaves, or the server stops."""
        if self._listeners >= self._limits.listeners:
            message = f"{self._limits.listeners} listen already; allowed: no more"
            raise Refused(503, message, headers={"Retry-After": "5"})
        self._listeners += 1
        try:
            return await self._tell(request)
        finally:
            self._listeners -= 1

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        events = self._service.events()
        coming = asyncio.ensure_future(_next(events))
        await asyncio.sleep(0)  # an async generator listens from its first step on, and the client from our headers
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        ends = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(_left(request))]
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
            pass  # it left
        except Exception:  # the response has begun: there can't be another one
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


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _left(request: web.Request) -> None:
    """Return when the client is gone; aiohttp alone would find that out at the next write."""
    assert isinstance(request.protocol, Connection)  # noqa: S101 - for mypy: `Server` makes no others
    await request.protocol.lost.wait()


def _text(event: Event) -> bytes:
    return f"id: {event.at.isoformat()}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
