"""HTTP connections to the daemon."""

from __future__ import annotations

import socket
from http.client import HTTPConnection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .address import Address


class UnixConnection(HTTPConnection):
    """Over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._timeout = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout)
        self.sock.connect(self._path)


def connection(address: Address, timeout: float) -> HTTPConnection:
    """Make a connection, which is opened when it is used. `timeout` is in seconds, for every step of an exchange."""
    if address.socket:
        return UnixConnection(address.socket, timeout)
    if address.tls:
        from http.client import HTTPSConnection  # noqa: PLC0415 - only there if Python has TLS

        return HTTPSConnection(address.host, address.port, timeout=timeout)
    return HTTPConnection(address.host, address.port, timeout=timeout)
