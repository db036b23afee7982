"""A DNS server with records that a test changes, over UDP, on a host of the lab or on this host."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.lab import Host

PORT = 5300


class Zone:
    """A context manager: a DNS server at 127.0.0.1 with `records`: (name, type) to the data, each with a TTL of 1 s.

    Names without a record do not exist. While `silent` is set, it does not answer.
    """

    def __init__(self, host: Host | None = None, **records: list[str]) -> None:
        """`records` are addresses by name, of both families; the names are in the domain `lab`."""
        self.records: dict[tuple[str, str], list[str]] = {}
        for name, addresses in records.items():
            self.set_addresses(name, *addresses)
        self.silent = Event()
        self.rcode = dns.rcode.NOERROR
        self.asked: list[tuple[str, str]] = []
        self.respond: Callable[[dns.message.Message], dns.message.Message] = self.answer
        self._socket, self.stream_socket = _bound() if host is None else host.call(_bound)
        self.port = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())  # the end, for _serve
        self._thread.join()
        self._socket.close()
        self.stream_socket.close()

    @property
    def option(self) -> dict[str, object]:
        """The option `resolver` of a file."""
        return {"servers": f"127.0.0.1:{self.port}", "timeout": "2s", "min_ttl": "1s"}

    def set_addresses(self, name: str, *addresses: str) -> None:
        """Let a name have these addresses, and no others."""
        for kind, is_six in (("A", False), ("AAAA", True)):
            self.records[f"{name}.lab.", kind] = [address for address in addresses if (":" in address) is is_six]

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The answer that the records give."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(self.rcode)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), question.rdtype.name
        if data := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(question.name, 1, "IN", kind, *data))
        elif all(known != name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def truncated(self, query: dns.message.Message) -> dns.message.Message:
        """An answer that is too long for UDP."""
        response = self.answer(query)
        response.flags |= dns.flags.TC
        response.answer.clear()
        return response

    def _serve(self) -> None:
        while True:
            packet, client = self._socket.recvfrom(4096)
            if not packet:
                return
            if self.silent.is_set():
                continue
            with suppress(dns.exception.DNSException):
                query = dns.message.from_wire(packet)
                self.asked.append((query.question[0].name.to_text(), query.question[0].rdtype.name))
                self._socket.sendto(self.respond(query).to_wire(), client)


class LongAnswers:
    """A context manager: UDP answers of a zone are truncated, and only TCP, at the same port, has the records."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self.answered = 0

    def __enter__(self) -> Self:
        self._zone.respond = self._zone.truncated
        self._zone.stream_socket.listen()
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._zone.respond = self._zone.answer
        self._zone.stream_socket.shutdown(socket.SHUT_RDWR)  # ends accept(); the port refuses from now on
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._zone.stream_socket.accept()
                with client, client.makefile("rwb") as stream:
                    query = dns.message.from_wire(stream.read(int.from_bytes(stream.read(2), "big")))
                    stream.write(self._zone.answer(query).to_wire(prepend_length=True))
                    self.answered += 1


def _bound() -> tuple[socket.socket, socket.socket]:
    """A socket for UDP, and one for TCP at the same port, which refuses until it listens."""
    while True:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            stream.bind(datagrams.getsockname())
        except OSError:  # another process has the port for TCP
            datagrams.close()
            stream.close()
        else:
            return datagrams, stream
