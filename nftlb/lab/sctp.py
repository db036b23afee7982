"""SCTP by hand, for kernels without it: associations over raw sockets, every CRC32c made and checked here.

The balancer only rewrites and tracks SCTP, which needs no SCTP stack anywhere. The handshake (INIT, INIT ACK, COOKIE
ECHO, COOKIE ACK) makes a connection tracker take the association for established; heartbeats then go back and forth.

A kernel that has SCTP loaded answers the same packets with ABORT, because it knows no such socket: see `kernel_sctp`.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

from nftlb.lab import sockopt
from nftlb.lab.loop import SocketLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab.namespace import Namespace

ANSWER_TIMEOUT = 2.0
"""Seconds to wait for the answer to a packet."""

_COMMON = struct.Struct("!HHI")
_CRC = struct.Struct("<I")  # RFC 9260, appendix A: the CRC's bytes travel lowest first
_CHUNK = struct.Struct("!BBH")
_INIT = struct.Struct("!IIHHI")
_HEADER_SIZE = 12
_STATE_COOKIE = 7
_IPPROTO_SCTP = 132
_WINDOW = 65535


class Chunk(IntEnum):
    """Chunk types of RFC 9260 that are used here."""

    INIT = 1
    INIT_ACK = 2
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    COOKIE_ECHO = 10
    COOKIE_ACK = 11


@dataclass(frozen=True)
class SctpPacket:
    """A packet of one chunk."""

    source_port: int
    destination_port: int
    tag: int
    kind: int
    value: bytes
    good_checksum: bool = True

    def encode(self) -> bytes:
        """Return the packet with its checksum."""
        head = _COMMON.pack(self.source_port, self.destination_port, self.tag)
        chunk = _CHUNK.pack(self.kind, 0, _CHUNK.size + len(self.value)) + self.value
        chunk += bytes(-len(chunk) % 4)
        return head + _CRC.pack(crc32c(head + bytes(4) + chunk)) + chunk


def decode(data: bytes) -> SctpPacket | None:
    """Return the packet, looking at its first chunk only; None when it is too short to be one."""
    if len(data) < _HEADER_SIZE + _CHUNK.size:
        return None
    source_port, destination_port, tag = _COMMON.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, 8)
    kind, _, length = _CHUNK.unpack_from(data, _HEADER_SIZE)
    good = crc == crc32c(data[:8] + bytes(4) + data[_HEADER_SIZE:])
    value = data[_HEADER_SIZE + _CHUNK.size : _HEADER_SIZE + length]
    return SctpPacket(source_port, destination_port, tag, kind, value, good)


def crc32c(data: bytes) -> int:
    """Return the Castagnoli CRC."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def kernel_sctp() -> bool:
    """Tell whether this kernel has SCTP sockets loaded."""
    return Path("/proc/net/sctp").exists()


