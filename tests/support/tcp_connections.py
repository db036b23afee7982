"""TCP clients and servers that show to which backend a connection goes: the server sends its name, and then echoes."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from typing import TYPE_CHECKING, Self

from lab_servers import LabServers

from nftlb.lab import sockopt

if TYPE_CHECKING:
    from nftlb.lab import Namespace
    from nftlb.lab.servers import SocketLoop

_TIMEOUT = 20.0
"""Seconds that a connection, a read or a write may take."""
_BACKLOG = 128
_CHUNK = 16384


class TcpConnection:
    """One TCP connection from a host; a context manager. `backend` is the name that the server gave."""

    def __init__(self, host: Namespace, target: tuple[str, int], *, source_port: int = 0) -> None:
        family = sockopt.family_of(sockopt.version_of(target[0]))
        self._sock = host.call(socket.socket, family, socket.SOCK_STREAM)
        try:
            self._sock.settimeout(_TIMEOUT)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind(("", source_port))
            self._sock.connect(target)
            self.backend = self._read_name()
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    @property
    def source(self) -> tuple[str, int]:
        """The client's own address and port."""
        address, port, *_ = self._sock.getsockname()
        return address, port

    def echo(self, payload: bytes) -> bytes:
        """Send `payload` piece by piece, and return the echo, which is shorter if the connection ends before."""
        answer = b""
        for start in range(0, len(payload), _CHUNK):
            piece = payload[start : start + _CHUNK]
            self._sock.sendall(piece)
            while len(answer) < start + len(piece):
                chunk = self._sock.recv(_CHUNK)
                if not chunk:
                    return answer
                answer += chunk
        return answer

    def _read_name(self) -> str:
        name = b""
        while (byte := self._sock.recv(1)) not in (b"", b"\n"):
            name += byte
        return name.decode()


class TcpServers(LabServers):
    """Servers that send the backend's name, and then echo; `counts` are accepted connections."""

    def _open(self, version: int) -> socket.socket:
        sock = socket.socket(sockopt.family_of(version), socket.SOCK_STREAM)
        try:
            if version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", self._port))
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def _serve(self, loop: SocketLoop, name: str, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except OSError:  # the client has already closed the connection
            return
        self._count(name)
        loop.add(connection, partial(_echo, loop))
        # This thread may wait here: `TcpConnection.echo` reads back each piece before it sends the next.
        connection.settimeout(_TIMEOUT)
        with contextlib.suppress(OSError):
            connection.sendall(f"{name}\n".encode())


def _echo(loop: SocketLoop, sock: socket.socket) -> None:
    try:
        chunk = sock.recv(_CHUNK)
        if chunk:
            sock.sendall(chunk)
            return
    except OSError:  # a reset counts like the end of the connection
        pass
    loop.remove(sock)
