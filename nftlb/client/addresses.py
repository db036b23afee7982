"""Where the daemon listens, and connections to its addresses: TCP, with or without TLS, or a unix socket."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from nftlb.errors import ConfigError, Problem
from nftlb.sockets import sockets_here

from .errors import Unreachable

ALLOWED = "http://ADDRESS:PORT, https://NAME:PORT or unix:/PATH"
PORT = 9146
HTTPS_PORT = 443
"""The daemon itself has no TLS: a proxy before it has, usually at this port."""
USUAL_TABLE = "nftlb"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, with or without TLS; or the path of a unix socket, which has precedence over the rest."""

    host: str = "127.0.0.1"
    port: int = PORT
    tls: bool = False
    prefix: str = ""
    """The path before `/api`, if a proxy in front of the daemon needs a path."""
    socket: str = ""

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


def read_daemon_address(text: str) -> Address:
    """Read a URL, `unix:/PATH`, or `ADDRESS:PORT` as in `api.listen`. ConfigError for any other text."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise _unfit(text)
        return Address(socket=path)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _unfit(text) from None
    whole = parts.scheme in {"http", "https"} and host and not (parts.query or parts.fragment or "@" in parts.netloc)
    if not whole or not host or not f"{host}{parts.path}".isprintable() or " " in f"{host}{parts.path}":
        raise _unfit(text)
    tls = parts.scheme == "https"
    return Address(host, port or (HTTPS_PORT if tls else PORT), tls, parts.path.rstrip("/"))


def default_address(table: str = "", *, changing: bool = False) -> Address:
    """The address of the daemon of this network namespace: its own socket if this user may use it, else TCP.

    `table`: only the daemon that writes this table. Raises Unreachable if only daemons of other tables run here or,
    without `table`, if several daemons run here and none of them has the usual table. `changing`: also if the only
    daemon has another table, because a change must not reach another daemon while the usual one is stopped.
    """
    usable = addresses_here()
    if table and usable:
        if table not in usable:
            raise Unreachable(f"no daemon of table {table} runs here, but of: {', '.join(usable)}")
        return usable[table]
    if USUAL_TABLE in usable:
        return usable[USUAL_TABLE]
    if len(usable) == 1 and not changing:
        return next(iter(usable.values()))
    if usable:
        several = "several daemons run here" if len(usable) > 1 else f"no daemon with table {USUAL_TABLE} runs here"
        choice = "".join(f"\n  --socket {place.socket}    (table {name})" for name, place in usable.items())
        raise Unreachable(f"{several}; name {'one of them' if len(usable) > 1 else 'the other one'}:{choice}")
    return Address()


def addresses_here() -> dict[str, Address]:
    """The own sockets of the daemons of this network namespace, as far as this user may use them; by table."""
    return {table: Address(socket=path) for table, path in sockets_here().items() if _is_usable(path)}


def _is_usable(path: str) -> bool:
    """Whether a daemon listens at this socket and this user may connect. A killed daemon leaves its file behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # many clients are waiting
            return True
        except OSError:
            return False
    return True


def _unfit(text: str) -> ConfigError:
    return ConfigError(
        [Problem("the daemon's address", 0, 0, "", f"{text!r} is not an address of a daemon; allowed: {ALLOWED}")]
    )


_TIMEVAL = struct.Struct("@ll")


class UnixConnection(HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._timeout = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a time-out of Python, connect() fails at once if the backlog of the daemon is full. The kernel waits.
        seconds, part = divmod(self._timeout, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(part * 1e6)))
        try:
            self.sock.connect(self._path)
        except BlockingIOError as error:
            raise TimeoutError("the daemon accepts no connection") from error
        self.sock.settimeout(self._timeout)


def open_connection(address: Address, timeout: float) -> HTTPConnection:
    """Make a connection, which opens at its first request. `timeout` is in seconds, for every step of a request."""
    if address.socket:
        return UnixConnection(address.socket, timeout)
    if address.tls:
        from http.client import HTTPSConnection  # noqa: PLC0415 - exists only if Python has TLS

        return HTTPSConnection(address.host, address.port, timeout=timeout)
    return HTTPConnection(address.host, address.port, timeout=timeout)
