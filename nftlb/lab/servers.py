"""The UDP servers of the backends: they record the received datagrams, and reply with the name of the backend."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import TYPE_CHECKING, Self

from . import sockopt
from .datagram import LARGEST, SMALLEST, Datagram, DatagramKind, decode_datagram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .host import Host


class SocketLoop:
    """Calls a handler for each readable socket, for the UDP, TCP and SCTP servers of lab and tests.

    The thread runs inside `with`, at whose end the sockets are closed.

    Handlers run in the thread and may add and remove sockets. When a handler raises an exception, the thread ends,
    `on_problem` is called, and the exception is raised again at the end of `with`.
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
        """Close all sockets, if `with` was never entered."""
        with contextlib.ExitStack() as stack:
            for sock in (*self._sockets, self._stop_here, self._stop_there):
                stack.callback(sock.close)
            stack.callback(self._selector.close)

    def add(self, sock: socket.socket, handler: Callable[[socket.socket], None]) -> None:
        """Serve a socket. The loop closes it later, and makes it non-blocking."""
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
                    if key.fileobj in self._sockets:  # an earlier handler of this round may have removed the socket
                        key.data(key.fileobj)
        except Exception as problem:  # noqa: BLE001 - raised again where `with` ends
            self.problem = problem
            if self._on_problem:
                self._on_problem()


WAIT_TIMEOUT = 30.0
"""Seconds to wait for expected datagrams: far more than they take, because a busy machine may stand still."""
_FENCE_PATIENCE = 0.5
"""Seconds after which an unanswered fence is sent again."""
_FENCES = 2
"""The fences from each processor: a datagram may have so many more hops left than a fence."""
_BATCH = 64


@dataclass(frozen=True)
class Received:
    """One datagram as a backend received it."""

    backend: str
    sequence: int | None
    """None: the payload was not made by the lab."""
    sender: str
    """The host that made the datagram, from its payload: NAT does not change it."""
    size: int
    whole: bool
    source: tuple[str, int]
    destination: tuple[str, int]
    arrival: int
    """Nanoseconds, from the kernel's receive path. It orders the datagrams of different sockets and backends."""
    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class _Endpoint:
    host: Host
    version: int
    port: int


