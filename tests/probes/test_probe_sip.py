"""SIP checks."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import (
    BOTH,
    NOTED,
    cancel_datagrams,
    cancel_streams,
    check_datagrams,
    check_streams,
    datagrams,
    mute,
    says,
    sends,
    silent,
    subject,
)

from nftlb.config import read_check
from nftlb.model import Sip, Transport
from nftlb.probes import Failed, probe_for, run_probe
from nftlb.probes.exchange import NotOurs
from nftlb.probes.sip import _ResponseJudge

if TYPE_CHECKING:
    from collections.abc import Callable

    from probing import Datagrams, Streams

    from nftlb.health import CheckResult


def answer(request: bytes, first: bytes = b"SIP/2.0 200 OK", body: bytes = b"") -> bytes:
    """A reply as RFC 3261 demands, with the request's Via, From, To, Call-ID and CSeq."""
    lines = request.split(b"\r\n")
    kept = [line for line in lines if line.split(b":")[0] in {b"Via", b"From", b"To", b"Call-ID", b"CSeq"}]
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([first, *kept, length]) + b"\r\n\r\n" + body


def over_tcp(answers: Datagrams) -> Streams:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        for reply in answers(request):
            for at in range(0, len(reply), 100):
                writer.write(reply[at : at + 100])
                await writer.drain()
                await asyncio.sleep(0)
        await reader.read()

    return handle


def ask(transport: Transport, answers: Datagrams, host: str = BOTH[0], **options: object) -> CheckResult:
    check = read_check("sip", {"transport": transport, **options})
    if transport is Transport.UDP:
        return check_datagrams(check, answers, host, seconds=NOTED)
    return check_streams(check, over_tcp(answers), host, seconds=NOTED)


both_transports = pytest.mark.parametrize("transport", list(Transport))


@pytest.mark.parametrize("host", BOTH)
@both_transports
def test_healthy(host: str, transport: Transport) -> None:
    """A response with 200 passes the check."""
    result = ask(transport, lambda request: [answer(request)], host)

    assert (True, "200 OK") == (result.passed, result.reason)


@pytest.mark.parametrize("host", BOTH)
@both_transports
@pytest.mark.parametrize("uri", [None, "sip:ping@example.com;transport=udp"])
def test_the_request(host: str, transport: Transport, uri: str | None) -> None:
    """A request has all headers of RFC 3261, the own address in Via, and new tokens each time."""
    seen = []

    def answers(request: bytes) -> list[bytes]:
        seen.append(request.decode())
        return [answer(request)]

    options = {} if uri is None else {"uri": uri}
    assert ask(transport, answers, host, **options).passed
    literal = f"[{host}]" if ":" in host else host
    first, *lines = seen[0].removesuffix("\r\n\r\n").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    wanted = re.escape(uri) if uri else rf"sip:{re.escape(literal)}:[0-9]+"
    assert re.fullmatch(rf"OPTIONS {wanted} SIP/2\.0", first)
    via = rf"SIP/2\.0/{transport.upper()} {re.escape(literal)}:[0-9]+;branch=z9hG4bK[0-9a-f]{{16}};rport"
    assert re.fullmatch(via, headers["Via"])
    assert re.fullmatch(rf"<{wanted}>", headers["To"])
    assert re.fullmatch(rf"<sip:nftlb@{re.escape(literal)}>;tag=[0-9a-f]{{16}}", headers["From"])
    assert ("70", "1 OPTIONS", "0") == (headers["Max-Forwards"], headers["CSeq"], headers["Content-Length"])
    assert {"Call-ID", "Contact", "Accept", "User-Agent"} <= set(headers)
    other = dict(line.split(": ", 1) for line in seen[1].split("\r\n")[1:-2])
    assert all(headers[name] != other[name] for name in ("Via", "From", "Call-ID"))


def test_the_default_port_is_left_out() -> None:
    """A URI has a port only if the port is not 5060."""
    from nftlb.probes.sip import _Request  # noqa: PLC0415

    text, _ = _Request(Sip()).to(subject("2001:db8::1", 5060), ("2001:db8::2", 40000))

    assert text.startswith(b"OPTIONS sip:[2001:db8::1] SIP/2.0\r\nVia: SIP/2.0/UDP [2001:db8::2]:40000;")


@both_transports
@pytest.mark.parametrize(
    ("status", "first", "reason"),
    [
        (None, b"SIP/2.0 404 Not Found", "answered 404 Not Found"),
        (["200-299", 404], b"SIP/2.0 404 Not Found", "404 Not Found"),
        (["200-299", 404], b"SIP/2.0 405", "answered 405"),
        (None, b"SIP/2.0 503 Service\tUnavailable", "answered 503 Service Unavailable"),
    ],
)
def test_status(transport: Transport, status: object, first: bytes, reason: str) -> None:
    """Only the configured statuses pass."""
    options: dict[str, Any] = {} if status is None else {"status": status}
    result = ask(transport, lambda request: [answer(request, first)], **options)

    assert (not reason.startswith("answered"), reason) == (result.passed, result.reason)


@both_transports
def test_provisional_answers(transport: Transport) -> None:
    """After a provisional response the check waits for the final response."""
    trying = b"SIP/2.0 100 Trying"
    then = ask(transport, lambda request: [answer(request, trying), answer(request, body=b"v=0\r\n\r\n")])
    alone = ask(transport, lambda request: [answer(request, trying, b"body")])

    assert (True, "200 OK") == (then.passed, then.reason)
    assert (False, "no answer within 0.6s; only 100 Trying came") == (alone.passed, alone.reason)


