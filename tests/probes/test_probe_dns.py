"""DNS checks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
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

from nftlb.model import Dns, Rcode, RecordType, Transport
from nftlb.probes import probe_for, run_probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from probing import Datagrams

    from nftlb.health import CheckResult


def answering(change: Callable[[dns.message.Message], object] = lambda _: None) -> Callable[[bytes], list[bytes]]:
    """A server with right replies, except for the changes that `change` makes."""

    def serve(request: bytes) -> list[bytes]:
        response = dns.message.make_response(dns.message.from_wire(request))
        change(response)
        return [response.to_wire()]

    return serve


def with_rcode(rcode: Rcode) -> Datagrams:
    return answering(lambda response: response.set_rcode(dns.rcode.from_text(rcode.value)))


def over_tcp(serve: Datagrams, host: str = BOTH[0], check: Dns | None = None, seconds: float = 5) -> CheckResult:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        for reply in serve(await reader.readexactly(size)):
            writer.write(len(reply).to_bytes(2, "big") + reply)
        await writer.drain()
        await reader.read()

    return check_streams(check or Dns(name="example.com", transport=Transport.TCP), handle, host, seconds=seconds)


@pytest.mark.parametrize("host", BOTH)
def test_healthy(host: str) -> None:
    """A server that replies passes the check."""
    result = check_datagrams(Dns(name="example.com"), answering(), host)

    assert (True, "noerror") == (result.passed, result.reason)


@pytest.mark.parametrize("host", BOTH)
def test_healthy_over_tcp(host: str) -> None:
    """A server that replies over TCP passes the check."""
    result = over_tcp(answering(), host)

    assert (True, "noerror") == (result.passed, result.reason)


@pytest.mark.parametrize("kind", list(RecordType))
@pytest.mark.parametrize("recursion", [True, False])
def test_the_query(kind: RecordType, recursion: bool) -> None:
    """A query has the name, type and recursion of the check, and each query has another id."""
    seen = []

    def serve(request: bytes) -> list[bytes]:
        seen.append(request)
        return answering()(request)

    assert check_datagrams(Dns(name="a_b.Example.com", type=kind, recursion=recursion), serve).passed
    query = dns.message.from_wire(seen[0])
    assert [f"a_b.Example.com. IN {kind}"] == [str(question) for question in query.question]
    assert recursion == bool(query.flags & dns.flags.RD)


def test_ids_differ() -> None:
    """The ids of queries are unpredictable."""
    seen = set()

    async def main() -> None:
        def serve(request: bytes) -> list[bytes]:
            seen.add(request[:2])
            return answering()(request)

        async with datagrams(serve) as port:
            for _ in range(20):
                await run_probe(probe_for(Dns()), subject(port=port))

    asyncio.run(main())
    assert len(seen) > 10


@pytest.mark.parametrize("answered", list(Rcode))
def test_rcode(answered: Rcode) -> None:
    """Only the configured rcodes pass; the reason names other rcodes."""
    result = check_datagrams(Dns(name="example.com", rcode=(Rcode.NOERROR, Rcode.NXDOMAIN)), with_rcode(answered))

    healthy = answered in {Rcode.NOERROR, Rcode.NXDOMAIN}
    reason = answered.value if healthy else f"rcode {answered.value}, not noerror or nxdomain"
    assert (healthy, reason) == (result.passed, result.reason)


def test_other_rcode() -> None:
    """The reason has the number of an rcode without a name."""
    result = check_datagrams(Dns(), answering(lambda response: response.set_rcode(dns.rcode.Rcode(13))))

    assert (False, "rcode 13, not noerror") == (result.passed, result.reason)


def test_truncated() -> None:
    """A truncated reply passes the check."""

    def truncate(response: dns.message.Message) -> None:
        response.flags |= dns.flags.TC

    assert check_datagrams(Dns(name="example.com"), answering(truncate)).passed


def _wrong_id(response: dns.message.Message) -> None:
    response.id ^= 1


def _query(response: dns.message.Message) -> None:
    response.flags &= ~dns.flags.QR


def _update(response: dns.message.Message) -> None:
    response.set_opcode(dns.opcode.NOTIFY)


def _other_question(response: dns.message.Message) -> None:
    response.question = dns.message.make_query("example.net", "A").question


def _no_question(response: dns.message.Message) -> None:
    response.question = []


NOT_OURS = [
    (_wrong_id, "the reply was not for our query"),
    (_query, "the reply was not for our query"),
    (_update, "the reply was not for our query"),
    (_other_question, "the reply was for another question"),
    (_no_question, "the reply was for another question"),
]


@pytest.mark.parametrize(("change", "note"), NOT_OURS)
def test_foreign_messages_are_ignored_and_named(change: Callable[[dns.message.Message], object], note: str) -> None:
    """Messages that are not the reply are ignored, and named at the time-out."""
    result = check_datagrams(Dns(name="example.com"), answering(change), seconds=NOTED)

    assert (False, f"no answer within 0.6s; {note}") == (result.passed, result.reason)


@pytest.mark.parametrize("change", [change for change, _ in NOT_OURS])
def test_foreign_messages_before_the_reply_are_ignored(change: Callable[[dns.message.Message], object]) -> None:
    """The reply counts, after any other datagrams."""

    def serve(request: bytes) -> list[bytes]:
        return [b"", b"short", *answering(change)(request), *answering()(request)]

    assert check_datagrams(Dns(name="example.com"), serve).passed
    tcp = over_tcp(lambda request: [b"short", *answering(change)(request), *answering()(request)])
    assert tcp.passed


def test_foreign_messages_over_tcp_are_named() -> None:
    """Over TCP, too, the reason names other messages."""
    result = over_tcp(answering(_wrong_id), seconds=NOTED)

    assert "no answer within 0.6s; the reply was not for our query" == result.reason


def test_refusal_without_the_question() -> None:
    """An error reply may lack the question."""

    def refuse(response: dns.message.Message) -> None:
        response.set_rcode(dns.rcode.REFUSED)
        response.question = []

    result = check_datagrams(Dns(name="example.com"), answering(refuse))

    assert (False, "rcode refused, not noerror") == (result.passed, result.reason)


def test_case_of_the_question() -> None:
    """A server may return the question in another case."""

    def serve(request: bytes) -> list[bytes]:
        return [answering()(request)[0].replace(b"example", b"EXAMPLE")]

    assert check_datagrams(Dns(name="example.com"), serve).passed


@pytest.mark.parametrize("host", BOTH)
def test_refused(host: str) -> None:
    """At a closed port the check fails at once."""
    tcp = check_streams(Dns(transport=Transport.TCP), None, host)
    udp = check_datagrams(Dns(), None, host)

    assert ["connection refused"] * 2 == [udp.reason, tcp.reason]
    assert [False, False] == [udp.passed, tcp.passed]


def test_silent() -> None:
    """A silent server fails the check."""
    udp = check_datagrams(Dns(), silent, seconds=0.05)
    tcp = check_streams(Dns(transport=Transport.TCP), mute, seconds=0.05)

    assert ["no answer within 0.05s"] * 2 == [udp.reason, tcp.reason]


@pytest.mark.parametrize("reply", [b"", b"\x00", b"\x00\x20short"])
def test_closed_early(reply: bytes) -> None:
    """A connection that is closed within a reply fails the check at once."""
    result = check_streams(Dns(transport=Transport.TCP), sends(reply))

    assert not result.passed
    assert result.reason in {"closed before its answer was complete", "connection reset by peer"}


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""
    cancel_datagrams(Dns())
    cancel_streams(Dns(transport=Transport.TCP))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes(noise: bytes, keep: bool) -> None:
    """Arbitrary bytes, also after our id, give a result."""

    async def main() -> None:
        def serve(request: bytes) -> list[bytes]:
            return [request[:2] + noise if keep else noise]

        async with datagrams(serve) as port:
            result = await run_probe(probe_for(Dns(name="example.com")), subject(port=port, seconds=0.01))
        assert result.reason.isprintable()

    asyncio.run(main())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_over_tcp(noise: bytes) -> None:
    """Arbitrary bytes over TCP give a result."""
    result = check_streams(Dns(transport=Transport.TCP), sends(noise), seconds=1, count=False)

    assert not result.passed


def test_malformed_data_after_the_question_does_not_matter() -> None:
    """Malformed data behind the question does not matter: the server works."""
    assert check_datagrams(Dns(), lambda request: [answering()(request)[0] + b"\xff" * 9]).passed
    assert not check_datagrams(Dns(), says(b"\xff" * 40), seconds=0.02).passed
