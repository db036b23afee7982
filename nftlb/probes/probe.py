"""What all probes share: the backend to check, the result, sockets, and whose fault an error is.

Only faults of the backend concern its health. Faults of this machine are SystemFault.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nftlb.errors import SystemFault
from nftlb.health import CheckResult
from nftlb.printable import one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from nftlb.model import Admin, IPAddress


@dataclass(frozen=True, slots=True)
class Subject:
    """One backend with all that its check needs.

    `source` is the local address to send from, `device` the interface or VRF to send through, None for the kernel's
    choice; `mark` is the firewall mark to send with. `timeout` is in seconds. `port` is None only for kinds of checks
    without a port.
    """

    pool: str
    backend: str
    address: IPAddress
    port: int | None
    source: IPAddress | None
    timeout: float
    device: str | None = None
    mark: int | None = None

    @property
    def required_port(self) -> int:
        """The port. Raises ValueError without a port, which the configuration forbids for kinds that need it."""
        if self.port is None:
            raise ValueError(f"{self.pool}/{self.backend} has no port to check")
        return self.port

    @property
    def host(self) -> str:
        """The address as in a URL: IPv6 in brackets."""
        return f"[{self.address}]" if self.address.version == 6 else str(self.address)  # noqa: PLR2004


# --- faults of this machine -------------------------------------------------------------------------------------------

_FIXES = {
    errno.EMFILE: "nftlb has too many files open: raise LimitNOFILE= of its service (ulimit -n)",
    errno.ENFILE: "this host has too many files open: raise the sysctl fs.file-max",
    errno.ENOBUFS: "the kernel has no buffers left: free memory, or raise the sysctl net.core.wmem_max",
    errno.ENOMEM: "the kernel has no memory left: free some, or raise the limit of nftlb's service (MemoryMax=)",
    errno.EADDRNOTAVAIL: "no local address or port is left to send from: widen the sysctl "
    "net.ipv4.ip_local_port_range, or give this host an address of that family",
    errno.EADDRINUSE: "no local port is left to send from: widen the sysctl net.ipv4.ip_local_port_range",
    errno.ENOSPC: "too many sockets are in epoll sets: raise the sysctl fs.epoll.max_user_watches",
    # The sender of a datagram that netfilter drops gets this error; a SYN is just sent again. EACCES is not here,
    # because ICMPv6 errors of a remote router ("prohibited") cause it too.
    errno.EPERM: "this host drops its own checks: let them pass its firewall's output rules, or raise the sysctl "
    "net.netfilter.nf_conntrack_max if it is reached",
    errno.EAGAIN: "no local port or process is left: widen the sysctl net.ipv4.ip_local_port_range, or raise TasksMax= "
    "of nftlb's service",
}
_SOCKET_FIXES = {
    errno.EPERM: "not permitted to open a socket: run nftlb as root, or with CAP_NET_RAW for icmp checks",
    errno.EACCES: "not permitted to open a socket: run nftlb as root, or with CAP_NET_RAW for icmp checks",
    errno.EAFNOSUPPORT: "this host does not speak that address family: enable IPv6 (ipv6.disable=0)",
    errno.EPROTONOSUPPORT: "this host does not speak that protocol: load its module",
}


def reason_of(error: OSError) -> str:
    """Return why an exchange with a backend failed. Raises SystemFault if the cause is this machine."""
    if error.errno in _FIXES:
        raise SystemFault(f"checks can't be done: {_FIXES[error.errno]}") from error
    if error.errno is None:
        return str(error) or type(error).__name__
    return os.strerror(error.errno).lower()


def open_socket(subject: Subject, kind: int, protocol: int = 0) -> socket.socket:
    """Open a non-blocking, unconnected socket with the subject's device, mark and source. Raises SystemFault."""
    family = socket.AF_INET6 if subject.address.version == 6 else socket.AF_INET  # noqa: PLR2004
    try:
        # The flag saves a system call.
        opened = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        fix = _SOCKET_FIXES.get(error.errno or 0) or _FIXES.get(error.errno or 0) or error.strerror
        raise SystemFault(f"checks can't be done: {fix}") from error
    _bind(opened, subject)
    return opened


# include/uapi/linux/in.h (Linux 4.2): the kernel chooses the port when the destination is known, so that connections in
# TIME-WAIT do not use up the ports.
_IP_BIND_ADDRESS_NO_PORT = 24
_MARK = struct.Struct("=I")  # Python would encode a plain number as signed


