"""The HTTP API of the daemon: where the configuration wants it, and tried again where it can't be yet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault
from nftlb.model import Endpoint
from nftlb.web import Server, TokenFile, application, names, no_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.daemon.faults import Faults
    from nftlb.metrics import Metrics
    from nftlb.model import Api, Config, UnixSocket
    from nftlb.service import Service

AGAIN = 2.0
"""Seconds until an address that can't be had is tried again: it may be there only later."""
RARELY = 60.0
"""At most so many where the present address has to be left for the try, which closes all connections: first AGAIN, then
each time twice as many."""

_WHAT = "api"
_TOKENS = "token_file"
_CROWDED = "api_connections"


class ApiServer:
    """Serves from `run` on; `follow` takes another configuration at any time.

    It moves to another address as soon as that can be had, and stays until then: who gave a wrong one is told here.
    """

    def __init__(self, service: Service, metrics: Metrics, faults: Faults) -> None:
        self._service = service
        self._metrics = metrics
        self._faults = faults
        self._wanted: Api | None = None
        self._token_file: str | None = None
        self._tokens: Callable[[], frozenset[bytes] | None] = no_tokens
        self._names = names()
        self._server: Server | None = None
        self._where: Endpoint | UnixSocket | None = None
        self._gap = self._not_before = 0.0
        self._changed = asyncio.Event()

    def follow(self, config: Config) -> None:
        if config.api != self._wanted:
            self._wanted = config.api
            self._names = names(config.api.hosts)
            self._gap = self._not_before = 0.0
            self._changed.set()

    async def run(self) -> None:
        """Serve what is wanted, until cancelled."""
        try:
            while True:
                self._changed.clear()
                if self._wanted is not None:
                    self._admit(self._wanted.token_file)
                    await self._move(self._wanted.listen)
                await self._pause()
        finally:
            await self._close()

    async def _pause(self) -> None:
        """Until another configuration comes, or it is time to look again."""
        # asyncio.wait_for of Python 3.11 loses a cancellation that comes together with what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                await self._changed.wait()

    async def _move(self, listen: Endpoint | UnixSocket) -> None:
        """Serve there if that can be, else still where it was, and that is a fault."""
        before = self._where
        if before is not None and _overlap(before, listen):
            now = asyncio.get_running_loop().time()
            if now < self._not_before:
                return
            self._gap = min(2 * self._gap or AGAIN, RARELY)
            self._not_before = now + self._gap
            await self._close()
        if self._where == listen or await self._open(listen):
            self._faults.clear(_WHAT)
        elif self._where is None and before is not None:
            await self._open(before)

    async def _open(self, listen: Endpoint | UnixSocket) -> bool:
        """Serve there, and no longer where it was; if that can't be, it is a fault, and False."""
        served = application(self._service, self._metrics, self._digests, allowed=lambda: self._names)
        server = Server(served, listen, crowded=self._crowd)
        try:
            await server.start()
        except (SystemFault, OSError) as error:
            self._faults.set(_WHAT, str(error))
            return False
        before, self._server, self._where = self._server, server, listen
        if before is not None:
            await before.stop()
        return True

    async def _close(self) -> None:
        server, self._server, self._where = self._server, None, None
        if server is not None:
            await server.stop()

    def _crowd(self, why: str) -> None:
        """Show that no connection can be taken; "": that they can again."""
        if why:
            self._faults.set(_CROWDED, why)
        else:
            self._faults.clear(_CROWDED)

    def _admit(self, token_file: str | None) -> None:
        """Take the tokens of a file from now on."""
        if token_file != self._token_file:
            self._token_file = token_file
            self._tokens = _WatchedTokens(TokenFile(token_file), self._faults) if token_file else no_tokens
            self._faults.clear(_TOKENS)
        self._look_at_tokens()

    def _digests(self) -> frozenset[bytes] | None:
        """Those of now, whichever were when the server began."""
        return self._tokens()

    def _look_at_tokens(self) -> None:
        """Show whether they can be used, not only once somebody needs them."""
        with suppress(SystemFault):
            self._tokens()


def _overlap(one: Endpoint | UnixSocket, other: Endpoint | UnixSocket) -> bool:
    """Whether only one of the two can be had at a time: 127.0.0.1 and 0.0.0.0 with the same port."""
    if one == other or not isinstance(one, Endpoint) or not isinstance(other, Endpoint):
        return False
    return one.port == other.port and (one.address.is_unspecified or other.address.is_unspecified)


class _WatchedTokens:
    """Tokens whose file is shown as a fault while it can't be used."""

    def __init__(self, tokens: TokenFile, faults: Faults) -> None:
        self._tokens = tokens
        self._faults = faults

    def __call__(self) -> frozenset[bytes]:
        try:
            digests = self._tokens()
        except SystemFault as fault:
            self._faults.set(_TOKENS, str(fault))
            raise
        self._faults.clear(_TOKENS)
        return digests
