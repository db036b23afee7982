"""A UDP socket of a host that sends requests, and answers them: a backend or its peer."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from pool_lab import PORT

if TYPE_CHECKING:
    from nftlb.lab import Host

TIMEOUT = 20.0
"""Seconds to wait for a text that is expected."""


class Peer:
    """A context manager: ONE UDP socket, at the port of the service, that sends and receives texts."""

    def __init__(self, host: Host, version: int, port: int = PORT) -> None:
        self.address = (host.address(version), port)
        self.socket = host.call(socket.socket, {4: socket.AF_INET, 6: socket.AF_INET6}[version], socket.SOCK_DGRAM)
        self.socket.settimeout(TIMEOUT)
        self.socket.bind(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, text: str, target: tuple[str, int]) -> None:
        self.socket.sendto(text.encode(), target)

    def receive(self) -> tuple[str, tuple[str, int]]:
        """The next text and its source."""
        payload, (address, port, *_) = self.socket.recvfrom(9000)
        return payload.decode(), (address, port)

    def is_idle(self) -> bool:
        """Whether no text comes. A text that is expected may come later, on a busy machine."""
        self.socket.settimeout(0.2)
        try:
            self.socket.recv(9000)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT)
        return False
