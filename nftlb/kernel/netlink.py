"""A raw netlink socket: requests, acknowledgements and dumps, and the layout of attributes.

Written by hand, because the callers read hundreds of thousands of conntrack entries, or ask every few milliseconds, or
must start fast. pyroute2 takes 0.2 s to import and tens of microseconds a message; the lab takes half as long with this
module as with pyroute2.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLA_F_NESTED = 0x8000

_NLMSG_ERROR, _NLMSG_FIRST = 2, 16
_NLM_F_DUMP_INTR = 0x10
_NLMSGERR_ATTR_MSG = 1
_NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
ATTRIBUTE_SIZE = _ATTRIBUTE.size
_ERROR = struct.Struct("=i")

# The kernel puts at most 32 KiB of a dump into one datagram, and a larger single message into a separate datagram.
_RECEIVE_SIZE = 256 * 1024
# An error message takes a little less than 1 KiB of the socket's buffer, which holds about 200 KiB by default.
_BATCH = 64
_DUMP_ATTEMPTS = 10
_LAST_SEQUENCE = 0xFFFFFFFF


class DumpInterruptedError(OSError):
    """The dumped objects changed during the dump. It may be incomplete and should be repeated."""


class Netlink:
    """A socket to one part of the kernel, in the network namespace of the thread that makes it. A context manager.

    The methods raise OSError with the kernel's error number and, since Linux 4.12, its explanation.
    """

    def __init__(self, protocol: int) -> None:
        """Open the socket. `protocol` is NETLINK_ROUTE or NETLINK_NETFILTER."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._buffer = bytearray(_RECEIVE_SIZE)
        self._sequence = 0
        self._socket.bind((0, 0))
        for option in (
            _NETLINK_CAP_ACK,  # an error comes back without the request it answers (Linux 4.2)
            _NETLINK_EXT_ACK,  # and with an explanation (Linux 4.12)
            _NETLINK_GET_STRICT_CHK,  # dumps of routes apply the filter in the request (Linux 4.20)
        ):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request that changes something, and wait until the kernel has carried it out."""
        self.ask(kind, body, flags | NLM_F_ACK)

    def ask(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """Return the body of the single reply to a request; empty if the kernel only acknowledged the request."""
        sequence = self._next()
        self._socket.send(_message(kind, flags | NLM_F_REQUEST, sequence, body))
        while True:
            for answer, _, number, data in self._receive():
                if number != sequence:
                    continue  # a reply to an earlier request that was given up
                if answer == _NLMSG_ERROR:
                    _check(data)
                    return b""
                return data

    def change_all(self, kind: int, bodies: Iterable[bytes], flags: int = 0) -> Iterator[OSError | None]:
        """Send many requests that change something; yield the error or None for each, in order.

        Each request succeeds or fails independently of the others.
        """
        remaining = iter(bodies)
        while batch := list(islice(remaining, _BATCH)):
            yield from self._change_batch(kind, batch, flags)

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Yield the body of every message of a dump.

        At its end, DumpInterruptedError is raised if something changed meanwhile.
        """
        sequence = self._next()
        self._socket.send(_message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))
        interrupted = False
        while True:
            for answer, flags, number, data in self._receive():
                if number != sequence:
                    continue
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if answer >= _NLMSG_FIRST:
                    yield data
                    continue
                # A dump that failed on its way ends with DONE and the error.
                if len(data) >= _ERROR.size:
                    _check(data)
                if interrupted:
                    raise DumpInterruptedError(errno.EINTR, "the dump was interrupted by changes")
                return

    def dump_all(self, kind: int, body: bytes) -> list[bytes]:
        """Return a whole dump. It is repeated when changes interrupt it, up to ten times."""
        for _ in range(_DUMP_ATTEMPTS - 1):
            try:
                return list(self.dump(kind, body))
            except DumpInterruptedError:
                continue
        return list(self.dump(kind, body))

    def _change_batch(self, kind: int, bodies: list[bytes], flags: int) -> list[OSError | None]:
        """Send requests in one system call, which returns when the kernel has carried them out.

        Of the requests that succeed, only the last is acknowledged.
        """
        numbers = [self._next() for _ in bodies]
        acknowledge = [0] * (len(bodies) - 1) + [NLM_F_ACK]
        requests = zip(acknowledge, numbers, bodies, strict=True)
        self._socket.send(
            b"".join(_message(kind, flags | NLM_F_REQUEST | ack, number, body) for ack, number, body in requests)
        )
        errors: dict[int, OSError] = {}
        while True:
            for answer, _, number, data in self._receive():
                if answer != _NLMSG_ERROR or number not in numbers:
                    continue
                try:
                    _check(data)
                except OSError as error:
                    errors[number] = error
                if number == numbers[-1]:
                    return [errors.get(number) for number in numbers]

    def _receive(self, how: int = 0) -> list[tuple[int, int, int, bytes]]:
        """Wait for a datagram; return (type, flags, sequence, body) of each message. `how`: flags for recv(2)."""
        end = self._socket.recv_into(self._buffer, 0, socket.MSG_TRUNC | how)
        if end > len(self._buffer):
            raise OSError(errno.EMSGSIZE, "a netlink message is larger than any that the kernel is known to send")
        received = bytes(memoryview(self._buffer)[:end])
        messages = []
        start = 0
        while start < end:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(received, start)
            messages.append((kind, flags, sequence, received[start + 16 : start + length]))
            start += length + 3 & ~3
        return messages

    def _next(self) -> int:
        self._sequence = self._sequence % _LAST_SEQUENCE + 1
        return self._sequence


def attribute(kind: int, data: bytes) -> bytes:
    """Encode one attribute. `kind` includes NLA_F_NESTED if `data` consists of attributes."""
    return _ATTRIBUTE.pack(len(data) + 4, kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """Decode attributes by type, from the offset `start` (in bytes) of a message's body."""
    found = {}
    end = len(data) - 3
    unpack = _ATTRIBUTE.unpack_from
    while start < end:
        length, kind = unpack(data, start)
        if length < ATTRIBUTE_SIZE:
            break
        found[kind & _NLA_TYPE_MASK] = data[start + 4 : start + length]
        start += length + 3 & ~3
    return found


def members(data: bytes) -> Iterator[bytes]:
    """Yield the data of each attribute of a list."""
    start, end = 0, len(data) - 3
    unpack = _ATTRIBUTE.unpack_from
    while start < end:
        length, _ = unpack(data, start)
        if length < ATTRIBUTE_SIZE:
            return
        yield data[start + 4 : start + length]
        start += length + 3 & ~3


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def _check(data: bytes) -> None:
    """Raise the error in an NLMSG_ERROR or NLMSG_DONE message, if the message reports an error."""
    (number,) = _ERROR.unpack_from(data)
    if number >= 0:
        return
    # With NETLINK_CAP_ACK, the explanation follows the error number and the header of the request.
    explained = attributes(data, 20).get(_NLMSGERR_ATTR_MSG, b"")
    text = explained.rstrip(b"\0").decode(errors="replace")
    raise OSError(-number, f"{os.strerror(-number)} ({text})" if text else os.strerror(-number))