class Servers:
    """UDP sockets on the backends, served by one thread. A context manager; made by `Lab.serve`.

    Each socket is bound to the wildcard address, and replies from the address to which the request was sent.
    The reply to a payload that the lab did not make is the backend's name, a blank and the payload.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        ports: Sequence[int],
        *,
        versions: Sequence[int],
        answer: bool,
        zero_checksum: bool,
        fence_from: Host,
    ) -> None:
        self._hosts = tuple(hosts)
        self._ports = tuple(ports)
        self._versions = tuple(versions)
        self._answer = answer
        self._zero_checksum = zero_checksum
        self._fence_from = fence_from
        self._endpoints: list[_Endpoint] = []
        self._records: list[Received] = []
        self._changed = Condition()
        self._loop: SocketLoop | None = None

    def __enter__(self) -> Self:
        loop = SocketLoop("lab-servers", self._wake)
        try:
            for host in self._hosts:
                for version in self._versions:
                    for port in self._ports:
                        sock = host.call(self._open, version, port)
                        endpoint = _Endpoint(host, version, port)
                        self._endpoints.append(endpoint)
                        loop.add(sock, partial(self._serve, endpoint))
        except BaseException:
            loop.close()
            raise
        self._loop = loop.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._loop:
            self._loop.__exit__(*problem)

    @property
    def received(self) -> list[Received]:
        """All received datagrams except fences, in the order in which they reached the backends."""
        with self._changed:
            return sorted(self._records, key=lambda record: record.arrival)

    @property
    def counts(self) -> dict[str, int]:
        """The number of datagrams by backend, including backends with zero datagrams."""
        counts = {host.name: 0 for host in self._hosts}
        for record in self.received:
            counts[record.backend] += 1
        return counts

    def clear(self) -> None:
        """Delete the records of received datagrams."""
        with self._changed:
            self._records.clear()

    def wait(self, count: int, timeout: float = WAIT_TIMEOUT) -> list[Received]:
        """Wait until `count` datagrams have arrived in total. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._broken or len(self._records) >= count, timeout):
                raise TimeoutError(f"{len(self._records)} datagrams of {count} arrived within {timeout} s")
        return self.received

    def settle(self, timeout: float = WAIT_TIMEOUT) -> list[Received]:
        """Wait until every earlier datagram has arrived or is lost. Return the received datagrams.

        With this a test sees that a datagram does NOT arrive, without a sleep. A fence is sent from the first client to
        each server socket's own address (not to the VIP, so it changes no balancing counter) and back. Datagrams that
        were sent before the fence on the same path are read before it, and their replies are sent before its reply.

        Each processor has a queue of packets, and the kernel may handle the queue later than the sender returns. At
        each hop, a packet comes to the end of the queue. Therefore the first fences to each host come from each
        processor, and several times: with each, a datagram on a longer path through the same queue is a hop further.
        """
        deadline = time.monotonic() + timeout
        one_of_each = {(end.host.name, end.version): number for number, end in enumerate(self._endpoints)}
        before = os.sched_getaffinity(0)
        try:
            for processor in os.sched_getaffinity(os.getpid()):
                os.sched_setaffinity(0, {processor})
                for _ in range(_FENCES):
                    self._fence(one_of_each.values(), deadline)
        finally:
            os.sched_setaffinity(0, before)
        self._fence(range(len(self._endpoints)), deadline)
        return self.received

    def _fence(self, numbers: Iterable[int], deadline: float) -> None:
        """Send a fence to each of these server sockets, and wait until all have come back."""
        for version in self._versions:
            waiting = {number: end for number in numbers if (end := self._endpoints[number]).version == version}
            with self._fence_from.call(socket.socket, sockopt.family_of(version), socket.SOCK_DGRAM) as sock:
                sockopt.grow_receive_buffer(sock)
                if self._zero_checksum:
                    sockopt.omit_checksum(sock)  # over IPv6, a socket receives no such replies by default
                while waiting:
                    if time.monotonic() > deadline:
                        raise TimeoutError(
                            f"no reply to the fence came from {', '.join(e.host.name for e in waiting.values())}"
                        )
                    for number, end in waiting.items():
                        fence = Datagram(DatagramKind.FENCE, number, self._fence_from.name, SMALLEST)
                        sock.sendto(fence.encode(), (end.host.address(version), end.port))
                    _collect_fences(sock, waiting)

    def _open(self, version: int, port: int) -> socket.socket:
        """Make a server socket in this thread's namespace."""
        sock = socket.socket(sockopt.family_of(version), socket.SOCK_DGRAM)
        try:
            if version == 6:  # noqa: PLR2004 - the version's name is its number
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sockopt.grow_receive_buffer(sock)
            sockopt.receive_destination(sock)
            if self._zero_checksum:
                sockopt.omit_checksum(sock)
            sock.bind(("", port))
        except BaseException:
            sock.close()
            raise
        return sock

    @property
    def _broken(self) -> bool:
        return self._loop is not None and self._loop.problem is not None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _serve(self, endpoint: _Endpoint, sock: socket.socket) -> None:
        """Receive up to _BATCH datagrams from one socket, so that the other sockets get their turn."""
        for _ in range(_BATCH):
            try:
                payload, ancillary, _, peer = sock.recvmsg(LARGEST + 1, sockopt.ANCILLARY_SIZE)
            except BlockingIOError:
                return
            decoded = decode_datagram(payload)
            destination = sockopt.destination_of(ancillary)
            if not (decoded and decoded[0].kind is DatagramKind.FENCE):
                self._record(endpoint, payload, decoded, (peer[0], peer[1]), ancillary)
            reply = self._reply(endpoint.host.name, payload, decoded)
            if reply:
                sockopt.send_reply(sock, reply, destination, peer)

    def _record(
        self,
        endpoint: _Endpoint,
        payload: bytes,
        decoded: tuple[Datagram, bool] | None,
        source: tuple[str, int],
        ancillary: list[sockopt.Ancillary],
    ) -> None:
        datagram, whole = decoded or (None, False)
        record = Received(
            backend=endpoint.host.name,
            sequence=datagram.sequence if datagram else None,
            sender=datagram.name if datagram else "",
            size=len(payload),
            whole=whole,
            source=source,
            destination=(sockopt.destination_of(ancillary), endpoint.port),
            arrival=sockopt.arrival_of(ancillary),
            payload=payload,
        )
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def _reply(self, name: str, payload: bytes, decoded: tuple[Datagram, bool] | None) -> bytes:
        """Return the reply to a payload; empty for no reply."""
        if decoded is None:
            return f"{name} ".encode() + payload if self._answer else b""
        datagram, _ = decoded
        if datagram.kind is DatagramKind.FENCE or (self._answer and datagram.reply_size):
            return datagram.reply(name).encode()
        return b""


def _collect_fences(sock: socket.socket, waiting: dict[int, _Endpoint]) -> None:
    """Remove the returned fences from `waiting`, whatever source address the rules gave them."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    deadline = time.monotonic() + _FENCE_PATIENCE
    while waiting and (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            decoded = decode_datagram(sock.recv(LARGEST + 1))
            if decoded and decoded[0].kind is DatagramKind.FENCE:
                waiting.pop(decoded[0].sequence, None)
