"""Tells a fault of this machine from one of the backend: only the latter says something about the backend's health."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault

if TYPE_CHECKING:
    from pathlib import Path

    from .subject import Subject

_MENDS = {
    errno.EMFILE: "nftlb has too many files open: raise LimitNOFILE= of its service (ulimit -n)",
    errno.ENFILE: "this host has too many files open: raise the sysctl fs.file-max",
    errno.ENOBUFS: "the kernel has no buffers left: free memory, or raise the sysctl net.core.wmem_max",
    errno.ENOMEM: "the kernel has no memory left: free some, or raise the limit of nftlb's service (MemoryMax=)",
    errno.EADDRNOTAVAIL: "no local address or port is left to send from: widen the sysctl "
    "net.ipv4.ip_local_port_range, or give this host an address of that family",
    errno.EADDRINUSE: "no local port is left to send from: widen the sysctl net.ipv4.ip_local_port_range",
    errno.ENOSPC: "too many sockets are waited for: raise the sysctl fs.epoll.max_user_watches",
    # Netfilter gives it to the sender of a datagram that it drops; a SYN is just sent again. EACCES is not here: a far
    # router that prohibits (ICMPv6) causes it too.
    errno.EPERM: "this host drops its own checks: let them pass its firewall's output rules, or raise the sysctl "
    "net.netfilter.nf_conntrack_max if it is reached",
    errno.EAGAIN: "no local port or process is left: widen the sysctl net.ipv4.ip_local_port_range, or raise TasksMax= "
    "of nftlb's service",
}
_MENDS_SOCKET = {
    errno.EPERM: "not permitted to open a socket: run nftlb as root, or with CAP_NET_RAW for icmp checks",
    errno.EACCES: "not permitted to open a socket: run nftlb as root, or with CAP_NET_RAW for icmp checks",
    errno.EAFNOSUPPORT: "this host does not speak that address family: enable IPv6 (ipv6.disable=0)",
    errno.EPROTONOSUPPORT: "this host does not speak that protocol: load its module",
}


def reason_of(error: OSError) -> str:
    """Say in a few words why an exchange with a backend failed; raises SystemFault if it is this machine's fault."""
    if error.errno in _MENDS:
        raise SystemFault(f"checks can't be done: {_MENDS[error.errno]}") from error
    if error.errno is None:
        return str(error) or type(error).__name__
    return os.strerror(error.errno).lower()


def open_socket(subject: Subject, kind: int, protocol: int = 0) -> socket.socket:
    """Open a non-blocking socket to a subject, which leaves as that says; not connected yet. Raises SystemFault."""
    family = socket.AF_INET6 if subject.address.version == 6 else socket.AF_INET  # noqa: PLR2004
    try:
        # The flag spares a system call.
        opened = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        mend = _MENDS_SOCKET.get(error.errno or 0) or _MENDS.get(error.errno or 0) or error.strerror
        raise SystemFault(f"checks can't be done: {mend}") from error
    _bind(opened, subject)
    return opened


# include/uapi/linux/in.h (Linux 4.2): the port is chosen when the destination is known, so that ports don't run out
# for as long as connections are in TIME-WAIT.
_IP_BIND_ADDRESS_NO_PORT = 24
_MARK = struct.Struct("=I")  # as a plain number Python would take it for signed


def _bind(opened: socket.socket, subject: Subject) -> None:
    """Have it leave by the device, with the mark, from the source; closes it when it can't."""
    how = ""
    try:
        if subject.device is not None:  # before the source: a VRF has addresses of its own
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
                mend = f"{subject.device} is no interface of this host: add it (ip link add), or set another device"
            case errno.EPERM:
                mend = f"not permitted to send {how}: run nftlb as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
            case errno.EADDRNOTAVAIL:
                place = subject.device or "this host"
                mend = f"{subject.source} is no address of {place}: add it (ip address add), or set another source"
            case _:
                mend = f"can't send {how}: {error.strerror}"
        raise SystemFault(f"checks can't be done: {mend}") from error


MOST_BYTES = 4 << 20
"""Of a file that checks need: ten times all authorities that a Debian trusts."""


def stamp(path: Path, what: str) -> tuple[int, int, int]:
    """Return what changes whenever a file does; raises SystemFault if it is not there, or can't be read at once."""
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
    return SystemFault(f"{what} {path} can't be read: {error.strerror}: put it there, readable for nftlb's user")
