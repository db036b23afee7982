"""The HTTP server: a listening socket, and the connections that it accepts.

Connections are accepted a few at a time, with a pause if no file descriptor is left. asyncio's own server tries as many
times as its backlog is long, and logs each failure with a traceback. A socket file of another process is never deleted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import socket
import stat
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import web

from nftlb.errors import SystemFault
from nftlb.file_systems import answer_about
from nftlb.model import Endpoint, Family, UnixSocket

from .connection import Connection, Limits, OpenConnections

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger


# --- the listening socket ---------------------------------------------------------------------------------------------

_BACKLOG = 512
MODE = 0o660
"""The permissions of a Unix socket: its owner and its group may connect."""
_UNSENT = 256 << 10
"""Send buffer for each client in bytes; the kernel's default grows to 4 MiB for a client that does not read."""


class ListeningSocket:
    """A socket that listens from the constructor until `close`. SystemFault if it can't."""

    def __init__(self, listen: Endpoint | UnixSocket, mode: int = MODE) -> None:
        """`mode`: the permissions of a Unix socket."""
        try:
            self.socket = _tcp(listen) if isinstance(listen, Endpoint) else _unix(Path(listen.path), mode)
        except OSError as error:
            raise SystemFault(f"the API can't listen on {listen}: {error.strerror or error}") from error
        self._file = Path(listen.path) if isinstance(listen, UnixSocket) else None
        self._identity = _identity(self._file) if self._file else None
        # With the port that the kernel chose, if `listen` has port 0.
        self.bound = listen if isinstance(listen, UnixSocket) else _endpoint(self.socket)

    @property
    def found(self) -> bool:
        """Whether clients find this socket: its file was neither deleted nor replaced."""
        try:
            return self._file is None or _identity(self._file) == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket, and delete its file unless another process has replaced it."""
        self.socket.close()
        with suppress(OSError):
            if self._file and self.found:
                self._file.unlink()


async def _listen_at(listen: Endpoint | UnixSocket, mode: int = MODE) -> ListeningSocket:
    """A socket that listens. SystemFault if it can't, also if the file system of a Unix socket does not answer."""
    make = partial(ListeningSocket, listen, mode)
    if isinstance(listen, Endpoint):
        return make()
    try:
        return await answer_about(listen.path, make, late=ListeningSocket.close)
    except TimeoutError as error:
        raise SystemFault(f"the API can't listen on {listen}: {error.strerror or error}") from error


async def _close(listening: ListeningSocket) -> None:
    """Close a listening socket at once, and delete its file if the file system answers."""
    listening.socket.close()
    if isinstance(listening.bound, UnixSocket):
        with suppress(OSError):  # no answer, or no further thread to ask
            await answer_about(listening.bound.path, listening.close)


def _endpoint(bound: socket.socket) -> Endpoint:
    address, port = bound.getsockname()[:2]
    return Endpoint(ip_address(address), port)


