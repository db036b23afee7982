"""A TCP connection of one check, without transports: when it is closed, it is closed.

The other side may send as fast, as slowly and as much as it likes: what a check reads is bounded, and so is how often
the check looks.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from .exchange import NotOurs
from .faults import open_socket
from .probe import Failed, noting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .subject import Subject

T = TypeVar("T")

_CHUNK = 64 * 1024
MOST = 2 * 1024 * 1024
"""So many bytes are read for a check, whatever they are: those of TLS, and messages that answer others, too."""
# After so many reads of little, the waits before the next become longer and longer: a server that sends single bytes
# costs no more than ten reads a second in the end.
_LITTLE, _AT_ONCE = 4096, 8
_LONGER, _LONGEST = 0.01, 0.1
_OTHERS = 100


class Stream:
    """Bytes there and back; `received` holds what has come and was not taken yet."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._bytes = self._little = 0
        self.received = b""

    @property
    def local(self) -> tuple[str, int]:
        """The own address and port."""
        address, port = self._socket.getsockname()[:2]
        return address, port

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def more(self, limit: int) -> bool:
        """Wait for more bytes; False at the end. Raises Failed when `limit` bytes are there and not taken."""
        if len(self.received) >= limit:
            raise Failed(f"more than {limit} bytes without an end")
        chunk = await self.read(limit - len(self.received))
        self.received += chunk
        return bool(chunk)

    async def take(self, size: int) -> bytes:
        """Wait for so many bytes, and take them. Raises Failed if the other side closes before."""
        while len(self.received) < size:
            if not await self.more(size):
                raise Failed("closed before its answer was complete")
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    async def read(self, size: int) -> bytes:
        """Wait for up to so many bytes, which `received` will not hold; none at the end. Raises Failed beyond MOST."""
        return await self._raw(size)

    async def _raw(self, size: int) -> bytes:
        if self._bytes >= MOST:
            raise Failed(f"more than {MOST} bytes without an answer")
        if self._bytes:
            # Bytes that are there already are read without waiting: a flood would have the loop for itself.
            await asyncio.sleep(min(_LONGEST, _LONGER * max(0, self._little - _AT_ONCE)))
        chunk = await self._loop.sock_recv(self._socket, min(_CHUNK, size, MOST - self._bytes))
        self._bytes += len(chunk)
        self._little += len(chunk) < _LITTLE
        return chunk


class TlsStream(Stream):
    """The same, over TLS. The end of TLS is not waited for: a server that stalls would never come to it."""

    def __init__(self, opened: socket.socket, context: ssl.SSLContext, name: str) -> None:
        """Raise ValueError if nobody can have such a name."""
        super().__init__(opened)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def handshake(self) -> None:
        """Raise ssl.SSLError."""
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
async def connection(
    subject: Subject, port: int, tls: tuple[ssl.SSLContext, str] | None = None
) -> AsyncIterator[Stream]:
    """Connect to the subject; at the end the connection is closed. `tls`: with it, a context and the server's name.

    Raises OSError, of which ssl.SSLError is one, and SystemFault; ValueError if nobody can have such a name.
    """
    with open_socket(subject, socket.SOCK_STREAM) as opened:
        stream = Stream(opened) if tls is None else TlsStream(opened, *tls)
        with noting(lambda: "no connection"):
            await asyncio.get_running_loop().sock_connect(opened, (str(subject.address), port))
        if isinstance(stream, TlsStream):
            await stream.handshake()
        yield stream


async def answer(message: Callable[[], Awaitable[bytes]], read: Callable[[bytes], T]) -> T:
    """Return what `read` makes of the first message for which it does not raise NotOurs. Raises Failed after many."""
    ignored = ""
    with noting(lambda: ignored):
        for _ in range(_OTHERS):
            try:
                return read(await message())
            except NotOurs as other:
                ignored = str(other)
    raise Failed(f"{_OTHERS} messages came, and none was the answer: {ignored}")
