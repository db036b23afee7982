"""The HTTP server: a socket, and the connections that come in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from .accepting import Accepting, affordable
from .connection import Connection, Room
from .limits import Limits
from .listening import Listening

if TYPE_CHECKING:
    from logging import Logger

    from nftlb.model import Endpoint, UnixSocket

    from .accepting import Crowded

DEFAULT_LIMITS = Limits()


def _untold(_: str) -> None:
    """Hear of a lack of descriptors where nobody is to be told."""


class Server:
    """Serves an application, once, from `start` until `stop`.

    `access_log` gets a line for each request; `crowded` hears why no connection can be taken now, and "" once they can.
    """

    def __init__(
        self,
        application: web.Application,
        listen: Endpoint | UnixSocket,
        limits: Limits = DEFAULT_LIMITS,
        access_log: Logger | None = None,
        crowded: Crowded = _untold,
    ) -> None:
        self._listen = listen
        self._limits = replace(limits, connections=affordable(limits.connections))
        self._access_log = access_log
        self._crowded = crowded
        self._room = Room(self._limits)
        # Nobody works for a client that is gone. What changes something is shielded from that.
        self._runner = web.AppRunner(application, shutdown_timeout=limits.stop_seconds, handler_cancellation=True)
        self._listening: Listening | None = None
        self._accepting: Accepting | None = None

    @property
    def bound(self) -> Endpoint | UnixSocket:
        """Where it listens; before `start`, where it will."""
        return self._listening.bound if self._listening else self._listen

    async def start(self) -> None:
        """Listen from now on. Raises SystemFault if that can't be."""
        self._listening = listening = Listening(self._listen)
        try:
            await self._runner.setup()
            accepting = Accepting(listening.socket, self._connect, self._crowded)
            accepting.start()
        except BaseException:
            listening.close()
            await self._runner.cleanup()
            raise
        self._accepting = accepting

    async def stop(self) -> None:
        """Take no more requests, end those of listeners, and wait a little for the others."""
        if self._accepting is None or self._listening is None:
            return
        accepting, self._accepting = self._accepting, None
        accepting.stop()
        self._listening.close()
        await self._runner.cleanup()
        self._room.clear()

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