def _tcp(listen: Endpoint) -> socket.socket:
    family = socket.AF_INET if listen.family is Family.IP else socket.AF_INET6
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT)
        if (
            family == socket.AF_INET6
        ):  # `::` means every address of this machine, with any value of the sysctl bindv6only
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((str(listen.address), listen.port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _unix(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(str(path))
        _set_mode(path, mode)  # no client can connect before listen()
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _set_mode(path: Path, mode: int) -> None:
    """Set the permissions of a new socket file; SystemFault for any other file.

    The owner of the folder may replace the file by a link. The permissions of another file must not change.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
            raise SystemFault(f"the API can't listen on unix:{path}: another process has replaced this file; end it")
        os.chmod(f"/proc/self/fd/{descriptor}", mode)  # noqa: PTH101 - of a descriptor, as fchmod() refuses O_PATH
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Delete the socket file of a process that has ended; SystemFault for any other file."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SystemFault(
                f"the API can't listen on unix:{path}: this file is not a socket; remove it, or use another path"
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full: a process listens
    raise SystemFault(
        f"the API can't listen on unix:{path}: another process listens there; end it, or use another path"
    )


def _identity(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


Crowded: TypeAlias = "Callable[[str], None]"
"""Receives the reason why no connection can be accepted now, and "" when connections are accepted again."""


# --- new connections --------------------------------------------------------------------------------------------------

AT_ONCE = 16
"""Connections that begin in one turn of the loop: checks and other clients run in between."""
LOOKS = 64
"""Connections accepted in one turn of the loop, including those that their clients have closed already. To close such a
connection takes a twentieth of the time that its request would take."""
_METHOD = 5  # bytes of the longest method that only reads, with the space behind it
PAUSE = 0.2
"""Seconds until the next attempt after a failure: a client that uses up descriptors must not use up the processor."""
SHARE = 4
"""Connections may use one in SHARE file descriptors; the others are for checks, netlink and the state file."""
FEWEST = 8

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def affordable(connections: int) -> int:
    """The limit of connections, reduced to the process's share of file descriptors if that is smaller."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if soft == resource.RLIM_INFINITY else max(FEWEST, min(connections, soft // SHARE))


class Accepting:
    """Accepts connections from `start` until `stop`; `connect` returns the protocol of each."""

    def __init__(self, listening: socket.socket, connect: Callable[[], asyncio.Protocol], crowded: Crowded) -> None:
        self._listening = listening
        self._connect = connect
        self._crowded = crowded
        self._failing = False
        self._pause: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for arriving in self._arriving:
            arriving.cancel()

    def _accept(self) -> None:
        begun = 0
        for _ in range(LOOKS):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            if self._failing:
                self._failing = False
                self._crowded("")
            connection.setblocking(False)
            if _is_abandoned(connection):
                connection.close()
                continue
            self._begin(connection)
            begun += 1
            if begun == AT_ONCE:
                return

    def _begin(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        arriving = loop.create_task(loop.connect_accepted_socket(self._connect, connection))
        self._arriving.add(arriving)
        arriving.add_done_callback(partial(self._arrived, connection))

    def _arrived(self, connection: socket.socket, arriving: asyncio.Task[object]) -> None:
        self._arriving.discard(arriving)
        if arriving.cancelled():
            connection.close()
        elif error := arriving.exception():
            connection.close()
            if not isinstance(error, OSError):  # an OSError only means that the client has left
                raise error

    def _rest(self, error: OSError) -> None:
        """Leave further connections in the kernel's queue for PAUSE seconds. Report only the first failure in a row."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._pause = loop.call_later(PAUSE, self.start)
        if not self._failing:
            self._failing = True
            what = "no descriptor or memory is left" if error.errno in _EXHAUSTED else "the system refuses"
            self._crowded(
                f"no connection can be accepted: {what}: {error.strerror or error}; tried again every {PAUSE:g} s"
            )


def _is_abandoned(connection: socket.socket) -> bool:
    """Whether the client has closed or reset the connection, or closed its own side, and has requested no change.

    A request that only reads would get no response. A change is carried out, as if the client had closed later.
    """
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    if not poll.poll(0):
        return False
    try:
        begin = connection.recv(_METHOD, socket.MSG_PEEK)
    except OSError:  # reset
        return True
    return not begin or begin.startswith((b"GET ", b"HEAD "))


# --- the server -------------------------------------------------------------------------------------------------------

DEFAULT_LIMITS = Limits()


def _ignore(_: str) -> None:
    """Ignore a lack of file descriptors."""


class HttpServer:
    """Serves an application, once, from `start` until `stop`.

    `access_log` gets a line for each request. `crowded` receives the reason why no connection can be accepted now, and
    "" when connections are accepted again. `mode` has the permissions of a Unix socket.
    """

    def __init__(
        self,
        application: web.Application,
        listen: Endpoint | UnixSocket,
        limits: Limits = DEFAULT_LIMITS,
        access_log: Logger | None = None,
        crowded: Crowded = _ignore,
        mode: int = MODE,
    ) -> None:
        self._listen = listen
        self._mode = mode
        self._limits = replace(limits, connections=affordable(limits.connections))
        self._access_log = access_log
        self._crowded = crowded
        self._connections = OpenConnections(self._limits)
        # Handlers are cancelled when the client has left. Changes are shielded from that. `stop` closes all connections
        # before this time-out, which would otherwise count twice: aiohttp waits for a handler, and then for its task.
        timeout = 2 * limits.stop_seconds
        self._runner = web.AppRunner(application, shutdown_timeout=timeout, handler_cancellation=True)
        self._listening: ListeningSocket | None = None
        self._accepting: Accepting | None = None

    @property
    def bound(self) -> Endpoint | UnixSocket:
        """The address or path on which it listens, or will listen after `start`."""
        return self._listening.bound if self._listening else self._listen

    @property
    def found(self) -> bool:
        """Whether it listens, and clients find its socket."""
        return self._listening is not None and self._listening.found

    async def start(self) -> None:
        """Listen from now on. SystemFault if the address or path can't be used."""
        self._listening = listening = await _listen_at(self._listen, self._mode)
        try:
            await self._runner.setup()
            accepting = Accepting(listening.socket, self._connect, self._crowded)
            accepting.start()
        except BaseException:
            await _close(listening)
            await self._runner.cleanup()
            raise
        self._accepting = accepting

    async def stop(self) -> None:
        """Accept no more requests, end the streams of events, and wait at most `stop_seconds` for the others."""
        if self._accepting is None or self._listening is None:
            return
        accepting, self._accepting = self._accepting, None
        accepting.stop()
        await _close(self._listening)
        abort = asyncio.get_running_loop().call_later(self._limits.stop_seconds, self._connections.clear)
        try:
            await self._runner.cleanup()
        finally:
            abort.cancel()
            self._connections.clear()

    def _connect(self) -> Connection:
        manager = self._runner.server
        assert manager is not None  # noqa: S101 - for mypy: set by setup()
        return Connection(
            manager,
            loop=asyncio.get_running_loop(),
            limits=self._limits,
            connections=self._connections,
            access_log=self._access_log,
        )
