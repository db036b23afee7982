"""HTTP connections to the daemon."""

from __future__ import annotations

import socket
import struct
from http.client import HTTPConnection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .address import Address


_TIMEVAL = struct.Struct("@ll")


class UnixConnection(HTTPConnection):
    """Over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._timeout = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Under a time-out of Python's the kernel would not wait at all where a daemon has many connections to take.
        seconds, part = divmod(self._timeout, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(part * 1e6)))
        try:
            self.sock.connect(self._path)
        except BlockingIOError as error:
            raise TimeoutError("it takes no connection") from error
        self.sock.settimeout(self._timeout)


def connection(address: Address, timeout: float) -> HTTPConnection:
    """Make a connection, which is opened when it is used. `timeout` is in seconds, for every step of an exchange."""
    if address.socket:
        return UnixConnection(address.socket, timeout)
    if address.tls:
        from http.client import HTTPSConnection  # noqa: PLC0415 - only there if Python has TLS

        return HTTPSConnection(address.host, address.port, timeout=timeout)
    return HTTPConnection(address.host, address.port, timeout=timeout)
