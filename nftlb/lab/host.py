"""A host of the lab, and its ONE client socket: sends numbered datagrams, and returns which backend answered."""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from . import sockopt
from .datagram import LARGEST, SAME, Datagram, DatagramKind, decode_datagram
from .namespace import Namespace

if TYPE_CHECKING:
    from .plan import HostPlan

REPLY_TIMEOUT = 20.0
"""Seconds after which a reply counts as lost. Replies take less than a millisecond, but a busy machine may stand still.
Where a loss is expected, a shorter time saves time."""
DEFAULT_SIZE = 64
WINDOW = 64
"""Datagrams that may wait for a reply at a time in pipelined mode: far below the size of any queue on the path."""

_NOWHERE = ("", 0)


@dataclass(frozen=True)
class DatagramResult:
    """The result of one datagram. `backend` is empty if no reply came."""

    sequence: int
    backend: str = ""
    source: tuple[str, int] = _NOWHERE
    """Address and port that the reply came from, by recvfrom(2)."""
    size: int = 0
    whole: bool = False
    copies: int = 0
    """Number of replies to this datagram: 1 is right, 0 is a loss."""
    error: OSError | None = None
    """The error of send or receive, if one was raised: an ICMP error (ECONNREFUSED, ...), EMSGSIZE, EPERM, ..."""


