"""Probes with a SIP OPTIONS request (RFC 3261)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.model import Transport
from nftlb.printable import one_line

from .exchange import NotOurs, connected, exchange
from .probe import Failed, Probe, Success
from .stream import first_message, open_stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import Sip

    from .probe import Subject
    from .stream import Stream

_PORT = 5060
_LIMIT = 64 * 1024
_HEAD, _LINES = 16 * 1024, 256  # bytes and lines of a message's headers that are read
_PROVISIONAL = range(100, 200)
_FIRST_LINE = re.compile(rb"SIP/2\.0 ([1-9][0-9]{2})(?: ([^\r\n]*))?")
_LINE = re.compile(rb"\r?\n")
_END = re.compile(rb"\r?\n\r?\n")
_SHORT = {b"i": b"call-id", b"v": b"via", b"l": b"content-length"}
_DIGITS = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class _ResponseJudge:
    """Judges the responses to one request."""

    call_id: bytes
    branch: bytes
    healthy: tuple[tuple[int, int], ...]

    def judge(self, reply: bytes) -> Success:
        """Judge a response. Raises Failed, and NotOurs for foreign and provisional responses."""
        first, headers = _split(reply)
        found = _FIRST_LINE.fullmatch(first)
        if found is None:
            raise NotOurs("the reply was not a SIP response")
        if headers.get(b"call-id") != self.call_id or self.branch not in headers.get(b"via", b""):
            raise NotOurs("the reply was not for our request")
        status = int(found[1])
        said = f"{status} {one_line(found[2] or b'')}".rstrip()
        if status in _PROVISIONAL:
            raise NotOurs(f"only {said} came")
        if not any(low <= status <= high for low, high in self.healthy):
            raise Failed(f"answered {said}")
        return Success(said)


def _split(reply: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """Return the first line, and the headers by their long names in lower case. Of equal headers the first counts."""
    head = _END.split(reply[:_HEAD], maxsplit=1)[0]
    lines: list[bytes] = []
    for line in _LINE.split(head, maxsplit=_LINES)[:_LINES]:
        if lines and line[:1] in (b" ", b"\t"):  # continuation of the line before
            lines[-1] += b" " + line.lstrip()
        else:
            lines.append(line)
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        headers.setdefault(_SHORT.get(name, name), value.strip())
    return lines[0], headers


class _Request:
    """Makes the requests of a check, for both transports."""

    def __init__(self, check: Sip) -> None:
        self._uri = check.uri
        self._transport = check.transport.value.upper()
        self._healthy = check.status

    def to(self, subject: Subject, local: tuple[str, int]) -> tuple[bytes, _ResponseJudge]:
        """Return a request from the local address and port `local`, and the judge of its responses."""
        port = subject.required_port
        uri = self._uri or f"sip:{subject.host}" + (f":{port}" if port != _PORT else "")
        host = f"[{local[0]}]" if ":" in local[0] else local[0]
        branch, tag, call = (secrets.token_hex(8) for _ in range(3))
        lines = (
            f"OPTIONS {uri} SIP/2.0",
            f"Via: SIP/2.0/{self._transport} {host}:{local[1]};branch=z9hG4bK{branch};rport",
            "Max-Forwards: 70",
            f"From: <sip:nftlb@{host}>;tag={tag}",
            f"To: <{uri}>",
            f"Call-ID: {call}@nftlb",
            "CSeq: 1 OPTIONS",
            f"Contact: <sip:nftlb@{host}:{local[1]}>",
            "Accept: application/sdp",
            "User-Agent: nftlb",
            "Content-Length: 0",
        )
        text = "\r\n".join(lines) + "\r\n\r\n"
        return text.encode(), _ResponseJudge(f"{call}@nftlb".encode(), branch.encode(), self._healthy)


class SipOverUdp(Probe):
    keeps_time = True

    def __init__(self, check: Sip) -> None:
        self._request = _Request(check)

    async def probe(self, subject: Subject) -> Success:
        opened = connected(subject, subject.required_port)
        address, port = opened.getsockname()[:2]
        request, judge = self._request.to(subject, (address, port))
        return await exchange(opened, request, judge.judge, subject.timeout)


class SipOverTcp(Probe):
    def __init__(self, check: Sip) -> None:
        self._request = _Request(check)

    async def probe(self, subject: Subject) -> Success:
        async with open_stream(subject, subject.required_port) as stream:
            request, judge = self._request.to(subject, stream.local)
            await stream.send(request)
            return await first_message(lambda: _message(stream), judge.judge)


async def _message(stream: Stream) -> bytes:
    """Read one message from a connection: up to an empty line, and then the bytes of its Content-Length."""
    stream.received = stream.received.lstrip(b"\r\n")  # empty lines keep a connection alive
    while (end := _END.search(stream.received)) is None:
        if not await stream.more(_LIMIT):
            raise Failed("closed before its answer was complete")
        stream.received = stream.received.lstrip(b"\r\n")
    head = await stream.receive_exactly(end.end())
    length = _split(head)[1].get(b"content-length", b"0")
    if not _DIGITS.fullmatch(length) or int(length) > _LIMIT:
        raise Failed("the reply was not a SIP response")
    return head + await stream.receive_exactly(int(length))


def sip_probe(check: Sip) -> Probe:
    return SipOverTcp(check) if check.transport is Transport.TCP else SipOverUdp(check)
