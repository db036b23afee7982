"""The HTTP server: a socket, and the connections that come in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from .connection import Connection, Room
from .limits import Limits
from .listening import Listening

if TYPE_CHECKING:
    from logging import Logger

    from nftlb.model import Endpoint, UnixSocket

DEFAULT_LIMITS = Limits()


class Server:
    """Serves an application, once, from `start` until `stop`. `access_log` gets a line for each request."""

    def __init__(
        self,
        application: web.Application,
        listen: Endpoint | UnixSocket,
        limits: Limits = DEFAULT_LIMITS,
        access_log: Logger | None = None,
    ) -> None:
        self._listen = listen
        self._limits = limits
        self._access_log = access_log
        self._room = Room(limits)
        self._runner = web.AppRunner(application, shutdown_timeout=limits.stop_seconds)
        self._listening: Listening | None = None
        self._server: asyncio.Server | None = None

    @property
    def bound(self) -> Endpoint | UnixSocket:
        """Where it listens; before `start`, where it will."""
        return self._listening.bound if self._listening else self._listen

    async def start(self) -> None:
        """Listen from now on. Raises SystemFault if that can't be."""
        self._listening = listening = Listening(self._listen)
        try:
            await self._runner.setup()
            self._server = await asyncio.get_running_loop().create_server(self._connect, sock=listening.socket)
        except BaseException:
            listening.close()
            await self._runner.cleanup()
            raise

    async def stop(self) -> None:
        """Take no more requests, end those of listeners, and wait a little for the others."""
        if self._server is None or self._listening is None:
            return
        server, self._server = self._server, None
        server.close()
        self._listening.close()
        await self._runner.cleanup()
        self._room.clear()
        await server.wait_closed()

    def _connect(self) -> Connection:
        manager = self._runner.server
        assert manager is not None  # noqa: S101 - for mypy: it is there from setup() on
        return Connection(
            manager,
            loop=asyncio.get_running_loop(),
            limits=self._limits,
            room=self._room,
            access_log=self._access_log,
        )
