"""The lab's UDP server in a separate process, so that it can be stopped or killed."""

from __future__ import annotations

import selectors
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from servers.daemon import ANSWER_TIMEOUT, Daemon
from servers.exchange import Answer, ask_udp

from nftlb.lab.datagram import LARGEST, decode_datagram
from nftlb.lab.sockopt import family_of, grow_receive_buffer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nftlb.lab import Host

QUESTION = b"are you there"


class Answerer(Daemon):
    """Replies to datagrams of the lab as `Lab.serve` does, and to other datagrams with a copy. Never wrong."""

    name = "answerer"
    default_port = 5353
    check: ClassVar[Mapping[str, Mapping[str, Any]]] = {"udp": {"send": QUESTION.decode(), "match": QUESTION.decode()}}

    def configure(self) -> None:
        """Write nothing: this server has no files."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "servers.answerer", self.host.name, str(self.port), *self.addresses]

    def variables(self) -> dict[str, str]:
        # The interpreter has its own libraries.
        return {"PYTHONPATH": str(Path(__file__).parents[1]), "LD_LIBRARY_PATH": ""}

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        said, seconds = ask_udp(source or self.host, self.target, QUESTION, timeout)
        return Answer(said == QUESTION, repr(said), seconds)

    def mislead(self, *, wrong: bool) -> None:
        raise NotImplementedError(f"it can't be {'wrong' if wrong else 'right'} at will")


def serve(name: str, port: int, addresses: Sequence[str]) -> None:
    """Reply without end. A reply that can't be sent, for instance because the link is down, is lost."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for address in addresses:
            sock = stack.enter_context(socket.socket(family_of(6 if ":" in address else 4), socket.SOCK_DGRAM))
            grow_receive_buffer(sock)
            sock.bind((address, port))
            sock.setblocking(False)  # a datagram with a wrong checksum makes the socket readable, and is then discarded
            selector.register(sock, selectors.EVENT_READ, sock)
        while True:
            for key, _ in selector.select():
                _answer(name, key.data)


def _answer(name: str, sock: socket.socket) -> None:
    with suppress(OSError):
        payload, peer = sock.recvfrom(LARGEST + 1)
        decoded = decode_datagram(payload)
        sock.sendto(decoded[0].reply(name).encode() if decoded else payload, peer)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
