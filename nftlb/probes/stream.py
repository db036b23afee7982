"""A TCP connection of one check, without asyncio's transports, so that closing it takes effect at once.

The number of bytes that a check reads, and the number of its reads, are limited, however fast, slowly and much the
server sends.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from .exchange import NotOurs
from .probe import Failed, noting, open_socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .probe import Subject

T = TypeVar("T")

_CHUNK = 64 * 1024
MOST = 2 * 1024 * 1024
"""Bytes that a check reads at most, including TLS and messages that are not the reply."""
# After this many small reads, the pauses before the next reads become longer: a server that sends single bytes costs at
# most ten reads a second in the end.
_LITTLE, _AT_ONCE = 4096, 8
_LONGER, _LONGEST = 0.01, 0.1
_OTHERS = 100


class Stream:
    """Sends and receives bytes. `received`: the bytes that were received and not yet taken."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._bytes = self._little = 0
        self.received = b""

    @property
    def local(self) -> tuple[str, int]:
        """The local address and port."""
        address, port = self._socket.getsockname()[:2]
        return address, port

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def more(self, limit: int) -> bool:
        """Wait for more bytes. Return False at the end. Raises Failed if `limit` bytes were received and not taken."""
        if len(self.received) >= limit:
            raise Failed(f"more than {limit} bytes without an end")
        chunk = await self.read(limit - len(self.received))
        self.received += chunk
        return bool(chunk)

    async def receive_exactly(self, size: int) -> bytes:
        """Wait for `size` bytes, and remove them from `received`. Raises Failed if the server closes before."""
        while len(self.received) < size:
            if not await self.more(size):
                raise Failed("closed before its answer was complete")
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    async def read(self, size: int) -> bytes:
        """Return up to `size` bytes without adding them to `received`; empty at the end. Raises Failed beyond MOST."""
        return await self._raw(size)

    async def _raw(self, size: int) -> bytes:
        if self._bytes >= MOST:
            raise Failed(f"more than {MOST} bytes without an answer")
        if self._bytes:
            # Waiting bytes are read without a switch of tasks, so that a flood would block the loop.
            await asyncio.sleep(min(_LONGEST, _LONGER * max(0, self._little - _AT_ONCE)))
        chunk = await self._loop.sock_recv(self._socket, min(_CHUNK, size, MOST - self._bytes))
        self._bytes += len(chunk)
        self._little += len(chunk) < _LITTLE
        return chunk


class TlsStream(Stream):
    """A Stream over TLS. It does not wait for the end of TLS, which a stalled server would never send."""

    def __init__(self, opened: socket.socket, context: ssl.SSLContext, name: str) -> None:
        """Raises ValueError if the server's name is invalid."""
        super().__init__(opened)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def handshake(self) -> None:
        """Do the TLS handshake. Raises ssl.SSLError."""
        await self._step(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        await self._step(lambda: self._tls.write(data))

    async def read(self, size: int) -> bytes:
        try:
            return await self._step(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def _step(self, step: Callable[[], T]) -> T:
        while True:
            wants = False
            try:
                done = step()
            except ssl.SSLWantReadError:
                wants = True
            if self._outgoing.pending:
                await super().send(self._outgoing.read())
            if not wants:
                return done
            if chunk := await self._raw(_CHUNK):
                self._incoming.write(chunk)
            else:
                self._incoming.write_eof()


@asynccontextmanager
async def open_stream(
    subject: Subject, port: int, tls: tuple[ssl.SSLContext, str] | None = None
) -> AsyncIterator[Stream]:
    """Connect to the subject. At the end of `with` the connection is closed. `tls`: a context and the server's name.

    Raises OSError (ssl.SSLError is an OSError), SystemFault, and ValueError if the server's name is invalid.
    """
    with open_socket(subject, socket.SOCK_STREAM) as opened:
        stream = Stream(opened) if tls is None else TlsStream(opened, *tls)
        with noting(lambda: "no connection"):
            await asyncio.get_running_loop().sock_connect(opened, (str(subject.address), port))
        if isinstance(stream, TlsStream):
            await stream.handshake()
        yield stream


async def first_message(message: Callable[[], Awaitable[bytes]], read: Callable[[bytes], T]) -> T:
    """Return the result of `read` for the first message that it accepts. Raises Failed after many messages.

    `read` raises NotOurs for messages that are not the reply.
    """
    ignored = ""
    with noting(lambda: ignored):
        for _ in range(_OTHERS):
            try:
                return read(await message())
            except NotOurs as other:
                ignored = str(other)
    raise Failed(f"{_OTHERS} messages came, and none was the reply: {ignored}")
