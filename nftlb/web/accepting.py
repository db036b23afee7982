"""New connections taken from a listening socket, a few at a time; with a pause where no descriptor is left.

asyncio's own server tries as often as its backlog is long, and logs each failure with a traceback.
"""

from __future__ import annotations

import asyncio
import errno
import resource
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

Crowded: TypeAlias = "Callable[[str], None]"
"""Hears why no connection can be taken now; "" once that is over."""

AT_ONCE = 16
"""Connections taken in one turn of the loop: checks and other clients get theirs in between."""
PAUSE = 0.2
"""Seconds until the next try after a failure: a client that holds all descriptors must not cost a processor too."""
SHARE = 4
"""Connections may have one of so many descriptors; the others are for checks, netlink and the state file."""
FEWEST = 8

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def affordable(connections: int) -> int:
    """How many of these connections the limit of descriptors allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if soft == resource.RLIM_INFINITY else max(FEWEST, min(connections, soft // SHARE))


class Accepting:
    """Takes connections from `start` until `stop`; each gets a protocol of `connect`."""

    def __init__(self, listening: socket.socket, connect: Callable[[], asyncio.Protocol], crowded: Crowded) -> None:
        self._listening = listening
        self._connect = connect
        self._crowded = crowded
        self._failing = False
        self._pause: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for arriving in self._arriving:
            arriving.cancel()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            connection.setblocking(False)
            if self._failing:
                self._failing = False
                self._crowded("")
            loop = asyncio.get_running_loop()
            arriving = loop.create_task(loop.connect_accepted_socket(self._connect, connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(partial(self._arrived, connection))

    def _arrived(self, connection: socket.socket, arriving: asyncio.Task[object]) -> None:
        self._arriving.discard(arriving)
        if arriving.cancelled():
            connection.close()
        elif error := arriving.exception():
            connection.close()
            if not isinstance(error, OSError):  # which says no more than that the client is gone
                raise error

    def _rest(self, error: OSError) -> None:
        """Leave the others in the kernel's queue for a while. Told once, however long this lasts."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._pause = loop.call_later(PAUSE, self.start)
        if not self._failing:
            self._failing = True
            what = "no descriptor or memory is left" if error.errno in _EXHAUSTED else "the system refuses"
            self._crowded(
                f"no connection can be taken: {what}: {error.strerror or error}; tried again every {PAUSE:g} s"
            )
