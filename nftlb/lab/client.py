"""ONE client socket: sends numbered datagrams and tells who answered each, from where, and whether it was whole."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from nftlb.lab import sockopt
from nftlb.lab.datagram import LARGEST, SAME, Datagram, Kind, decode

if TYPE_CHECKING:
    from nftlb.lab.namespace import Namespace

REPLY_TIMEOUT = 2.0
"""Seconds after which a reply counts as lost; replies take less than a millisecond."""
DEFAULT_SIZE = 64
WINDOW = 64
"""Datagrams under way at a time in pipelined mode: far below what any queue on the path holds."""

_NOWHERE = ("", 0)
_EXTENDED_ERROR = struct.Struct("@IBBBxII")
_SOCKADDR4 = struct.Struct("@HH4s")
_SOCKADDR6 = struct.Struct("@HHI16s")
_ORIGIN_ICMP = 2
_ORIGIN_ICMP6 = 3


@dataclass(frozen=True)
class Answer:
    """What became of one datagram. `backend` is empty when there was no reply."""

    sequence: int
    backend: str = ""
    source: tuple[str, int] = _NOWHERE
    """Address and port that the reply came from, as recvfrom(2) tells it."""
    size: int = 0
    whole: bool = False
    copies: int = 0
    """Replies to this datagram: 1 is right, 0 is a loss."""
    error: OSError | None = None
    """What send or receive raised instead: an ICMP error (ECONNREFUSED, ...), EMSGSIZE, EPERM, ..."""


@dataclass(frozen=True)
class IcmpError:
    """One entry of a socket's error queue (IP_RECVERR)."""

    errno: int
    type: int
    code: int
    mtu: int
    """Of the next hop, with EMSGSIZE."""
    offender: str
    """Address of the host that sent the error; empty when the own kernel raised it."""
    sequence: int | None


