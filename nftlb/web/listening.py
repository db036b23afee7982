"""Listening sockets: bound, and nothing that is somebody else's taken away."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from nftlb.errors import SystemFault
from nftlb.model import Endpoint, Family, UnixSocket

_BACKLOG = 512
_MODE = 0o660
_UNSENT = 256 << 10
"""Bytes that the kernel holds for a client that does not read; by itself it would take 4 MiB for each."""


class Listening:
    """A listening socket, from the constructor on until `close`. SystemFault if it can't be had."""

    def __init__(self, listen: Endpoint | UnixSocket) -> None:
        try:
            self.socket = _tcp(listen) if isinstance(listen, Endpoint) else _unix(Path(listen.path))
        except OSError as error:
            raise SystemFault(f"the API can't listen on {listen}: {error.strerror or error}") from error
        self._file = Path(listen.path) if isinstance(listen, UnixSocket) else None
        self._identity = _identity(self._file) if self._file else None
        # With the port that it got, if 0 was asked for.
        self.bound = listen if isinstance(listen, UnixSocket) else _endpoint(self.socket)

    def close(self) -> None:
        """Close it, and remove its file if that is still ours."""
        self.socket.close()
        with suppress(OSError):
            if self._file and _identity(self._file) == self._identity:
                self._file.unlink()


def _endpoint(bound: socket.socket) -> Endpoint:
    address, port = bound.getsockname()[:2]
    return Endpoint(ip_address(address), port)


def _tcp(listen: Endpoint) -> socket.socket:
    family = socket.AF_INET if listen.family is Family.IP else socket.AF_INET6
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT)
        if family == socket.AF_INET6:  # `::` is every address of this machine, whatever bindv6only says
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((str(listen.address), listen.port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _unix(path: Path) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(str(path))
        path.chmod(_MODE)  # nobody can connect before listen()
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that is gone; SystemFault if it is anything else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SystemFault(f"the API can't listen on unix:{path}: there is a file of that name, and it is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue is full: somebody is there
    raise SystemFault(f"the API can't listen on unix:{path}: another process does")


def _identity(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
