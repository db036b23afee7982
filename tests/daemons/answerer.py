"""The lab's own UDP server in a process of its own, so that it alone can be stopped or killed."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from daemons.daemon import ANSWER_TIMEOUT, Daemon
from daemons.exchange import Answer, ask_udp

from nftlb.lab.datagram import LARGEST, decode
from nftlb.lab.sockopt import family_of, grow_receive_buffer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

QUESTION = b"are you there"


class Answerer(Daemon):
    """It answers a datagram of the lab as `Lab.serve` does, and anything else with itself. It is never wrong."""

    name = "answerer"
    default_port = 5353
    check: ClassVar[Mapping[str, Mapping[str, Any]]] = {"udp": {"send": QUESTION.decode(), "match": QUESTION.decode()}}

    def configure(self) -> None:
        """It has no files."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "daemons.answerer", self.host.name, self.address, str(self.port)]

    def variables(self) -> dict[str, str]:
        # The interpreter has its own libraries.
        return {"PYTHONPATH": str(Path(__file__).parents[1]), "LD_LIBRARY_PATH": ""}

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        said, seconds = ask_udp(source or self.host, self.target, QUESTION, timeout)
        return Answer(said == QUESTION, repr(said), seconds)

    def mislead(self, *, wrong: bool) -> None:
        raise NotImplementedError(f"it can't be {'wrong' if wrong else 'right'} at will")


def serve(name: str, address: str, port: int) -> None:
    """Answer for ever; an answer that can't be sent, for instance because the link is down, is lost."""
    with socket.socket(family_of(6 if ":" in address else 4), socket.SOCK_DGRAM) as sock:
        grow_receive_buffer(sock)
        sock.bind((address, port))
        while True:
            payload, peer = sock.recvfrom(LARGEST + 1)
            decoded = decode(payload)
            with suppress(OSError):
                sock.sendto(decoded[0].reply(name).encode() if decoded else payload, peer)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
