"""A netlink socket that is told what happens, rather than asking: never waits, and knows when it missed something."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import TYPE_CHECKING, Self, TypeAlias

from .netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Iterable

Instruction: TypeAlias = "tuple[int, int, int, int]"
"""struct sock_filter: code, jump if true, jump if false, constant."""

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_INSTRUCTION = struct.Struct("=HBBI")
# What a burst may pile up to before somebody reads: a load of ten thousand backends announces 66,000
# messages of 7 MB (2026-11, Linux 6.18).
_RECEIVE_BUFFER = 32 << 20
# Datagrams read at a time, so that a flood does not keep the caller from everything else.
_AT_ONCE = 512


class Listener(Netlink):
    """Hears of some groups of announcements, in the network namespace of the thread that makes it.

    What is there to read makes `fileno()` readable, for select(2) or an event loop. Requests can be made as well, until
    announcements come.
    """

    def __init__(
        self, protocol: int, *groups: int, instructions: Iterable[Instruction] = (), buffer: int = _RECEIVE_BUFFER
    ) -> None:
        """Open it; OSError with EPERM if this process may not hear of a group.

        `instructions`: a filter that says in the kernel which datagrams to pass, socket(7)'s SO_ATTACH_FILTER.
        `buffer`: bytes of announcements that may wait to be read.
        """
        super().__init__(protocol)
        self._losing = False
        try:
            self._size_buffer(buffer)
            self._filter(instructions)
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear(self, at_once: int = _AT_ONCE) -> tuple[list[tuple[int, bytes]], bool]:
        """Return (type, body) of the messages that are there, and whether some before or among them were lost.

        If there is more than `at_once` datagrams hold, the rest stays, and the socket readable.
        """
        heard: list[tuple[int, bytes]] = []
        lost = self._losing
        for _ in range(at_once):
            try:
                heard += [(kind, body) for kind, _, _, body in self._receive(socket.MSG_DONTWAIT)]
            except BlockingIOError:
                self._losing = False
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The buffer was full, or the kernel had no memory for an announcement. Of what is lost until the
                # buffer has been empty, the kernel does not tell again.
                lost = self._losing = True
        return heard, lost

    def _filter(self, instructions: Iterable[Instruction]) -> None:
        program = [_INSTRUCTION.pack(*one) for one in instructions]
        if program:
            code = ctypes.create_string_buffer(b"".join(program))
            # struct sock_fprog, with its padding: how many, and where
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code))
            )

    def drain(self) -> None:
        """Throw away what is there, whatever it is; after a flood the rest stays, and the socket readable."""
        for _ in range(_AT_ONCE):
            try:
                self._socket.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _size_buffer(self, size: int) -> None:
        """Past the system's limit if this process is privileged outside of its namespace, else up to it."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


class Ear:
    """Makes something of what a listener hears; a context manager, and readable when there is news."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._listener.close()

    def fileno(self) -> int:
        return self._listener.fileno()
