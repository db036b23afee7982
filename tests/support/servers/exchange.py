"""One request and its reply, from any host of the lab, to see the health of a server."""

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
    """A server's reply. `right`: a healthy server replies so. `what`: a short text for messages."""

    right: bool
    what: str
    seconds: float
    """Seconds from the request to the whole reply; for TCP including the handshake."""


def open_udp(source: Host, target: tuple[str, int], timeout: float) -> socket.socket:
    """Open a connected UDP socket on a host of the lab. It raises ICMP errors as OSError."""

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
    """Send a datagram, and return the reply and its seconds.

    Raises TimeoutError without a reply, and ConnectionRefusedError after a port-unreachable.
    """
    with open_udp(source, target, timeout) as sock:
        begun = time.monotonic()
        sock.send(question)
        return sock.recv(_LARGEST), time.monotonic() - begun
