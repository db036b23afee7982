"""TCP checks."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import BOTH, NOTED, V6, cancel_streams, check_streams, mute, sends, streams, subject

from nftlb.model import Tcp
from nftlb.probes import probe_for, run_probe
from nftlb.probes.probe import open_socket


@pytest.mark.parametrize("host", BOTH)
def test_connecting_is_enough(host: str) -> None:
    """Without a match, a backend that accepts the connection passes."""
    result = check_streams(Tcp(), mute, host)

    assert (True, "connected") == (result.passed, result.reason)


@pytest.mark.parametrize("host", BOTH)
def test_refused(host: str) -> None:
    """At a closed port the check fails at once."""
    result = check_streams(Tcp(), None, host)

    assert (False, "connection refused") == (result.passed, result.reason)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while said := await reader.read(4096):
        for byte in said:  # in as many pieces as possible
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "check",
    [
        Tcp(send="hello\n", match="^hel+o\n$"),
        Tcp(send_hex=b"\x00\xff\x00", match_hex=b"\xff\x00"),
        Tcp(send="x"),
    ],
)
def test_send_and_match(check: Tcp) -> None:
    """A reply may come in pieces, and matches as a whole."""
    result = check_streams(check, echo)

    assert (True, "answered" if check.match or check.match_hex else "connected") == (result.passed, result.reason)


def test_a_banner() -> None:
    """A backend may speak first, and need not close."""

    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()

    assert check_streams(Tcp(match="^220 "), banner).passed


def test_a_misfit() -> None:
    """A reply that does not match, followed by the end of the connection, fails at once."""
    result = check_streams(Tcp(match="^220 "), sends(b"421 too\tbusy\r\n"))

    assert (False, 'closed, and "421 too busy" does not match "^220"') == (result.passed, result.reason)


def test_a_misfit_in_hexadecimal() -> None:
    """The reason shows bytes in hexadecimal."""
    result = check_streams(Tcp(match_hex=b"\xff"), sends(b"\x00\x01"))

    assert 'closed, and "0001" does not contain "ff"' == result.reason


def test_no_end() -> None:
    """At the time-out, the reason has the reply that did not match."""

    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 too busy\r\n")
        await reader.read()

    result = check_streams(Tcp(match="^220 "), banner, seconds=NOTED)

    assert (False, 'no answer within 0.6s; "421 too busy" is all that came') == (result.passed, result.reason)


def test_silent() -> None:
    """A silent backend fails the check, if a reply is expected."""
    result = check_streams(Tcp(match="x"), mute, seconds=0.05)

    assert (False, "no answer within 0.05s") == (result.passed, result.reason)


def test_too_much() -> None:
    """An endless reply fails the check."""

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"y" * 4096)
            await writer.drain()

    result = check_streams(Tcp(match="x"), flood)

    assert (False, "more than 65536 bytes without an end") == (result.passed, result.reason)


def test_no_connection() -> None:
    """If the backend does not accept the connection, the reason says so."""

    async def main() -> tuple[bool, str]:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            # The queue has room for one connection; further connections get no reply.
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                result = await run_probe(probe_for(Tcp()), subject(port=port, seconds=0.1))
            finally:
                writer.close()
                await writer.wait_closed()
        return result.passed, result.reason

    assert (False, "no answer within 0.1s; no connection") == asyncio.run(main())


def test_the_source_is_used() -> None:
    """A check with a source address uses it."""

    async def main() -> list[str]:
        clients = []

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            clients.append(writer.get_extra_info("peername")[0])
            writer.write(b"ok")

        async with streams(serve) as port:
            assert (await run_probe(probe_for(Tcp(match="ok")), subject(port=port, source="127.0.0.77"))).passed
        return clients

    assert ["127.0.0.77"] == asyncio.run(main())


@pytest.mark.parametrize("host", BOTH)
def test_a_source_address_binds_no_port(host: str) -> None:
    """The source port is chosen by destination, so that thousands of checks don't use up all ports."""
    with open_socket(subject(host, source=host), socket.SOCK_STREAM) as opened:
        assert (host, 0) == opened.getsockname()[:2]


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""
    cancel_streams(Tcp(match="x"))
    cancel_streams(Tcp(match="x"), V6)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=500))
def test_any_bytes(noise: bytes) -> None:
    """Arbitrary bytes give a result of one line, and no exception."""
    result = check_streams(Tcp(match="^x$"), sends(noise), seconds=1, count=False)

    assert result.reason.isprintable()
