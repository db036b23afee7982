"""One thread that serves many sockets: what the UDP, TCP and SCTP servers of the lab have in common."""

from __future__ import annotations

import contextlib
import selectors
import socket
from threading import Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class SocketLoop:
    """Sockets and what to do when one is readable. The thread runs inside `with`; at its end the sockets are closed.

    Handlers run in the thread and may add and remove sockets. When one raises, the thread ends, `on_problem` is called,
    and the exception is raised where `with` ends.
    """

    def __init__(self, name: str, on_problem: Callable[[], None] | None = None) -> None:
        self.problem: Exception | None = None
        self._name = name
        self._on_problem = on_problem
        self._selector = selectors.DefaultSelector()
        self._sockets: set[socket.socket] = set()
        self._stop_here, self._stop_there = socket.socketpair()

    def __enter__(self) -> Self:
        self._selector.register(self._stop_there, selectors.EVENT_READ)
        self._thread = Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_here.close()
        self._thread.join()
        self.close()
        if self.problem:
            raise self.problem

    def close(self) -> None:
        """Close everything, when `with` was never entered."""
        with contextlib.ExitStack() as stack:
            for sock in (*self._sockets, self._stop_here, self._stop_there):
                stack.callback(sock.close)
            stack.callback(self._selector.close)

    def add(self, sock: socket.socket, handler: Callable[[socket.socket], None]) -> None:
        """Serve a socket, which is now ours to close. It must never block."""
        sock.setblocking(False)
        self._sockets.add(sock)
        self._selector.register(sock, selectors.EVENT_READ, handler)

    def remove(self, sock: socket.socket) -> None:
        """Close a socket."""
        self._selector.unregister(sock)
        self._sockets.remove(sock)
        sock.close()

    def _run(self) -> None:
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.data is None:
                        return
                    if key.fileobj in self._sockets:  # else an earlier handler of this round has removed it
                        key.data(key.fileobj)
        except Exception as problem:  # noqa: BLE001 - raised in the thread that waits for us
            self.problem = problem
            if self._on_problem:
                self._on_problem()
