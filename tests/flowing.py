"""Traffic from ONE client socket at an even pace, with what became of every datagram."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING, Self

from nftlb.lab.datagram import LARGEST, SAME, Datagram, Kind, decode
from nftlb.lab.sockopt import grow_receive_buffer

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from nftlb.lab import Host

LATE = 1.0
"""Seconds that replies may still take when the last datagram was sent."""


@dataclass
class Sent:
    """A datagram: when it was sent (seconds, monotonic), and who answered, in order; more than one is a fault."""

    number: int
    at: float
    backends: list[str] = field(default_factory=list)
    sources: list[tuple[str, int]] = field(default_factory=list)

    @property
    def backend(self) -> str:
        """Who answered, or nothing."""
        return self.backends[0] if self.backends else ""


class Flow:
    """A context manager: sends from a thread of its own until it ends; then `sent` is complete."""

    def __init__(self, host: Host, target: tuple[str, int], *, rate: int = 2000, size: int = 64) -> None:
        """`rate` is in datagrams a second, as far as the machine allows."""
        import socket as sockets  # noqa: PLC0415 - the name is the attribute's

        family = sockets.AF_INET6 if ":" in target[0] else sockets.AF_INET
        self._name = host.name
        self._socket: socket.socket = host.call(sockets.socket, family, sockets.SOCK_DGRAM)
        self._socket.setblocking(False)
        grow_receive_buffer(self._socket)
        self._target = target
        self._pause = 1 / rate
        self._size = size
        self._running = True
        self._paused = False
        self._changed = Condition()
        self.sent: list[Sent] = []
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()

    def stop(self) -> list[Sent]:
        """Send no more, wait for late replies, return everything."""
        self._running = False
        self._thread.join()
        return self.sent

    def hold(self) -> None:
        """Send nothing more until `resume`."""
        self._paused = True

    def pause(self, timeout: float = 20.0) -> None:
        """Send nothing more until `resume`; returns when all that was sent was answered."""
        self.hold()
        with self._changed:
            if not self._changed.wait_for(lambda: all(one.backends for one in self.sent), timeout):
                raise TimeoutError(f"{len(lost(self.sent))} datagrams were not answered within {timeout} s")

    def resume(self) -> None:
        self._paused = False

    def wait(self, count: int, timeout: float = 20.0) -> None:
        """Wait until so many more were sent from now on."""
        with self._changed:
            goal = len(self.sent) + count
            if not self._changed.wait_for(lambda: len(self.sent) >= goal or not self._thread.is_alive(), timeout):
                raise TimeoutError(f"{len(self.sent)} datagrams of {goal} were sent within {timeout} s")

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        due = time.monotonic()
        while self._running:
            now = time.monotonic()
            if self._paused:
                due = now + self._pause
            if now >= due:
                self._send(now)
                due = max(due + self._pause, now - 10 * self._pause)
            elif poll.poll(max(0.0, due - now) * 1000):
                self._receive()
        end = time.monotonic() + LATE
        while (left := end - time.monotonic()) > 0 and any(not one.backends for one in self.sent[-1000:]):
            if poll.poll(left * 1000):
                self._receive()

    def _send(self, now: float) -> None:
        number = len(self.sent)
        payload = Datagram(Kind.REQUEST, number, self._name, self._size, SAME).encode()
        with self._changed:
            self.sent.append(Sent(number, now))
            self._changed.notify_all()
        try:
            self._socket.sendto(payload, self._target)
        except OSError:
            return  # it counts as sent, and as lost

    def _receive(self) -> None:
        while True:
            try:
                payload, (address, port, *_) = self._socket.recvfrom(LARGEST + 1)
            except BlockingIOError:
                return
            except OSError:
                continue
            decoded = decode(payload)
            if decoded is not None:
                one = self.sent[decoded[0].sequence]
                with self._changed:
                    one.backends.append(decoded[0].name)
                    one.sources.append((address, port))
                    self._changed.notify_all()


def lost(sent: Sequence[Sent]) -> list[Sent]:
    return [one for one in sent if not one.backends]


def twice(sent: Sequence[Sent]) -> list[Sent]:
    return [one for one in sent if len(one.backends) > 1]


def sources(sent: Sequence[Sent]) -> set[tuple[str, int]]:
    return {source for one in sent for source in one.sources}


def longest_run(sent: Sequence[Sent]) -> int:
    """How many datagrams in a row one backend got at most: 1 when they take turns."""
    longest = run = 0
    before = ""
    for one in sent:
        run = run + 1 if one.backend == before else 1
        before, longest = one.backend, max(longest, run)
    return longest