class LabClient:
    """One UDP socket in a namespace. A context manager. Made by `Host.connect`, which explains the arguments."""

    def __init__(
        self,
        host: Namespace,
        target: tuple[str, int],
        *,
        connected: bool,
        source: tuple[str, int],
        zero_checksum: bool,
        dont_fragment: bool,
    ) -> None:
        self.target = target
        self.errors: list[OSError] = []
        """Errors that could not be assigned to a datagram."""
        self._name = host.name
        self._next = 0
        self._connected = connected
        family = sockopt.family_of(sockopt.version_of(target[0]))
        self._sock = host.call(socket.socket, family, socket.SOCK_DGRAM)
        try:
            self._prepare(source, zero_checksum=zero_checksum, dont_fragment=dont_fragment)
        except BaseException:
            self._sock.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)

    def _prepare(self, source: tuple[str, int], *, zero_checksum: bool, dont_fragment: bool) -> None:
        sockopt.grow_receive_buffer(self._sock)
        if zero_checksum:
            sockopt.omit_checksum(self._sock)
        if dont_fragment:
            sockopt.forbid_fragments(self._sock)
        self._sock.bind(source)
        if self._connected:
            self._sock.connect(self.target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    @property
    def source(self) -> tuple[str, int]:
        """The socket's own address and port."""
        address, port, *_ = self._sock.getsockname()
        return address, port

    def exchange(
        self,
        count: int,
        *,
        size: int = DEFAULT_SIZE,
        reply_size: int = SAME,
        pipelined: bool = False,
        timeout: float = REPLY_TIMEOUT,
    ) -> list[DatagramResult]:
        """Send `count` datagrams with `size` bytes of payload, wait for the replies, and return the result of each.

        Each datagram waits up to `timeout` seconds for its reply before the next is sent. With `pipelined`, up to
        WINDOW datagrams wait at a time. The numbers continue from the last exchange, so a late reply never counts for
        a new datagram.
        """
        numbers = self._numbers(count)
        state = _Exchange({number: DatagramResult(number) for number in numbers})
        for number in numbers:
            self._note_errors(state)  # an earlier error would be raised instead of sending this datagram
            error = self._send(number, size, reply_size)
            if error:
                state.close(number, error=error)
            else:
                state.open[number] = None
            self._receive(state, WINDOW - 1 if pipelined else 0, timeout)
        self._receive(state, 0, timeout)
        return list(state.answers.values())

    def send(self, count: int) -> range:
        """Send `count` datagrams that ask for no reply; return their numbers."""
        numbers = self._numbers(count)
        for number in numbers:
            error = self._send(number, DEFAULT_SIZE, 0)
            if error:
                raise error
        return numbers

    def drain(self) -> list[DatagramResult]:
        """Return the duplicates and late replies that arrived after the last exchange. See `Servers.settle`."""
        state = _Exchange({})
        while self._poll.poll(0):
            self._receive_one(state)
        return list(state.answers.values())

    def _numbers(self, count: int) -> range:
        first, self._next = self._next, self._next + count
        return range(first, self._next)

    def _send(self, number: int, size: int, reply_size: int) -> OSError | None:
        payload = Datagram(DatagramKind.REQUEST, number, self._name, size, reply_size).encode()
        try:
            if self._connected:
                self._sock.send(payload)
            else:
                self._sock.sendto(payload, self.target)
        except OSError as error:
            return error
        return None

    def _receive(self, state: _Exchange, open_at_most: int, timeout: float) -> None:
        """Receive replies until at most `open_at_most` datagrams wait. `timeout`: seconds without a reply."""
        deadline = time.monotonic() + timeout
        while (before := len(state.open)) > open_at_most:
            if not self._poll.poll(max(0, deadline - time.monotonic()) * 1000):
                state.open.clear()
                return
            self._receive_one(state)
            if len(state.open) < before:
                deadline = time.monotonic() + timeout

    def _receive_one(self, state: _Exchange) -> None:
        """Receive one reply, or record the waiting errors."""
        self._note_errors(state)
        try:
            payload, (address, port, *_) = self._sock.recvfrom(LARGEST + 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._note(state, error, None)
            return
        decoded = decode_datagram(payload)
        if decoded is None:
            return
        datagram, whole = decoded
        known = state.answers.get(datagram.sequence, DatagramResult(datagram.sequence))
        state.answers[datagram.sequence] = replace(
            known,
            backend=datagram.name,
            source=(address, port),
            size=len(payload),
            whole=whole and (known.whole or not known.copies),
            copies=known.copies + 1,
        )
        state.open.pop(datagram.sequence, None)

    def _note_errors(self, state: _Exchange) -> None:
        """Read the errors that the kernel holds for the socket, before another system call returns them."""
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._note(state, OSError(number, os.strerror(number)), None)

    def _note(self, state: _Exchange, error: OSError, number: int | None) -> None:
        """Assign an error to the datagram with that number or, without a number, to the only datagram that waits."""
        if number is None and len(state.open) == 1:
            number = next(iter(state.open))
        if number in state.answers:
            state.close(number, error=error)
        else:
            self.errors.append(error)


@dataclass
class _Exchange:
    """The results so far by number, and the numbers that still wait for a reply (a dict, which keeps their order)."""

    answers: dict[int, DatagramResult]
    open: dict[int, None] = field(default_factory=dict)

    def close(self, number: int, *, error: OSError) -> None:
        self.answers[number] = replace(self.answers[number], error=error)
        self.open.pop(number, None)


class Host(Namespace):
    """A client, a backend or the balancer. `ipv4` and `ipv6`: its own addresses (the VIPs, for a routed balancer)."""

    def __init__(self, plan: HostPlan) -> None:
        super().__init__(plan.name)
        self.plan = plan
        self.ipv4 = plan.ipv4
        self.ipv6 = plan.ipv6

    def address(self, version: int) -> str:
        """Return the address of IP version 4 or 6."""
        return {4: self.ipv4, 6: self.ipv6}[version]

    def connect(
        self,
        target: tuple[str, int],
        *,
        connected: bool = True,
        source_port: int = 0,
        source_address: str = "",
        zero_checksum: bool = False,
        dont_fragment: bool = False,
    ) -> LabClient:
        """Open ONE UDP socket on this host that talks to `target` (see `LabClient`).

        A connected socket receives only replies from `target`, and raises ICMP errors as OSError. With
        `connected=False` it also receives replies from other addresses, and no ICMP errors. `zero_checksum` sends UDP
        without a checksum and, over IPv6, accepts datagrams without a checksum. `dont_fragment` sets DF and refuses
        datagrams that are larger than the known path MTU.
        """
        return LabClient(
            self,
            target,
            connected=connected,
            source=(source_address, source_port),
            zero_checksum=zero_checksum,
            dont_fragment=dont_fragment,
        )
