"""Asks a DNS server. Only the header and the question of its answer are read: what it knows is not our business."""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode

from nftlb.model import Rcode, Transport

from .exchange import NotOurs, connected, exchange
from .probe import Answer, Failed, Probe
from .stream import answer, connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import Dns

    from .stream import Stream
    from .subject import Subject

_HEADER = struct.Struct("!HHH")  # id, flags, number of questions
_HEADER_SIZE = 12
_LENGTH = struct.Struct("!H")
_QR = 0x8000
_OPCODE = 0x7800
_RCODE = 0x000F


class _Query:
    """The question of a check, ready but for its id."""

    def __init__(self, check: Dns) -> None:
        query = dns.message.make_query(check.name, check.type.value, flags=dns.flags.RD if check.recursion else 0)
        wire = query.to_wire()
        self._rest = wire[2:]
        self._question = wire[_HEADER_SIZE:].lower()
        self._healthy = frozenset(int(dns.rcode.from_text(rcode.value)) for rcode in check.rcode)
        self._wanted = " or ".join(rcode.value for rcode in check.rcode)
        self._answers = {
            int(dns.rcode.from_text(rcode.value)): Answer(rcode.value) for rcode in Rcode if rcode in check.rcode
        }

    def ask(self) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Return a query with an id of its own, and what reads its answer."""
        number = secrets.token_bytes(2)
        return number + self._rest, lambda reply: self._read(number, reply)

    def _read(self, number: bytes, reply: bytes) -> Answer:
        """Raise NotOurs if it answers something else. A truncated answer is one as well: the server is there."""
        if len(reply) < _HEADER_SIZE:
            raise NotOurs("what came was not DNS")
        _, flags, questions = _HEADER.unpack_from(reply)
        if reply[:2] != number or not flags & _QR or flags & _OPCODE:
            raise NotOurs("what came was not the answer to our query")
        rcode = flags & _RCODE
        # A server that can't read or won't serve a query may leave its question out (RFC 9619 allows none as well).
        if not (questions == 0 and rcode) and not (questions == 1 and self._is_ours(reply)):
            raise NotOurs("what came was the answer to another question")
        answer = self._answers.get(rcode)
        if answer is None:
            raise Failed(f"rcode {dns.rcode.to_text(dns.rcode.Rcode(rcode)).lower()}, not {self._wanted}")
        return answer

    def _is_ours(self, reply: bytes) -> bool:
        end = _HEADER_SIZE + len(self._question)
        # Lengths of labels are below 64 and hence no letters: the case of everything may be dropped.
        return reply[_HEADER_SIZE:end].lower() == self._question


class DnsOverUdp(Probe):
    keeps_time = True

    def __init__(self, check: Dns) -> None:
        self._query = _Query(check)

    async def probe(self, subject: Subject) -> Answer:
        query, read = self._query.ask()
        return await exchange(connected(subject, subject.required_port), query, read, subject.timeout)


class DnsOverTcp(Probe):
    def __init__(self, check: Dns) -> None:
        self._query = _Query(check)

    async def probe(self, subject: Subject) -> Answer:
        query, read = self._query.ask()
        async with connection(subject, subject.required_port) as stream:
            await stream.send(_LENGTH.pack(len(query)) + query)
            return await answer(lambda: _message(stream), read)


async def _message(stream: Stream) -> bytes:
    (size,) = _LENGTH.unpack(await stream.take(_LENGTH.size))
    return await stream.take(size)


def probe_of(check: Dns) -> Probe:
    return DnsOverTcp(check) if check.transport is Transport.TCP else DnsOverUdp(check)
