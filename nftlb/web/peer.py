"""The process at the other end of a Unix socket, as the kernel recorded it when that process connected."""

from __future__ import annotations

import pwd
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio

_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group
_SO_PEERGROUPS = 59  # not in the module socket
MOST_GROUPS = 256
"""The kernel allows 65,536 groups, but `getsockopt` of Python reads at most 1,024 bytes."""


class Peer(NamedTuple):
    """A user and the groups of a process."""

    user: int
    groups: frozenset[int]


def user_of(wire: socket.socket) -> int:
    """The user at the other end of a Unix socket."""
    return _credentials(wire)[0]


def peer_of(transport: asyncio.BaseTransport | None) -> Peer | None:
    """The process at the other end; None if the connection is no Unix socket, or is closed."""
    if transport is None or not isinstance(transport.get_extra_info("sockname"), str):
        return None
    wire = transport.get_extra_info("socket")
    user, group = _credentials(wire)
    return Peer(user, frozenset({group, *_groups(wire)}))


def _credentials(wire: socket.socket) -> tuple[int, int]:
    _, user, group = _CREDENTIALS.unpack(wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return user, group


def _groups(wire: socket.socket) -> tuple[int, ...]:
    """The further groups; none for a process with more than MOST_GROUPS."""
    try:
        found = wire.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * MOST_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(found) // 4}I", found)


@lru_cache(maxsize=256)
def user_name(user: int) -> str:
    """The name of a user, or `user NUMBER`. May wait for a directory service, so call this in a thread."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return unnamed(user)


def unnamed(user: int) -> str:
    """The words for a user whose name is not known."""
    return f"user {user}"
