"""TCP, to see where whole flows go: a server that says its backend's name and then echoes, and its client."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Self

from nftlb.lab import sockopt
from nftlb.lab.loop import SocketLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab.namespace import Namespace

FLOW_TIMEOUT = 5.0
"""Seconds that a connection, a read or a write may take."""
_BACKLOG = 128
_CHUNK = 16384


class Flow:
    """One TCP connection from a host; a context manager. `backend` is the name that the server gave."""

    def __init__(self, host: Namespace, target: tuple[str, int], source_port: int = 0) -> None:
        family = sockopt.family_of(sockopt.version_of(target[0]))
        self._sock = host.call(socket.socket, family, socket.SOCK_STREAM)
        try:
            self._sock.settimeout(FLOW_TIMEOUT)
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
        """Send `payload` piece by piece and return what comes back: the same, unless the connection ends before."""
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


class FlowServers:
    """TCP servers on the backends, served by one thread. A context manager; made by `Lab.serve_tcp`."""

    def __init__(self, hosts: Sequence[Namespace], port: int, *, versions: Sequence[int]) -> None:
        self._hosts = tuple(hosts)
        self._port = port
        self._versions = tuple(versions)
        self._accepted: Counter[str] = Counter({host.name: 0 for host in hosts})
        self._lock = Lock()
        self._loop: SocketLoop | None = None

    def __enter__(self) -> Self:
        loop = SocketLoop("lab-flows")
        try:
            for host in self._hosts:
                for version in self._versions:
                    loop.add(host.call(self._listen, version), partial(self._accept, loop, host.name))
        except BaseException:
            loop.close()
            raise
        self._loop = loop.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._loop:
            self._loop.__exit__(*problem)

    @property
    def counts(self) -> dict[str, int]:
        """Connections accepted, by backend; a backend that got none has its zero."""
        with self._lock:
            return dict(self._accepted)

    def _listen(self, version: int) -> socket.socket:
        sock = socket.socket(sockopt.family_of(version), socket.SOCK_STREAM)
        try:
            if version == 6:  # noqa: PLR2004 - the version's name is its number
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", self._port))
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def _accept(self, loop: SocketLoop, name: str, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # the client has gone again
            return
        with self._lock:
            self._accepted[name] += 1
        loop.add(sock, partial(_echo, loop))
        sock.settimeout(FLOW_TIMEOUT)  # a connection may wait for its peer: `Flow.echo` reads back each piece it sends
        with contextlib.suppress(OSError):
            sock.sendall(f"{name}\n".encode())


def _echo(loop: SocketLoop, sock: socket.socket) -> None:
    try:
        chunk = sock.recv(_CHUNK)
        if chunk:
            sock.sendall(chunk)
            return
    except OSError:  # a reset is the same to us as an end
        pass
    loop.remove(sock)