class Client:
    """One UDP socket in a namespace; a context manager. Made by `Host.connect`, which explains the arguments."""

    def __init__(
        self,
        host: Namespace,
        target: tuple[str, int],
        *,
        connected: bool,
        source: tuple[str, int],
        zero_checksum: bool,
        dont_fragment: bool,
        error_queue: bool,
    ) -> None:
        self.target = target
        self.errors: list[OSError] = []
        """Errors that came while no datagram was waited for in particular."""
        self._name = host.name
        self._next = 0
        self._error_queue = error_queue
        self._icmp: list[IcmpError] = []
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
        if self._error_queue:
            sockopt.keep_errors(self._sock)
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
    ) -> list[Answer]:
        """Send `count` datagrams of `size` bytes of payload, wait for the replies, return what became of each.

        One after the other, each waits `timeout` seconds for its reply before the next is sent; `pipelined` keeps up to
        WINDOW of them under way. Numbers go on from the last exchange, so a late reply is never taken for another.
        """
        numbers = self._numbers(count)
        state = _Exchange({number: Answer(number) for number in numbers})
        for number in numbers:
            self._note_errors(state)  # one left over from before would be raised instead of sending this datagram
            error = self._send(number, size, reply_size)
            if error:
                state.close(number, error=error)
            else:
                state.open[number] = None
            self._receive(state, WINDOW - 1 if pipelined else 0, timeout)
        self._receive(state, 0, timeout)
        return list(state.answers.values())

    def send(self, count: int, *, size: int = DEFAULT_SIZE) -> range:
        """Send `count` datagrams that ask for no reply; return their numbers."""
        numbers = self._numbers(count)
        for number in numbers:
            error = self._send(number, size, 0)
            if error:
                raise error
        return numbers

    def drain(self) -> list[Answer]:
        """Return what has arrived since and was not waited for: duplicates and late replies. See `Servers.settle`."""
        state = _Exchange({})
        while self._poll.poll(0):
            self._take(state)
        return list(state.answers.values())

    def icmp_errors(self) -> list[IcmpError]:
        """Return the errors of the error queue since the last call (needs `error_queue`)."""
        self._note_errors(_Exchange({}))
        errors, self._icmp = self._icmp, []
        return errors

    def _numbers(self, count: int) -> range:
        first, self._next = self._next, self._next + count
        return range(first, self._next)

    def _send(self, number: int, size: int, reply_size: int) -> OSError | None:
        payload = Datagram(Kind.REQUEST, number, self._name, size, reply_size).encode()
        try:
            if self._connected:
                self._sock.send(payload)
            else:
                self._sock.sendto(payload, self.target)
        except OSError as error:
            return error
        return None

    def _receive(self, state: _Exchange, open_at_most: int, timeout: float) -> None:
        """Take replies until at most so many datagrams wait for one; after a `timeout` without progress, none does."""
        deadline = time.monotonic() + timeout
        while (before := len(state.open)) > open_at_most:
            if not self._poll.poll(max(0, deadline - time.monotonic()) * 1000):
                state.open.clear()
                return
            self._take(state)
            if len(state.open) < before:
                deadline = time.monotonic() + timeout

    def _take(self, state: _Exchange) -> None:
        """Take one reply, or the errors that wait."""
        self._note_errors(state)
        try:
            payload, (address, port, *_) = self._sock.recvfrom(LARGEST + 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._note(state, error, None)
            return
        decoded = decode(payload)
        if decoded is None:
            return
        datagram, whole = decoded
        known = state.answers.get(datagram.sequence, Answer(datagram.sequence))
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
        """Read the errors that the kernel holds for the socket, so that they don't come up in the wrong place."""
        if self._error_queue:
            while (entry := self._next_icmp_error()) is not None:
                self._icmp.append(entry)
                if entry.offender:
                    self._note(state, OSError(entry.errno, os.strerror(entry.errno)), entry.sequence)
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number and not self._error_queue:
            self._note(state, OSError(number, os.strerror(number)), None)

    def _note(self, state: _Exchange, error: OSError, number: int | None) -> None:
        """Put an error to its datagram: the one it names, else the only one that waits."""
        if number is None and len(state.open) == 1:
            number = next(iter(state.open))
        if number in state.answers:
            state.close(number, error=error)
        else:
            self.errors.append(error)

    def _next_icmp_error(self) -> IcmpError | None:
        try:
            payload, ancillary, _, _ = self._sock.recvmsg(
                LARGEST + 1, sockopt.ANCILLARY_SIZE, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return None
        decoded = decode(payload)  # ICMP brings back the beginning: enough for the number, hardly ever whole
        sequence = decoded[0].sequence if decoded else None
        for level, kind, data in ancillary:
            if (level, kind) in _EXTENDED_ERRORS:
                return _parse_extended_error(data, sequence)
        return None


@dataclass
class _Exchange:
    """The answers so far, by number, and the numbers that still wait for one (a dict: it keeps their order)."""

    answers: dict[int, Answer]
    open: dict[int, None] = field(default_factory=dict)

    def close(self, number: int, *, error: OSError) -> None:
        self.answers[number] = replace(self.answers[number], error=error)
        self.open.pop(number, None)


_EXTENDED_ERRORS = {(socket.IPPROTO_IP, sockopt.IP_RECVERR), (socket.IPPROTO_IPV6, sockopt.IPV6_RECVERR)}


def _parse_extended_error(data: bytes, sequence: int | None) -> IcmpError:
    """Read struct sock_extended_err and the address of the offender that follows it."""
    number, origin, kind, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
    offender = ""
    rest = data[_EXTENDED_ERROR.size :]
    if origin == _ORIGIN_ICMP:
        offender = str(ip_address(_SOCKADDR4.unpack_from(rest)[2]))
    elif origin == _ORIGIN_ICMP6:
        offender = str(ip_address(_SOCKADDR6.unpack_from(rest)[3]))
    return IcmpError(number, kind, code, info, offender, sequence)