def _bind(opened: socket.socket, subject: Subject) -> None:
    """Set the subject's device, mark and source on a socket. Closes the socket and raises SystemFault if it can't."""
    how = ""
    try:
        if subject.device is not None:  # before the source: a VRF has its own addresses
            how = f"through {subject.device}"
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, subject.device.encode())
        if subject.mark is not None:
            how = f"with the mark {subject.mark}"
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK.pack(subject.mark))
        if subject.source is not None:
            how = f"from {subject.source}"
            if opened.type == socket.SOCK_STREAM:
                opened.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            opened.bind((str(subject.source), 0))
    except OSError as error:
        opened.close()
        match error.errno:
            case errno.ENODEV:
                fix = f"{subject.device} is not an interface of this host: add it (ip link add), or set another device"
            case errno.EPERM:
                fix = f"not permitted to send {how}: run nftlb as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
            case errno.EADDRNOTAVAIL:
                place = subject.device or "this host"
                fix = f"{subject.source} is not an address of {place}: add it (ip address add), or set another source"
            case _:
                fix = f"can't send {how}: {error.strerror}"
        raise SystemFault(f"checks can't be done: {fix}") from error


MOST_BYTES = 4 << 20
"""The largest file that checks read, in bytes: ten times Debian's file of certificate authorities."""


def stamp(path: Path, what: str) -> tuple[int, int, int]:
    """Return a value that changes with the file. Raises SystemFault if the file is missing or too large."""
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(what, path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise SystemFault(f"{what} {path} is not a regular file: put a file there, readable for nftlb's user")
    if found.st_size > MOST_BYTES:
        raise SystemFault(f"{what} {path} is larger than {MOST_BYTES >> 20} MiB: is it the right file?")
    return found.st_ino, found.st_size, found.st_mtime_ns


def unreadable(what: str, path: Path, error: OSError) -> SystemFault:
    fix = "" if isinstance(error, TimeoutError) else ": put it there, readable for nftlb's user"
    return SystemFault(f"{what} {path} can't be read: {error.strerror}{fix}")


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Success:
    """The check passed. For the fields see `CheckResult`."""

    reason: str
    weight: int | None = None
    admin: Admin | None = None


class Failed(Exception):  # noqa: N818 - it is a result
    """The check failed. An agent may also ask for a weight and an administrative state."""

    def __init__(self, reason: str, weight: int | None = None, admin: Admin | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.weight = weight
        self.admin = admin


class Probe(Protocol):
    """One kind of check with its options. It is used for many backends at the same time, so its state is constant."""

    keeps_time: bool = False
    """Whether `probe` observes the subject's time-out. Otherwise `run_probe` cancels it."""

    async def probe(self, subject: Subject) -> Success:
        """Check once. Raises Failed or OSError for a fault of the backend, SystemFault for a fault of this machine."""


async def run_probe(probe: Probe, subject: Subject) -> CheckResult:
    """Check once, within the subject's time-out. Never raises an exception for a fault of the backend.

    Raises SystemFault if this machine could not do the check. Then nothing is known about the backend.
    """
    start = time.monotonic()
    weight = admin = None
    passed = False
    try:
        checking = probe.probe(subject)
        answer = await (checking if probe.keeps_time else within(subject.timeout, checking))
        passed, reason, weight, admin = True, answer.reason, answer.weight, answer.admin
    except Failed as failure:
        reason, weight, admin = failure.reason, failure.weight, failure.admin
    except OSError as error:
        reason = reason_of(error)
    return CheckResult(passed, one_line(reason), time.monotonic() - start, weight, admin)


def no_answer(timeout: float) -> str:
    """Return the reason of a check without a reply. `timeout`: seconds."""
    return f"no answer within {timeout:g}s"


async def within(seconds: float, checking: Awaitable[Success], until: float | None = None) -> Success:
    """Wait for a check for `seconds`, or `until` a time of the loop. Raises Failed if the time is over."""
    limit = asyncio.timeout(seconds) if until is None else asyncio.timeout_at(until)
    try:
        async with limit:
            return await checking
    except TimeoutError as error:
        if not limit.expired():  # the kernel's TCP time-out
            raise
        # `noting` added notes to the cancellation, which is the context of the error of asyncio.timeout.
        notes = getattr(error.__context__, "__notes__", [])
        raise Failed("; ".join([no_answer(seconds), *notes])) from error


@contextmanager
def noting(note: Callable[[], str]) -> Iterator[None]:
    """Add the text that `note` returns, if not empty, to the reason of a time-out."""
    try:
        yield
    except asyncio.CancelledError as error:
        if text := note():
            error.add_note(text)
        raise
