"""A TCP connection of one check, without transports: when it is closed, it is closed."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .faults import open_socket
from .probe import Failed, noting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .subject import Subject

_CHUNK = 16 * 1024


class Stream:
    """Bytes there and back; `received` holds what has come and was not taken yet."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
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
        chunk = await self._loop.sock_recv(self._socket, min(_CHUNK, limit - len(self.received)))
        self.received += chunk
        return bool(chunk)

    async def take(self, size: int) -> bytes:
        """Wait for so many bytes, and take them. Raises Failed if the other side closes before."""
        while len(self.received) < size:
            if not await self.more(size):
                raise Failed("closed before its answer was complete")
        taken, self.received = self.received[:size], self.received[size:]
        return taken


@asynccontextmanager
async def connection(subject: Subject, port: int) -> AsyncIterator[Stream]:
    """Connect to the subject; at the end the connection is closed. Raises OSError and SystemFault."""
    with open_socket(subject, socket.SOCK_STREAM) as opened:
        with noting(lambda: "no connection"):
            await asyncio.get_running_loop().sock_connect(opened, (str(subject.address), port))
        yield Stream(opened)