def _other_branch(reply: bytes) -> bytes:
    return re.sub(rb"branch=z9hG4bK[0-9a-f]+", b"branch=z9hG4bK0", reply)


@both_transports
@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda reply: reply.replace(b"Call-ID: ", b"Call-ID: x"), "not for our request"),
        (_other_branch, "not for our request"),
        (lambda reply: reply.replace(b"SIP/2.0 200 OK", b"HTTP/1.1 200 OK"), "not a SIP response"),
        (lambda reply: reply.replace(b"Via: ", b"Xia: "), "not for our request"),
    ],
)
def test_foreign_messages_are_ignored_and_named(
    transport: Transport, change: Callable[[bytes], bytes], note: str
) -> None:
    """Messages that are not the reply are ignored, and named at the time-out; a later reply counts."""

    def wrong(request: bytes) -> bytes:
        return change(answer(request))

    alone = ask(transport, lambda request: [wrong(request)])
    then = ask(transport, lambda request: [wrong(request), answer(request)])

    assert (False, f"no answer within 0.6s; the reply was {note}") == (alone.passed, alone.reason)
    assert then.passed


def _compact(reply: bytes) -> bytes:
    return reply.replace(b"Via:", b"v:").replace(b"Call-ID:", b"i :").replace(b"Content-Length:", b"l:")


@both_transports
@pytest.mark.parametrize(
    "change",
    [
        _compact,
        lambda reply: reply.replace(b"Call-ID: ", b"CALL-id:  "),
        lambda reply: reply.replace(b"Call-ID: ", b"Call-ID:\r\n "),
        lambda reply: reply.replace(b"\r\n", b"\n"),
        lambda reply: reply.replace(b";rport", b";rport=5;received=192.0.2.1"),
    ],
)
def test_other_spellings(transport: Transport, change: Callable[[bytes], bytes]) -> None:
    """Headers may have short names, be folded, in any case, and with bare line feeds."""
    result = ask(transport, lambda request: [change(answer(request))])

    assert (True, "200 OK") == (result.passed, result.reason)


def test_keep_alives_are_left_out() -> None:
    """On a connection, empty lines may come before a reply."""
    result = ask(Transport.TCP, lambda request: [b"\r\n\r\n", answer(request)])

    assert (True, "200 OK") == (result.passed, result.reason)


@pytest.mark.parametrize("host", BOTH)
def test_refused(host: str) -> None:
    """At a closed port the check fails at once."""
    assert "connection refused" == check_datagrams(Sip(), None, host).reason
    assert "connection refused" == check_streams(Sip(transport=Transport.TCP), None, host).reason


def test_silent() -> None:
    """A silent server fails the check."""
    assert "no answer within 0.05s" == check_datagrams(Sip(), silent, seconds=0.05).reason
    assert "no answer within 0.05s" == check_streams(Sip(transport=Transport.TCP), mute, seconds=0.05).reason


@pytest.mark.parametrize("length", [b"x", b"-1", b"99999999999", b"70000", b"\xff"])
def test_a_wrong_length(length: bytes) -> None:
    """An invalid Content-Length fails the check."""
    result = check_streams(
        Sip(transport=Transport.TCP), over_tcp(lambda _: [b"SIP/2.0 200 OK\r\nl: " + length + b"\r\n\r\n"])
    )

    assert (False, "the reply was not a SIP response") == (result.passed, result.reason)


def test_too_much() -> None:
    """Endless headers fail the check."""
    result = check_streams(Sip(transport=Transport.TCP), over_tcp(lambda _: [b"x" * 70000]))

    assert (False, "more than 65536 bytes without an end") == (result.passed, result.reason)


def test_closed_early() -> None:
    """A connection that is closed before the reply fails the check at once."""
    for reply in (b"", b"SIP/2.0 200", b"SIP/2.0 200 OK\r\nl: 5\r\n\r\n1234"):
        result = check_streams(Sip(transport=Transport.TCP), sends(reply))
        assert not result.passed
        assert result.reason in {"closed before its answer was complete", "connection reset by peer"}


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""
    cancel_datagrams(Sip())
    cancel_streams(Sip(transport=Transport.TCP))


@given(st.binary(max_size=300), st.lists(st.sampled_from([b"\r\n", b":", b" ", b"SIP/2.0 200", b"Via", b"call"])))
def test_any_bytes(noise: bytes, words: list[bytes]) -> None:
    """Arbitrary bytes give a result, and no other exception."""
    judge = _ResponseJudge(b"call", b"branch", ((200, 299),))
    for wire in (noise, b"".join(words) + noise, b"SIP/2.0 200 " + noise + b"\r\nVia: branch\r\nCall-ID: call\r\n"):
        try:
            assert judge.judge(wire).reason.isprintable()
        except (NotOurs, Failed) as outcome:
            assert str(outcome).isprintable()  # noqa: PT017 - either is right


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_over_the_wire(noise: bytes) -> None:
    """Arbitrary bytes give a result over both transports."""

    async def main() -> None:
        async with datagrams(says(noise)) as port:
            assert not (await run_probe(probe_for(Sip()), subject(port=port, seconds=0.01))).passed

    asyncio.run(main())
    assert not check_streams(Sip(transport=Transport.TCP), sends(noise), seconds=1, count=False).passed
