"""The UDP services of the backends: what arrived where, and answers that say who gave them."""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from threading import Condition
from typing import TYPE_CHECKING, Self

from nftlb.lab import sockopt
from nftlb.lab.datagram import LARGEST, SMALLEST, Datagram, Kind, decode
from nftlb.lab.loop import SocketLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab.host import Host

WAIT_TIMEOUT = 5.0
"""Seconds to wait for something that is expected to come."""
_FENCE_PATIENCE = 0.5
"""Seconds after which a fence is sent again."""
_BATCH = 64


@dataclass(frozen=True)
class Received:
    """One datagram as a backend got it."""

    backend: str
    sequence: int | None
    """None: the payload is not one of the lab's."""
    sender: str
    """The host that made the datagram, as its payload says, whatever NAT did to the addresses."""
    size: int
    whole: bool
    source: tuple[str, int]
    destination: tuple[str, int]
    arrival: int
    """Nanoseconds, from the kernel's receive path: orders datagrams of different sockets and backends."""
    payload: bytes = field(repr=False)


@dataclass(frozen=True)
class _Endpoint:
    host: Host
    version: int
    port: int


class Servers:
    """UDP sockets on the backends, served by one thread. A context manager; made by `Lab.serve`.

    Each socket is bound to the wildcard address, and answers from the address that it was asked at.
    A payload that is not the lab's own is answered with the backend's name, a blank and the payload.
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
                        loop.add(sock, partial(self._read, endpoint))
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
        """All datagrams so far, fences excepted, in the order in which they reached the backends."""
        with self._changed:
            return sorted(self._records, key=lambda record: record.arrival)

    @property
    def counts(self) -> dict[str, int]:
        """Datagrams by backend; a backend that got none has its zero."""
        counts = {host.name: 0 for host in self._hosts}
        for record in self.received:
            counts[record.backend] += 1
        return counts

    def clear(self) -> None:
        """Forget what was received."""
        with self._changed:
            self._records.clear()

    def wait(self, count: int, timeout: float = WAIT_TIMEOUT) -> list[Received]:
        """Wait until `count` datagrams have arrived in all; raise TimeoutError when they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._broken or len(self._records) >= count, timeout):
                raise TimeoutError(f"{len(self._records)} datagrams of {count} arrived within {timeout} s")
        return self.received

    def settle(self, timeout: float = WAIT_TIMEOUT) -> list[Received]:
        """Wait until every datagram that was on its way has arrived, or never will; return what was received.

        This is how to see that something does NOT come, without a sleep: a fence goes from the first client to each
        server socket's own address (past the VIP, so it moves no balancing counter) and back. What was sent before it,
        on the same path, has been read before it, and what was answered before it has been sent back before it.
        """
        deadline = time.monotonic() + timeout
        for version in self._versions:
            waiting = {number: end for number, end in enumerate(self._endpoints) if end.version == version}
            with self._fence_from.call(socket.socket, sockopt.family_of(version), socket.SOCK_DGRAM) as sock:
                sockopt.grow_receive_buffer(sock)
                while waiting:
                    if time.monotonic() > deadline:
                        raise TimeoutError(
                            f"no fence came back from {', '.join(e.host.name for e in waiting.values())}"
                        )
                    for number, end in waiting.items():
                        fence = Datagram(Kind.FENCE, number, self._fence_from.name, SMALLEST)
                        sock.sendto(fence.encode(), (end.host.address(version), end.port))
                    _collect_fences(sock, waiting)
        return self.received

    def _open(self, version: int, port: int) -> socket.socket:
        """Make a socket in this thread's namespace."""
        sock = socket.socket(sockopt.family_of(version), socket.SOCK_DGRAM)
        try:
            if version == 6:  # noqa: PLR2004 - the version's name is its number
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sockopt.grow_receive_buffer(sock)
            sockopt.tell_destination(sock)
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

    def _read(self, endpoint: _Endpoint, sock: socket.socket) -> None:
        """Take what waits at one socket, a batch at most, so that no socket starves the others."""
        for _ in range(_BATCH):
            try:
                payload, ancillary, _, peer = sock.recvmsg(LARGEST + 1, sockopt.ANCILLARY_SIZE)
            except BlockingIOError:
                return
            decoded = decode(payload)
            destination = sockopt.destination_of(ancillary)
            if not (decoded and decoded[0].kind is Kind.FENCE):
                self._record(endpoint, payload, decoded, (peer[0], peer[1]), ancillary)
            reply = self._reply(endpoint.host.name, payload, decoded)
            if reply:
                sockopt.answer(sock, reply, destination, peer)

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
        """Return the answer to a payload; empty when there is none to give."""
        if decoded is None:
            return f"{name} ".encode() + payload if self._answer else b""
        datagram, _ = decoded
        if datagram.kind is Kind.FENCE or (self._answer and datagram.reply_size):
            return datagram.reply(name).encode()
        return b""


def _collect_fences(sock: socket.socket, waiting: dict[int, _Endpoint]) -> None:
    """Strike off the fences that come back, from whatever address the rules put on them."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    deadline = time.monotonic() + _FENCE_PATIENCE
    while waiting and (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            decoded = decode(sock.recv(LARGEST + 1))
            if decoded and decoded[0].kind is Kind.FENCE:
                waiting.pop(decoded[0].sequence, None)
