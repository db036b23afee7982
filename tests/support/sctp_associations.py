"""SCTP over raw sockets, for kernels without SCTP. Every CRC32c is computed and checked here.

The balancer only rewrites and tracks SCTP, which needs no SCTP stack anywhere. The handshake (INIT, INIT ACK, COOKIE
ECHO, COOKIE ACK) makes a connection tracker take the association for established; heartbeats then go back and forth.

A kernel that has SCTP loaded answers the same packets with ABORT, because it knows no such socket: see `kernel_sctp`.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab_servers import LabServers

from nftlb.lab import sockopt
from nftlb.lab.topology import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab import Namespace
    from nftlb.lab.servers import SocketLoop

ANSWER_TIMEOUT = 20.0
"""Seconds to wait for the reply to a packet, unless a test expects none."""

_COMMON = struct.Struct("!HHI")
_CRC = struct.Struct("<I")  # RFC 9260, appendix A: the lowest byte of the CRC is sent first
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
        """The packet with its checksum."""
        head = _COMMON.pack(self.source_port, self.destination_port, self.tag)
        chunk = _CHUNK.pack(self.kind, 0, _CHUNK.size + len(self.value)) + self.value
        chunk += bytes(-len(chunk) % 4)
        return head + _CRC.pack(crc32c(head + bytes(4) + chunk)) + chunk


def decode_sctp(data: bytes) -> SctpPacket | None:
    """The packet with its first chunk; None if the data is too short."""
    if len(data) < _HEADER_SIZE + _CHUNK.size:
        return None
    source_port, destination_port, tag = _COMMON.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, 8)
    kind, _, length = _CHUNK.unpack_from(data, _HEADER_SIZE)
    good = crc == crc32c(data[:8] + bytes(4) + data[_HEADER_SIZE:])
    value = data[_HEADER_SIZE + _CHUNK.size : _HEADER_SIZE + length]
    return SctpPacket(source_port, destination_port, tag, kind, value, good)


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def kernel_sctp() -> bool:
    """Whether this kernel has SCTP loaded."""
    return Path("/proc/net/sctp").exists()


class SctpAssociation:
    """One association from a host; a context manager. `backend` is the name in the server's cookie."""

    def __init__(
        self, host: Namespace, target: tuple[str, int], *, source_port: int, timeout: float = ANSWER_TIMEOUT
    ) -> None:
        self._target = target
        self._timeout = timeout
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
        """Close the socket. The peer gets no message."""
        self._sock.close()

    def beat(self) -> str:
        """Send a heartbeat, and return the name of the backend that replied."""
        return self._ask(Chunk.HEARTBEAT, b"beat", Chunk.HEARTBEAT_ACK).decode()

    def _ask(self, kind: Chunk, value: bytes, expected: Chunk) -> bytes:
        """Send a chunk and return the value of the answer; raise TimeoutError or ConnectionError when it is wrong."""
        packet = SctpPacket(self._source_port, self._target[1], self._peer_tag, kind, value)
        self._sock.sendto(packet.encode(), (self._target[0], 0))
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            self._sock.settimeout(left)
            data, (address, *_) = self._sock.recvfrom(65536)
            answer = decode_sctp(_payload(self._sock, data))
            if answer is None or (answer.source_port, answer.destination_port) != (self._target[1], self._source_port):
                continue  # a raw socket sees the packets of all
            if not answer.good_checksum:
                raise ConnectionError(f"{kind.name} was answered with a wrong checksum")
            if (address, answer.tag, answer.kind) != (self._target[0], self._tag, expected):
                raise ConnectionError(f"{kind.name} was answered by {address} with {answer}")
            return answer.value
        raise TimeoutError(f"no answer to {kind.name}")


class SctpServers(LabServers):
    """Servers that reply to associations; `counts` are associations.

    `bad_checksums` counts packets that arrived with a wrong checksum. They get no reply.
    """

    def __init__(
        self, hosts: Sequence[Namespace], port: int = DEFAULT_PORT, *, versions: Sequence[int] = (4, 6)
    ) -> None:
        super().__init__(hosts, port, versions=versions)
        self._bad_checksums = 0
        self._tags: dict[tuple[str, str, int], int] = {}

    @property
    def bad_checksums(self) -> int:
        """The number of packets with a wrong checksum."""
        with self._lock:
            return self._bad_checksums

    def _open(self, version: int) -> socket.socket:
        sock = _raw_socket(version)
        try:
            sockopt.receive_destination(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _serve(self, _loop: SocketLoop, name: str, sock: socket.socket) -> None:
        data, ancillary, _, peer = sock.recvmsg(65536, sockopt.ANCILLARY_SIZE)
        packet = decode_sctp(_payload(sock, data))
        if packet is None or packet.destination_port != self._port:
            return
        if not packet.good_checksum:
            with self._lock:
                self._bad_checksums += 1
            return
        key = (name, peer[0], packet.source_port)
        if packet.kind == Chunk.INIT:
            self._tags[key], *_ = _INIT.unpack_from(packet.value)
            self._count(name)
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
        sockopt.send_reply(sock, answer.encode(), destination, (peer[0], 0))


def _raw_socket(version: int) -> socket.socket:
    return socket.socket(sockopt.family_of(version), socket.SOCK_RAW, _IPPROTO_SCTP)


def _payload(sock: socket.socket, data: bytes) -> bytes:
    """The bytes after the IP header, which raw sockets return with IPv4 but not with IPv6."""
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
