"""The HTTP API of the daemon: at the address of the configuration, and at the daemon's own Unix socket.

An address that is not free is tried again.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault
from nftlb.file_systems import answer_about
from nftlb.model import Endpoint, UnixSocket
from nftlb.own_thread import OwnThread
from nftlb.web import (
    MODE,
    HttpServer,
    Limits,
    SharedResponses,
    TokenFile,
    affordable,
    allowed_hosts,
    application,
    no_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.metrics import Metrics
    from nftlb.model import Api, Config
    from nftlb.service import Service
    from nftlb.web import Operators, Tokens

    from .events import ActiveFaults

_log = logging.getLogger(__name__)

AGAIN = 2.0
"""Seconds until an address that is not available is tried again: it may exist only later."""
RARELY = 60.0
"""The most seconds between two tries that have to close the present address and all its connections: the first pause is
AGAIN, and each is twice the one before."""

GROUPS_AGAIN = 60.0
"""Seconds until the groups of `operators` are looked up again."""

_WHAT = "api"
_TOKENS = "token_file"
_CROWDED = "api_connections"
_SOCKET = "api_socket"
_OPERATORS = "operators"
_FOR_ALL = 0o666
_SERVERS = 2
"""The servers share the limits, so that both together take no more than is documented."""


class ApiServer:
    """Serves while `run` runs; `follow` may be called at any time.

    The server moves to a new address as soon as that is available, and stays at the old address until then, so that
    clients can read there what is wrong with the new address. Beside that address, it serves at its own Unix socket.
    Only there, the kernel's word about the user at the other end counts: a proxy may stand before the other address.
    """

    def __init__(self, service: Service, metrics: Metrics, faults: ActiveFaults, own: str = "") -> None:
        """`own`: the path of the daemon's own Unix socket; empty: it has none."""
        self._service = service
        self._metrics = metrics
        self._faults = faults
        self._wanted: Api | None = None
        self._token_file: str | None = None
        self._tokens: Tokens = no_tokens
        self._numbers: dict[str, int | None] = {}
        self._directory = OwnThread("groups")
        self._shared = SharedResponses(Limits().readers)
        self._own = UnixSocket(own) if own else None
        self._own_server: HttpServer | None = None
        self._own_mode = MODE
        self._names = allowed_hosts()
        self._server: HttpServer | None = None
        self._where: Endpoint | UnixSocket | None = None
        self._gap = self._not_before = 0.0
        self._changed = asyncio.Event()
        self._other_operators = asyncio.Event()
        self._tried = asyncio.Event()

    def follow(self, config: Config) -> None:
        """Use another configuration."""
        if config.api != self._wanted:
            self._wanted = config.api
            self._names = allowed_hosts(config.api.hosts)
            self._gap = self._not_before = 0.0
            self._changed.set()
            self._other_operators.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_serving())
                tasks.create_task(self._keep_operators())
        finally:
            await self._close()
            await self._close_own()
            self._shared.close()

    async def _keep_serving(self) -> None:
        while True:
            self._changed.clear()
            if self._wanted is not None:
                wanted = self._wanted
                await self._admit(wanted.token_file)
                await self._serve_own(wanted)
                if not await self._is_own(wanted.listen):
                    await self._move(wanted.listen)
                elif self._own_server is not None:
                    await self._close()
                    self._faults.clear(_WHAT)
            self._tried.set()
            await _first(self._changed, AGAIN)

    async def first_try(self) -> None:
        """Wait until the server listens, or could not listen, or is not wanted."""
        await self._tried.wait()

    async def _move(self, listen: Endpoint | UnixSocket) -> None:
        """Serve at this address; if it is not available, stay at the old address and set a fault."""
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
        """Serve at this address instead of the old one. Set a fault and return False if it is not available."""
        server = self._new_server(listen)
        try:
            await server.start()
        except (SystemFault, OSError) as error:
            self._faults.set(_WHAT, str(error))
            return False
        before, self._server, self._where = self._server, server, listen
        if before is not None:
            await before.stop()
        return True

    def _new_server(
        self, listen: Endpoint | UnixSocket, operators: Operators | None = None, mode: int = MODE
    ) -> HttpServer:
        limits = _limits_of_each()
        served = application(
            self._service,
            self._metrics,
            self._names_of_tokens,
            limits,
            allowed=lambda: self._names,
            operators=operators,
            shared=self._shared,
        )
        return HttpServer(served, listen, limits, crowded=partial(self._faults.set, _CROWDED), mode=mode)

    async def _is_own(self, listen: Endpoint | UnixSocket) -> bool:
        """Whether this is the path of the own socket, perhaps through a link, such as /var/run."""
        if self._own is None or not isinstance(listen, UnixSocket):
            return False
        try:
            return await answer_about(listen.path, partial(_lead_to_the_same, listen.path, self._own.path))
        except OSError:
            return False

    async def _serve_own(self, wanted: Api) -> None:
        """Serve at the daemon's own socket, if it has one."""
        if self._own is None:
            return
        # Every user may read over TCP. Who wants to keep readers out configures a Unix socket, with its own mode.
        mode = _FOR_ALL if isinstance(wanted.listen, Endpoint) or wanted.operators else MODE
        try:
            if self._own_server is not None and (mode != self._own_mode or not self._own_server.found):
                await self._close_own()
            if self._own_server is None:
                server = self._new_server(self._own, self._operators, mode)
                await server.start()
                self._own_server, self._own_mode = server, mode
                _log.info("the API is also at %s", self._own)
        except (SystemFault, OSError) as error:
            self._faults.set(_SOCKET, f"{error}; commands of root need a token until then")
        else:
            self._faults.clear(_SOCKET)

    async def _close_own(self) -> None:
        server, self._own_server = self._own_server, None
        if server is not None:
            await server.stop()

    def _operators(self) -> frozenset[int]:
        """The groups of `operators` that are known. A group that the file no longer names loses its rights at once."""
        names = () if self._wanted is None else self._wanted.operators
        return frozenset(number for name in names if (number := self._numbers.get(name)) is not None)

    async def _keep_operators(self) -> None:
        """Look up the groups. The API does not wait for that: a directory service may take long."""
        while True:
            self._other_operators.clear()
            names = () if self._wanted is None else self._wanted.operators
            self._faults.set(_OPERATORS, await self._look_up(names))
            await _first(self._other_operators, GROUPS_AGAIN)

    async def _look_up(self, names: tuple[str, ...]) -> str:
        """Look up groups, and return what is wrong with them; empty: nothing. If that fails, the known groups stay."""
        # Its own thread: the end of the process does not wait for a directory service.
        loop = asyncio.get_running_loop()
        try:
            self._numbers = await loop.run_in_executor(self._directory, _numbers, names) if names else {}
        except OSError as error:
            trouble = f"the groups under operators of api can't be looked up: {error.strerror or error}"
            return f"{trouble}; raise TasksMax= of nftlb's service if it is reached"
        unknown = ", ".join(name for name, number in self._numbers.items() if number is None)
        message = f"no group of this host is named {unknown}; correct operators under api, or add the group"
        return message if unknown else ""

    async def _close(self) -> None:
        server, self._server, self._where = self._server, None, None
        if server is not None:
            await server.stop()

    async def _admit(self, token_file: str | None) -> None:
        """Use the tokens of a file from now on."""
        if token_file != self._token_file:
            self._token_file = token_file
            self._tokens = TokenFile(token_file) if token_file else no_tokens
            self._faults.clear(_TOKENS)
        # A fault is set now if the tokens can't be read, and not only when a request needs them.
        with suppress(SystemFault):
            await self._names_of_tokens()

    async def _names_of_tokens(self) -> Mapping[bytes, str] | None:
        """The present tokens, also for a server that was started with others. A fault is set while there are none."""
        tokens, trouble = self._tokens, ""
        try:
            return await tokens()
        except SystemFault as fault:
            trouble = str(fault)
            raise
        finally:
            if tokens is self._tokens:  # else a reload has named another file meanwhile
                self._faults.set(_TOKENS, trouble)


