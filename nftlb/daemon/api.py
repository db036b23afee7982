"""The HTTP API of the daemon: where the configuration wants it, and tried again where it can't be yet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault
from nftlb.web import Server, TokenFile, application, no_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.daemon.faults import Faults
    from nftlb.metrics import Metrics
    from nftlb.model import Api, Config
    from nftlb.service import Service

AGAIN = 2.0
"""Seconds until an address that can't be had is tried again: it may be there only later."""

_WHAT = "api"
_TOKENS = "token_file"


class ApiServer:
    """Serves from `run` on; `follow` takes another configuration at any time."""

    def __init__(self, service: Service, metrics: Metrics, faults: Faults) -> None:
        self._service = service
        self._metrics = metrics
        self._faults = faults
        self._wanted: Api | None = None
        self._tokens: Callable[[], frozenset[bytes] | None] = no_tokens
        self._changed = asyncio.Event()

    def follow(self, config: Config) -> None:
        if config.api != self._wanted:
            self._wanted = config.api
            self._changed.set()

    async def run(self) -> None:
        """Serve what is wanted, until cancelled."""
        while True:
            self._changed.clear()
            server = await self._start(self._wanted) if self._wanted else None
            try:
                while not await self._is_changed() and server is not None:
                    self._look_at_tokens()
            finally:
                if server is not None:
                    await server.stop()

    async def _is_changed(self) -> bool:
        # asyncio.wait_for of Python 3.11 loses a cancellation that comes together with what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                return await self._changed.wait()
        return False

    async def _start(self, wanted: Api) -> Server | None:
        self._faults.clear(_TOKENS)
        tokens = self._tokens = (
            _WatchedTokens(TokenFile(wanted.token_file), self._faults) if wanted.token_file else no_tokens
        )
        server = Server(application(self._service, self._metrics, tokens), wanted.listen)
        try:
            await server.start()
        except (SystemFault, OSError) as error:
            self._faults.set(_WHAT, str(error))
            return None
        self._faults.clear(_WHAT)
        self._look_at_tokens()
        return server

    def _look_at_tokens(self) -> None:
        """Show whether they can be used, not only once somebody needs them."""
        with suppress(SystemFault):
            self._tokens()


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
