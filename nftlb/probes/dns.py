"""Probes a DNS server. Only the header and the question of its reply are read: the records do not matter."""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode

from nftlb.model import Rcode, Transport

from .exchange import NotOurs, connected, exchange
from .probe import Failed, Probe, Success
from .stream import first_message, open_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import Dns

    from .probe import Subject
    from .stream import Stream

_HEADER = struct.Struct("!HHH")  # id, flags, number of questions
_HEADER_SIZE = 12
_LENGTH = struct.Struct("!H")
_QR = 0x8000
_OPCODE = 0x7800
_RCODE = 0x000F


class _Query:
    """The prepared query of a check, without its id."""

    def __init__(self, check: Dns) -> None:
        query = dns.message.make_query(check.name, check.type.value, flags=dns.flags.RD if check.recursion else 0)
        wire = query.to_wire()
        self._rest = wire[2:]
        self._question = wire[_HEADER_SIZE:].lower()
        self._wanted = " or ".join(rcode.value for rcode in check.rcode)
        self._answers = {
            int(dns.rcode.from_text(rcode.value)): Success(rcode.value) for rcode in Rcode if rcode in check.rcode
        }

    def new(self) -> tuple[bytes, Callable[[bytes], Success]]:
        """Return a query with a new id, and the function that reads its reply."""
        number = secrets.token_bytes(2)
        return number + self._rest, lambda reply: self._judge(number, reply)

    def _judge(self, number: bytes, reply: bytes) -> Success:
        """Judge a reply. Raises Failed, and NotOurs for other messages. A truncated reply counts: the server works."""
        if len(reply) < _HEADER_SIZE:
            raise NotOurs("the reply was not DNS")
        _, flags, questions = _HEADER.unpack_from(reply)
        if reply[:2] != number or not flags & _QR or flags & _OPCODE:
            raise NotOurs("the reply was not for our query")
        rcode = flags & _RCODE
        # A server that can't read or refuses a query may leave out the question (RFC 9619 also allows no question).
        if not (questions == 0 and rcode) and not (questions == 1 and self._is_ours(reply)):
            raise NotOurs("the reply was for another question")
        answer = self._answers.get(rcode)
        if answer is None:
            raise Failed(f"rcode {dns.rcode.to_text(dns.rcode.Rcode(rcode)).lower()}, not {self._wanted}")
        return answer

    def _is_ours(self, reply: bytes) -> bool:
        end = _HEADER_SIZE + len(self._question)
        # Lengths of labels are below 64 and so are not letters: all bytes may be converted to lower case.
        return reply[_HEADER_SIZE:end].lower() == self._question


class DnsOverUdp(Probe):
    keeps_time = True

    def __init__(self, check: Dns) -> None:
        self._query = _Query(check)

    async def probe(self, subject: Subject) -> Success:
        query, read = self._query.new()
        return await exchange(connected(subject, subject.required_port), query, read, subject.timeout)


class DnsOverTcp(Probe):
    def __init__(self, check: Dns) -> None:
        self._query = _Query(check)

    async def probe(self, subject: Subject) -> Success:
        query, read = self._query.new()
        async with open_stream(subject, subject.required_port) as stream:
            await stream.send(_LENGTH.pack(len(query)) + query)
            return await first_message(lambda: _message(stream), read)


async def _message(stream: Stream) -> bytes:
    (size,) = _LENGTH.unpack(await stream.receive_exactly(_LENGTH.size))
    return await stream.receive_exactly(size)


def dns_probe(check: Dns) -> Probe:
    return DnsOverTcp(check) if check.transport is Transport.TCP else DnsOverUdp(check)