class SctpFlow:
    """One association from a host; a context manager. `backend` is the name in the server's cookie."""

    def __init__(self, host: Namespace, target: tuple[str, int], *, source_port: int) -> None:
        self._target = target
        self._source_port = source_port
        self._tag = secrets.randbits(31) | 1
        self._peer_tag = 0
        self._sock = host.call(_raw_socket, sockopt.version_of(target[0]))
        try:
            init = _INIT.pack(self._tag, _WINDOW, 1, 1, self._tag)
            answer = self._ask(Chunk.INIT, init, Chunk.INIT_ACK)
            self._peer_tag, *_ = _INIT.unpack_from(answer)
            cookie = _cookie(answer[_INIT.size :])
            self.backend = cookie.decode()
            self._ask(Chunk.COOKIE_ECHO, cookie, Chunk.COOKIE_ACK)
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; the peer is not told."""
        self._sock.close()

    def beat(self) -> str:
        """Send a heartbeat and return the name of the backend that answered it."""
        return self._ask(Chunk.HEARTBEAT, b"beat", Chunk.HEARTBEAT_ACK).decode()

    def _ask(self, kind: Chunk, value: bytes, expected: Chunk) -> bytes:
        """Send a chunk and return the value of the answer; raise TimeoutError or ConnectionError when it is wrong."""
        packet = SctpPacket(self._source_port, self._target[1], self._peer_tag, kind, value)
        self._sock.sendto(packet.encode(), (self._target[0], 0))
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            self._sock.settimeout(left)
            data, (address, *_) = self._sock.recvfrom(65536)
            answer = decode(_payload(self._sock, data))
            if answer is None or (answer.source_port, answer.destination_port) != (self._target[1], self._source_port):
                continue  # a raw socket sees the packets of all
            if not answer.good_checksum:
                raise ConnectionError(f"{kind.name} was answered with a wrong checksum")
            if (address, answer.tag, answer.kind) != (self._target[0], self._tag, expected):
                raise ConnectionError(f"{kind.name} was answered by {address} with {answer}")
            return answer.value
        raise TimeoutError(f"no answer to {kind.name}")


class SctpServers:
    """Answers associations on the backends, in one thread; a context manager.

    `counts` are associations by backend, `bad_checksums` packets that came with a wrong one (and were not answered).
    """

    def __init__(self, hosts: Sequence[Namespace], port: int, *, versions: Sequence[int] = (4, 6)) -> None:
        self._hosts = tuple(hosts)
        self._port = port
        self._versions = tuple(versions)
        self._lock = Lock()
        self._counts: Counter[str] = Counter({host.name: 0 for host in hosts})
        self._bad_checksums = 0
        self._tags: dict[tuple[str, str, int], int] = {}
        self._loop: SocketLoop | None = None

    def __enter__(self) -> Self:
        loop = SocketLoop("lab-sctp")
        try:
            for host in self._hosts:
                for version in self._versions:
                    sock = host.call(_raw_socket, version)
                    loop.add(sock, partial(self._answer, host.name))
                    sockopt.tell_destination(sock)
        except BaseException:
            loop.close()
            raise
        self._loop = loop.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._loop:
            self._loop.__exit__(*problem)

    @property
    def counts(self) -> dict[str, int]:
        """Associations begun, by backend; a backend that got none has its zero."""
        with self._lock:
            return dict(self._counts)

    @property
    def bad_checksums(self) -> int:
        """Packets that came with a wrong checksum."""
        with self._lock:
            return self._bad_checksums

    def _answer(self, name: str, sock: socket.socket) -> None:
        data, ancillary, _, peer = sock.recvmsg(65536, sockopt.ANCILLARY_SIZE)
        packet = decode(_payload(sock, data))
        if packet is None or packet.destination_port != self._port:
            return
        if not packet.good_checksum:
            with self._lock:
                self._bad_checksums += 1
            return
        key = (name, peer[0], packet.source_port)
        if packet.kind == Chunk.INIT:
            self._tags[key], *_ = _INIT.unpack_from(packet.value)
            with self._lock:
                self._counts[name] += 1
            own_tag = secrets.randbits(31) | 1
            cookie = _CHUNK.pack(0, _STATE_COOKIE, _CHUNK.size + len(name)) + name.encode()
            kind, value = Chunk.INIT_ACK, _INIT.pack(own_tag, _WINDOW, 1, 1, own_tag) + cookie
        elif packet.kind == Chunk.COOKIE_ECHO:
            kind, value = Chunk.COOKIE_ACK, b""
        elif packet.kind == Chunk.HEARTBEAT:
            kind, value = Chunk.HEARTBEAT_ACK, name.encode()
        else:
            return
        answer = SctpPacket(self._port, packet.source_port, self._tags.get(key, 0), kind, value)
        destination = sockopt.destination_of(ancillary)
        sockopt.answer(sock, answer.encode(), destination, (peer[0], 0))


def _raw_socket(version: int) -> socket.socket:
    return socket.socket(sockopt.family_of(version), socket.SOCK_RAW, _IPPROTO_SCTP)


def _payload(sock: socket.socket, data: bytes) -> bytes:
    """Return what follows the IP header, which raw sockets hand out with IPv4 and not with IPv6."""
    return data[(data[0] & 0x0F) * 4 :] if sock.family == socket.AF_INET else data


def _cookie(parameters: bytes) -> bytes:
    """Find the state cookie among the parameters of an INIT ACK."""
    while len(parameters) >= _CHUNK.size:
        kind, length = struct.unpack_from("!HH", parameters)
        if kind == _STATE_COOKIE:
            return parameters[_CHUNK.size : length]
        parameters = parameters[max(length, _CHUNK.size) + -length % 4 :]
    raise ConnectionError("INIT ACK without a cookie")


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _make_table()
