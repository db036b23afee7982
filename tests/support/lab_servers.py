"""The common part of the TCP and SCTP servers on the backends: one thread, a socket for each host and IP version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Self

from nftlb.lab.servers import SocketLoop
from nftlb.lab.topology import DEFAULT_PORT

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from nftlb.lab import Namespace


class LabServers(ABC):
    """Servers on the backends, which run inside `with`. Subclasses open the sockets and serve them."""

    def __init__(
        self, hosts: Sequence[Namespace], port: int = DEFAULT_PORT, *, versions: Sequence[int] = (4, 6)
    ) -> None:
        self._hosts = tuple(hosts)
        self._port = port
        self._versions = tuple(versions)
        self._lock = Lock()
        self._counts: Counter[str] = Counter({host.name: 0 for host in hosts})
        self._loop: SocketLoop | None = None

    def __enter__(self) -> Self:
        loop = SocketLoop(type(self).__name__)
        try:
            for host in self._hosts:
                for version in self._versions:
                    loop.add(host.call(self._open, version), partial(self._serve, loop, host.name))
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
        """The number of connections or associations by backend, including backends with zero."""
        with self._lock:
            return dict(self._counts)

    @abstractmethod
    def _open(self, version: int) -> socket.socket:
        """Open the socket of a host, in the host's namespace."""

    @abstractmethod
    def _serve(self, loop: SocketLoop, name: str, sock: socket.socket) -> None:
        """Serve a readable socket of the backend `name`."""

    def _count(self, name: str) -> None:
        """Count a connection or an association."""
        with self._lock:
            self._counts[name] += 1
