"""One question and its answer, from any host of the lab: what the harness itself knows of a server's health."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.lab import Host

_LARGEST = 65535


@dataclass(frozen=True)
class Answer:
    """What a server said. `right`: it is the answer of a healthy one; `what`: in a few words, for messages."""

    right: bool
    what: str
    seconds: float
    """From the question to the whole answer; of a TCP service with the handshake."""


def open_udp(source: Host, target: tuple[str, int], timeout: float) -> socket.socket:
    """Open a connected UDP socket on a host of the lab: an ICMP error comes back from it as OSError."""

    def inside() -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(timeout)
        sock.connect(target)
        return sock

    return source.call(inside)


def open_tcp(source: Host, target: tuple[str, int], timeout: float) -> socket.socket:
    """Open a TCP connection from a host of the lab."""
    return source.call(socket.create_connection, target, timeout)


def ask_udp(source: Host, target: tuple[str, int], question: bytes, timeout: float) -> tuple[bytes, float]:
    """Send a datagram and return the answer, and the seconds that it took.

    Raises TimeoutError without an answer, ConnectionRefusedError when a port-unreachable comes instead.
    """
    with open_udp(source, target, timeout) as sock:
        begun = time.monotonic()
        sock.send(question)
        return sock.recv(_LARGEST), time.monotonic() - begun
