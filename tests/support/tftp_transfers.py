"""TFTP (RFC 1350): servers on backends, which send each file from a new port as real servers do; and a client."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from threading import Lock, Thread
from typing import TYPE_CHECKING, Self

from lab_servers import LabServers

from nftlb.lab.sockopt import family_of, version_of

if TYPE_CHECKING:
    from nftlb.lab import Namespace
    from nftlb.lab.servers import SocketLoop

_READ, _DATA, _ACK = 1, 3, 4
_HEADER = struct.Struct("!HH")
_BLOCK = 512
"""Bytes of a block. A shorter block is the last of its file."""
_FULL_BLOCKS = 3
_TIMEOUT = 10.0
"""Seconds until a packet counts as lost. A packet takes less than a millisecond."""


def content(backend: str, name: str) -> bytes:
    """Return the file that a backend sends: full blocks, and a short block with the name of the backend."""
    return (f"{backend} {name} ".encode() * _BLOCK)[:_BLOCK] * _FULL_BLOCKS + backend.encode()


class TftpServers(LabServers):
    """TFTP servers; `counts` are requests. `clients` are the addresses and ports that requests came from."""

    def __init__(self, hosts: list[Namespace], port: int) -> None:
        super().__init__(hosts, port)
        self.clients: list[tuple[str, int]] = []
        self._by_name = {host.name: host for host in hosts}
        self._threads: list[Thread] = []
        self._clients_lock = Lock()

    def __exit__(self, *problem: object) -> None:
        super().__exit__(*problem)
        for thread in self._threads:
            thread.join()

    def _open(self, version: int) -> socket.socket:
        return _socket(version, self._port)

    def _serve(self, loop: SocketLoop, name: str, sock: socket.socket) -> None:
        del loop
        request, client = sock.recvfrom(_BLOCK)
        with self._clients_lock:
            self.clients.append(client[:2])
        self._count(name)
        file = request[2:].partition(b"\0")[0].decode()
        thread = Thread(target=self._send, args=(name, version_of(client[0]), file, client), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _send(self, name: str, version: int, file: str, client: tuple[str, int]) -> None:
        data = content(name, file)
        with self._by_name[name].call(_socket, version, 0) as sock, contextlib.suppress(OSError):
            sock.connect(client)
            for number in range(1, _FULL_BLOCKS + 2):
                sock.send(_HEADER.pack(_DATA, number) + data[(number - 1) * _BLOCK : number * _BLOCK])
                while _HEADER.unpack(sock.recv(_HEADER.size)) != (_ACK, number):
                    pass


@dataclass(frozen=True)
class Transfer:
    """A received file. `sources` are the addresses and ports that its blocks came from."""

    backend: str
    sources: frozenset[tuple[str, int]]


class TftpClient:
    """ONE socket that fetches files from a service; a context manager. TimeoutError if a block does not arrive."""

    def __init__(self, host: Namespace, service: tuple[str, int], *, source_port: int = 0) -> None:
        self._service = service
        self._sock = host.call(_socket, version_of(service[0]), source_port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def fetch(self, name: str = "boot") -> Transfer:
        """Request a file and receive it."""
        self.request(name)
        return self.receive(name)

    def request(self, name: str = "boot") -> None:
        """Request a file. The first block then waits in the socket, and the server waits for its acknowledgement."""
        self._sock.sendto(struct.pack("!H", _READ) + f"{name}\0octet\0".encode(), self._service)

    def await_block(self) -> None:
        """Wait until a block is in the socket."""
        self._sock.recv(1, socket.MSG_PEEK)

    def receive(self, name: str = "boot") -> Transfer:
        """Receive the requested file."""
        blocks: list[bytes] = []
        sources = set()
        while not blocks or len(blocks[-1]) == _BLOCK:
            packet, source = self._sock.recvfrom(_BLOCK + _HEADER.size)
            assert (_DATA, len(blocks) + 1) == _HEADER.unpack_from(packet)
            self._sock.sendto(_HEADER.pack(_ACK, len(blocks) + 1), source)
            sources.add(source[:2])
            blocks.append(packet[_HEADER.size :])
        backend = blocks[-1].decode()
        assert content(backend, name) == b"".join(blocks)
        return Transfer(backend, frozenset(sources))


def _socket(version: int, port: int) -> socket.socket:
    sock = socket.socket(family_of(version), socket.SOCK_DGRAM)
    try:
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.settimeout(_TIMEOUT)
        sock.bind(("", port))
    except BaseException:
        sock.close()
        raise
    return sock
