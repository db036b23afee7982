"""The check that asks a DNS server."""

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
from nftlb.probes import probe_for, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from probing import Datagrams

    from nftlb.health import Result


def answering(change: Callable[[dns.message.Message], object] = lambda _: None) -> Callable[[bytes], list[bytes]]:
    """Answer every query correctly, but for what `change` does to the answer."""

    def serve(request: bytes) -> list[bytes]:
        response = dns.message.make_response(dns.message.from_wire(request))
        change(response)
        return [response.to_wire()]

    return serve


def with_rcode(rcode: Rcode) -> Datagrams:
    return answering(lambda response: response.set_rcode(dns.rcode.from_text(rcode.value)))


def over_tcp(serve: Datagrams, host: str = BOTH[0], check: Dns | None = None, seconds: float = 5) -> Result:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        for reply in serve(await reader.readexactly(size)):
            writer.write(len(reply).to_bytes(2, "big") + reply)
        await writer.drain()
        await reader.read()

    return check_streams(check or Dns(name="example.com", transport=Transport.TCP), handle, host, seconds=seconds)


@pytest.mark.parametrize("host", BOTH)
def test_healthy(host: str) -> None:
    """A server that answers is well."""
    result = check_datagrams(Dns(name="example.com"), answering(), host)

    assert (True, "noerror") == (result.passed, result.reason)


@pytest.mark.parametrize("host", BOTH)
def test_healthy_over_tcp(host: str) -> None:
    """The same over TCP."""
    result = over_tcp(answering(), host)

    assert (True, "noerror") == (result.passed, result.reason)


@pytest.mark.parametrize("kind", list(RecordType))
@pytest.mark.parametrize("recursion", [True, False])
def test_the_query(kind: RecordType, recursion: bool) -> None:
    """Name, type and recursion are asked for as the check says, each time with an id of its own."""
    seen = []

    def serve(request: bytes) -> list[bytes]:
        seen.append(request)
        return answering()(request)

    assert check_datagrams(Dns(name="a_b.Example.com", type=kind, recursion=recursion), serve).passed
    query = dns.message.from_wire(seen[0])
    assert [f"a_b.Example.com. IN {kind}"] == [str(each) for each in query.question]
    assert recursion == bool(query.flags & dns.flags.RD)


def test_ids_differ() -> None:
    """A query's id can't be foretold."""
    seen = set()

    async def main() -> None:
        def serve(request: bytes) -> list[bytes]:
            seen.add(request[:2])
            return answering()(request)

        async with datagrams(serve) as port:
            for _ in range(20):
                await run(probe_for(Dns()), subject(port=port))

    asyncio.run(main())
    assert len(seen) > 10


@pytest.mark.parametrize("answered", list(Rcode))
def test_rcode(answered: Rcode) -> None:
    """Only rcodes that the check names are healthy; the others are told."""
    result = check_datagrams(Dns(name="example.com", rcode=(Rcode.NOERROR, Rcode.NXDOMAIN)), with_rcode(answered))

    healthy = answered in {Rcode.NOERROR, Rcode.NXDOMAIN}
    reason = answered.value if healthy else f"rcode {answered.value}, not noerror or nxdomain"
    assert (healthy, reason) == (result.passed, result.reason)


def test_other_rcode() -> None:
    """An rcode without a name is told by its number."""
    result = check_datagrams(Dns(), answering(lambda response: response.set_rcode(dns.rcode.Rcode(13))))

    assert (False, "rcode 13, not noerror") == (result.passed, result.reason)


def test_truncated() -> None:
    """A truncated answer is an answer."""

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
    (_wrong_id, "what came was not the answer to our query"),
    (_query, "what came was not the answer to our query"),
    (_update, "what came was not the answer to our query"),
    (_other_question, "what came was the answer to another question"),
    (_no_question, "what came was the answer to another question"),
]


@pytest.mark.parametrize(("change", "note"), NOT_OURS)
def test_not_ours(change: Callable[[dns.message.Message], object], note: str) -> None:
    """What does not answer our query is left aside; if nothing else comes, that is told."""
    result = check_datagrams(Dns(name="example.com"), answering(change), seconds=0.05)

    assert (False, f"no answer within 0.05s; {note}") == (result.passed, result.reason)


@pytest.mark.parametrize("change", [change for change, _ in NOT_OURS])
def test_not_ours_and_then_ours(change: Callable[[dns.message.Message], object]) -> None:
    """The answer counts, whatever came before it."""

    def serve(request: bytes) -> list[bytes]:
        return [b"", b"short", *answering(change)(request), *answering()(request)]

    assert check_datagrams(Dns(name="example.com"), serve).passed
    tcp = over_tcp(lambda request: [b"short", *answering(change)(request), *answering()(request)])
    assert tcp.passed


def test_not_ours_over_tcp() -> None:
    """TCP tells too what came in the answer's place."""
    result = over_tcp(answering(_wrong_id), seconds=0.05)

    assert "no answer within 0.05s; what came was not the answer to our query" == result.reason


def test_refusal_without_the_question() -> None:
    """A server that answers an error may leave the question out."""

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
    """Where nobody listens, the check fails at once."""
    tcp = check_streams(Dns(transport=Transport.TCP), None, host)
    udp = check_datagrams(Dns(), None, host)

    assert ["connection refused"] * 2 == [udp.reason, tcp.reason]
    assert [False, False] == [udp.passed, tcp.passed]


def test_silent() -> None:
    """A server that says nothing is down."""
    udp = check_datagrams(Dns(), silent, seconds=0.05)
    tcp = check_streams(Dns(transport=Transport.TCP), mute, seconds=0.05)

    assert ["no answer within 0.05s"] * 2 == [udp.reason, tcp.reason]


@pytest.mark.parametrize("reply", [b"", b"\x00", b"\x00\x20short"])
def test_closed_early(reply: bytes) -> None:
    """A connection that ends within an answer fails at once."""
    result = check_streams(Dns(transport=Transport.TCP), sends(reply))

    assert not result.passed
    assert result.reason in {"closed before its answer was complete", "connection reset by peer"}


def test_cancelled() -> None:
    """A check that is cancelled leaves no socket."""
    cancel_datagrams(Dns())
    cancel_streams(Dns(transport=Transport.TCP))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_any_bytes(noise: bytes, keep: bool) -> None:
    """Whatever bytes come, also behind our id, there is a result."""

    async def main() -> None:
        def serve(request: bytes) -> list[bytes]:
            return [request[:2] + noise if keep else noise]

        async with datagrams(serve) as port:
            result = await run(probe_for(Dns(name="example.com")), subject(port=port, seconds=0.01))
        assert result.reason.isprintable()

    asyncio.run(main())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_over_tcp(noise: bytes) -> None:
    """The same over TCP."""
    result = check_streams(Dns(transport=Transport.TCP), sends(noise), seconds=1, count=False)

    assert not result.passed


def test_nothing_else_is_read() -> None:
    """Nonsense behind the question is no matter: the server is there."""
    assert check_datagrams(Dns(), lambda request: [answering()(request)[0] + b"\xff" * 9]).passed
    assert not check_datagrams(Dns(), says(b"\xff" * 40), seconds=0.02).passed
