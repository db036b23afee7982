"""Traffic from ONE client socket at a constant rate, with the replies to every datagram."""

from __future__ import annotations

import select
import socket
import struct
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Self

from nftlb.lab.datagram import LARGEST, SAME, Datagram, DatagramKind, decode_datagram
from nftlb.lab.sockopt import grow_receive_buffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab import Host

LATE = 0.1
PAUSES = 20
"""After the last datagram, and after each reply that comes then, so many times `LATE` seconds without a reply end the
wait: a machine that stands still takes one of them."""
BURST = 10
"""Losses belong to one burst if at most so many datagrams between them have replies."""
_SO_MEMINFO, _DROPS, _NUMBERS = 55, 8, 9  # include/uapi/asm-generic/socket.h, include/uapi/linux/sock_diag.h


@dataclass
class Sent:
    """A datagram, with its time of sending (seconds, monotonic) and the backends that replied; two are a fault."""

    number: int
    at: float
    backends: list[str] = field(default_factory=list)
    sources: list[tuple[str, int]] = field(default_factory=list)

    @property
    def backend(self) -> str:
        """The backend that replied; empty without a reply."""
        return self.backends[0] if self.backends else ""


class Flow:
    """A context manager that sends from a thread. After `with`, `sent` is complete."""

    def __init__(self, host: Host, target: tuple[str, int], *, rate: int = 2000, size: int = 64) -> None:
        """`rate`: datagrams per second, if the machine is fast enough."""
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._name = host.name
        self._socket: socket.socket = host.call(socket.socket, family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        grow_receive_buffer(self._socket)
        self._target = target
        self._pause = 1 / rate
        self._size = size
        self._running = True
        self._paused = False
        self._changed = Condition()
        self._dropped = dropped_by_processors()
        self.sent: list[Sent] = []
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()

    def stop(self) -> list[Sent]:
        """Stop sending, wait for late replies, and return all datagrams."""
        self._running = False
        self._thread.join()
        return self.sent

    def hold(self) -> None:
        """Pause until `resume`."""
        self._paused = True

    def pause(self, timeout: float = 20.0, *, since: float = 0.0) -> None:
        """Pause until `resume`, and wait until all datagrams that were sent since a time have replies."""
        self.hold()
        with self._changed:
            if not self._changed.wait_for(lambda: all(datagram.backends for datagram in self._since(since)), timeout):
                raise TimeoutError(self._explain(lost(self._since(since)), since, timeout))

    def _explain(self, missing: Sequence[Sent], since: float, timeout: float) -> str:
        """Say which datagrams are missing, and what this machine dropped before or after nftlb."""
        bursts = describe_bursts(missing, since or self.sent[0].at)
        numbers = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _NUMBERS)
        dropped = struct.unpack(f"={_NUMBERS}I", numbers)[_DROPS]
        return (
            f"{len(missing)} datagrams were not answered within {timeout} s: {bursts}. Since the traffic began, the "
            f"client's socket dropped {dropped}, and the queues of the processors, which all namespaces share, "
            f"{dropped_by_processors() - self._dropped}"
        )

    def _since(self, moment: float) -> list[Sent]:
        return self.sent[bisect_left(self.sent, moment, key=attrgetter("at")) :]

    def resume(self) -> None:
        self._paused = False

    def wait(self, count: int, timeout: float = 60.0) -> None:
        """Wait until `count` more datagrams were sent."""
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
                self._receive()  # a machine that is too slow for the rate would never get to the branch below
            elif poll.poll(max(0.0, due - now) * 1000):
                self._receive()
        pauses = 0
        while pauses < PAUSES and any(not datagram.backends for datagram in self.sent[-1000:]):
            pauses += 1
            if poll.poll(LATE * 1000):
                self._receive()
                pauses = 0

    def _send(self, now: float) -> None:
        number = len(self.sent)
        payload = Datagram(DatagramKind.REQUEST, number, self._name, self._size, SAME).encode()
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
            decoded = decode_datagram(payload)
            if decoded is not None:
                datagram = self.sent[decoded[0].sequence]
                with self._changed:
                    datagram.backends.append(decoded[0].name)
                    datagram.sources.append((address, port))
                    self._changed.notify_all()


def lost(sent: Sequence[Sent]) -> list[Sent]:
    return [datagram for datagram in sent if not datagram.backends]


def describe_bursts(missing: Sequence[Sent], since: float) -> str:
    """Say how many datagrams are missing in each burst, of how many, and when they were sent.

    >>> "80 of 238 sent 0.021 s to 0.140 s after that time"  # turns of one of three backends
    """
    bursts: list[list[Sent]] = []
    for datagram in missing:
        if not bursts or datagram.number - bursts[-1][-1].number > BURST:
            bursts.append([])
        bursts[-1].append(datagram)
    return ", ".join(
        f"{len(burst)} of {burst[-1].number - burst[0].number + 1} sent {burst[0].at - since:.3f} s "
        f"to {burst[-1].at - since:.3f} s after that time"
        for burst in bursts
    )


def dropped_by_processors() -> int:
    """The number of packets that were lost because the queue of a processor was full, in all namespaces together.

    A queue has places for `net.core.netdev_max_backlog` packets, which all interfaces of all namespaces share.
    """
    lines = Path("/proc/net/softnet_stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def twice(sent: Sequence[Sent]) -> list[Sent]:
    return [datagram for datagram in sent if len(datagram.backends) > 1]


def sources(sent: Sequence[Sent]) -> set[tuple[str, int]]:
    return {source for datagram in sent for source in datagram.sources}


def longest_run(sent: Sequence[Sent]) -> int:
    """The longest run of datagrams to one backend: 1 in strict turn."""
    longest = run = 0
    before = ""
    for datagram in sent:
        run = run + 1 if datagram.backend == before else 1
        before, longest = datagram.backend, max(longest, run)
    return longest