async def _first(changed: asyncio.Event, seconds: float) -> None:
    """Wait for a change, but at most for a time."""
    # asyncio.wait_for of Python 3.11 loses a cancellation that comes together with the awaited result.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()


def _limits_of_each() -> Limits:
    """The limits of each server. They all have the limits of readers in common, as `SharedResponses`."""
    whole = Limits()
    return replace(
        whole,
        connections=affordable(whole.connections) // _SERVERS,
        listeners=whole.listeners // _SERVERS,
        unsent=whole.unsent // _SERVERS,
    )


def _numbers(names: tuple[str, ...]) -> dict[str, int | None]:
    """The number of each group; None if this host has no such group."""
    found: dict[str, int | None] = {}
    for name in names:
        try:
            found[name] = grp.getgrnam(name).gr_gid
        except KeyError:
            found[name] = None
    return found


def _lead_to_the_same(first: str, second: str) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)


def _overlap(first: Endpoint | UnixSocket, second: Endpoint | UnixSocket) -> bool:
    """Whether only one of the two can be used at a time: 127.0.0.1 and 0.0.0.0 with the same port."""
    if first == second or not isinstance(first, Endpoint) or not isinstance(second, Endpoint):
        return False
    return first.port == second.port and (first.address.is_unspecified or second.address.is_unspecified)
