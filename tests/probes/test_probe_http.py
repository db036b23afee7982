"""HTTP checks."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from certificates import EARLY, EXPIRED, Authority
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import BOTH, V4, V6, cancel_streams, check_streams, clean, mute, no_files, sends, streams, subject

from nftlb import file_systems
from nftlb.config import read_check
from nftlb.errors import SystemFault
from nftlb.probes import http as http_probes
from nftlb.probes import probe_for, run_probe

if TYPE_CHECKING:
    from probing import Streams

    from nftlb.health import CheckResult
    from nftlb.model import AnyCheck

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def http(**options: Any) -> AnyCheck:
    return read_check("http", options)


def answering(reply: bytes = OK, seen: list[str] | None = None) -> Streams:
    """A server that replies to each request with the same bytes, and leaves the connection open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request.decode())
        writer.write(reply)
        await writer.drain()
        await reader.read()

    return serve


def request_line(seen: list[str]) -> str:
    return seen[0].split("\r\n")[0]


def headers(seen: list[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in seen[0].split("\r\n")[1:-2])


@pytest.mark.parametrize("host", BOTH)
def test_healthy(host: str) -> None:
    """A response with 200 passes the check."""
    result = check_streams(http(), answering(), host)

    assert (True, "200 OK") == (result.passed, result.reason)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/a%20b/../c?d=%2F&e=[f]", "//x"])
def test_method_and_path_are_those_of_the_check(method: str, path: str) -> None:
    """Method and path are exactly those of the check."""
    seen: list[str] = []

    reply = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert check_streams(http(method=method, path=path), answering(reply, seen)).passed
    assert f"{method} {path} HTTP/1.1" == request_line(seen)


@pytest.mark.parametrize("host", BOTH)
def test_the_host_is_the_address(host: str) -> None:
    """By default Host is what a browser would send for the address."""
    seen: list[str] = []

    assert check_streams(http(), answering(seen=seen), host).passed
    address, _, port = headers(seen)["Host"].rpartition(":")
    assert (f"[{host}]" if ":" in host else host) == address
    assert port.isdecimal()
    assert ("nftlb", "close", "identity") == tuple(
        headers(seen)[name] for name in ("User-Agent", "Connection", "Accept-Encoding")
    )


def test_host() -> None:
    """A configured Host is sent, whatever the address; no name is looked up."""
    seen: list[str] = []

    assert check_streams(http(host="www.example.com:8080"), answering(seen=seen)).passed
    assert "www.example.com:8080" == headers(seen)["Host"]


@pytest.mark.parametrize(
    ("status", "line", "reason"),
    [
        (None, "204 No Content", "204 No Content"),
        (None, "301 Moved Permanently", "answered 301 Moved Permanently"),
        (None, "503 Service Unavailable", "answered 503 Service Unavailable"),
        ([200, "400-404"], "404 Not Found", "404 Not Found"),
        ([200, "400-404"], "201 Created", "answered 201 Created"),
        (200, "200", "200"),
    ],
)
def test_status(status: object, line: str, reason: str) -> None:
    """Only the configured statuses pass; no redirect is followed."""
    options = {} if status is None else {"status": status}
    reply = f"HTTP/1.1 {line}\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n".encode()

    result = check_streams(http(**options), answering(reply))

    assert (not reason.startswith("answered"), reason) == (result.passed, result.reason)


@pytest.mark.parametrize(("pattern", "passed"), [("^hel+o$", True), ("ell", True), ("bye", False), ("é", False)])
@pytest.mark.parametrize(
    "reply",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_body(pattern: str, passed: bool, reply: bytes) -> None:
    """The body has to match, however it is framed."""
    result = check_streams(http(body=pattern), sends(reply) if b"1.0" in reply else answering(reply))

    reason = "200 OK" if passed else f'answered 200 OK, but the body does not match "{pattern}"'
    assert (passed, reason) == (result.passed, result.reason)


@pytest.mark.parametrize("framed", [{}, {"body": "hello"}], ids=["alone", "and-body"])
def test_digest(framed: dict[str, str]) -> None:
    """The MD5 of the whole body must be the configured digest, in digits of any case."""
    right = check_streams(http(digest="5D41402ABC4B2A76B9719D911017C592", **framed), answering(OK))  # md5sum of hello
    wrong = check_streams(http(digest="0" * 31 + "a", **framed), answering(OK))

    assert (True, "200 OK") == (right.passed, right.reason)
    reason = "answered 200 OK, but the body has the digest 5d41402abc4b2a76b9719d911017c592"
    assert (False, reason) == (wrong.passed, wrong.reason)


def test_an_endless_body() -> None:
    """Only 64 KiB of an endless body are searched, and the reason says so."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"y" * 65536)
            await writer.drain()

    result = check_streams(http(body="x"), flood)

    reason = 'answered 200 OK, but the body does not match "x" in its first 65536 bytes'
    assert (False, reason) == (result.passed, result.reason)


def test_the_body_is_not_waited_for() -> None:
    """Without a configured body, the status is enough."""
    assert check_streams(http(), answering(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")).passed


def test_a_broken_body() -> None:
    """An incomplete body fails the check."""
    result = check_streams(http(body="x"), sends(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nxyz"))

    assert not result.passed
    assert result.reason in {"closed before the body was complete", "connection reset by peer"}


def test_compressed() -> None:
    """Compressed bodies are not unpacked."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxyz\n"

    assert check_streams(http(body="^xyz$"), answering(reply)).passed


@pytest.mark.parametrize("host", BOTH)
def test_refused(host: str) -> None:
    """At a closed port the check fails at once."""
    result = check_streams(http(), None, host)

    assert (False, "connection refused") == (result.passed, result.reason)


@pytest.mark.parametrize("tls", [False, True])
def test_silent(tls: bool) -> None:
    """A silent server fails the check."""
    result = check_streams(http(tls=tls), mute, seconds=0.1)

    assert (False, "no answer within 0.1s") == (result.passed, result.reason)


def test_closed_early() -> None:
    """A connection that is closed before the reply fails the check at once."""

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    result = check_streams(http(), serve)

    assert (False, "closed before its answer was complete") == (result.passed, result.reason)


@pytest.mark.parametrize("reply", [b"220 mail.example ESMTP\r\n\r\n", b"\x00\xff\r\n\r\n", b"HTTP/1.1 x OK\r\n\r\n"])
def test_not_http(reply: bytes) -> None:
    """The reason says that a reply was not HTTP."""
    result = check_streams(http(), answering(reply))

    assert not result.passed
    assert result.reason.startswith("the reply was not HTTP: ")
    assert result.reason.isprintable()


def test_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert check_streams(http(), answering()).passed


def test_the_source_is_used() -> None:
    """A check with a source address uses it."""

    async def main() -> list[str]:
        clients = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            clients.append(writer.get_extra_info("peername")[0])
            await answering()(reader, writer)

        async with streams(serve) as port:
            assert (await run_probe(probe_for(http()), subject(port=port, source="127.0.0.77"))).passed
        return clients

    assert ["127.0.0.77"] == asyncio.run(main())


def test_cancelled() -> None:
    """A cancelled check leaves no socket, also during a handshake."""
    cancel_streams(http())
    cancel_streams(http(), V6)
    cancel_streams(http(tls=True))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
    st.binary(max_size=300),
)
def test_any_bytes(start: bytes, noise: bytes) -> None:
    """Arbitrary bytes give a result of one line, and no exception."""
    result = check_streams(http(body="^x$"), sends(start + noise), seconds=1, count=False)

    assert result.reason.isprintable()


# The tests below use TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def server(authority: Authority) -> ssl.SSLContext:
    return authority.server("web", "DNS:web.example,IP:127.0.0.1,IP:::1")


def check_tls(check: AnyCheck, context: ssl.SSLContext, host: str = V4) -> CheckResult:
    async def main() -> CheckResult:
        async with streams(answering(), host, context) as port:
            return await clean(probe_for(check), subject(host, port))

    return asyncio.run(main())


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("options", [{}, {"host": "web.example:8443"}, {"sni": "web.example", "host": "other"}])
def test_tls(authority: Authority, server: ssl.SSLContext, host: str, options: dict[str, str]) -> None:
    """A certificate of a trusted authority passes for its addresses and names."""
    result = check_tls(http(tls=True, ca_file=authority.file, **options), server, host)

    assert (True, "200 OK") == (result.passed, result.reason)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, None),
        ({"host": "a.example"}, "a.example"),
        ({"host": "a.example:1"}, "a.example"),
        ({"host": "a.example", "sni": "b.example"}, "b.example"),
        ({"sni": "b.example"}, "b.example"),
        ({"host": "[::1]:8443"}, None),
    ],
)
def test_sni(authority: Authority, options: dict[str, str], asked: str | None) -> None:
    """The server name in TLS is `sni`, or else the host without its port; it is never an address."""
    seen = []
    context = authority.server("sni", "DNS:c.example")
    context.sni_callback = lambda _, name, __: seen.append(name)

    assert check_tls(http(tls=True, verify=False, **options), context).passed
    assert {asked} == set(seen)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sni": "other.example"}, "certificate: Hostname mismatch, certificate is not valid for 'other.example'."),
        ({"host": "other.example"}, "certificate: Hostname mismatch, certificate is not valid for 'other.example'."),
    ],
)
def test_wrong_name(authority: Authority, server: ssl.SSLContext, options: dict[str, str], reason: str) -> None:
    """A certificate for another name fails the check, and the reason names it."""
    result = check_tls(http(tls=True, ca_file=authority.file, **options), server)

    assert (False, reason) == (result.passed, result.reason)


def test_wrong_address(authority: Authority) -> None:
    """A certificate for another address fails the check."""
    context = authority.server("elsewhere", "IP:192.0.2.1")

    result = check_tls(http(tls=True, ca_file=authority.file), context)

    assert not result.passed
    assert result.reason.startswith("certificate: IP address mismatch, certificate is not valid for '127.0.0.1'")


@pytest.mark.parametrize(
    ("dates", "reason"),
    [(EXPIRED, "certificate: certificate has expired"), (EARLY, "certificate: certificate is not yet valid")],
)
def test_dates(authority: Authority, dates: tuple[str, str], reason: str) -> None:
    """An expired certificate fails the check, unless certificates are not verified."""
    context = authority.server("dated", "IP:127.0.0.1", dates)

    result = check_tls(http(tls=True, ca_file=authority.file), context)

    assert (False, reason) == (result.passed, result.reason)
    assert check_tls(http(tls=True, verify=False), context).passed


def test_an_unknown_authority(server: ssl.SSLContext, tmp_path: Path) -> None:
    """Without ca_file, the system's authorities are trusted; with ca_file, only the authorities in it."""
    other = Authority.make(tmp_path / "other")

    of_system = check_tls(http(tls=True), server)
    of_other = check_tls(http(tls=True, ca_file=other.file), server)

    assert [(False, "certificate: unable to get local issuer certificate")] * 2 == [
        (of_system.passed, of_system.reason),
        (of_other.passed, of_other.reason),
    ]


def test_self_signed(authority: Authority) -> None:
    """The reason names a self-signed certificate, which passes if it is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.file, authority.directory / "ca.key")

    result = check_tls(http(tls=True), context)

    assert (False, "certificate: self-signed certificate") == (result.passed, result.reason)


def test_ca_file_is_read_again(
    authority: Authority, server: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New authorities are used at the next look at the file."""
    monkeypatch.setattr(file_systems, "FRESH", 0.0)
    file = tmp_path / "ca.pem"
    file.write_bytes(Path(Authority.make(tmp_path / "old").file).read_bytes())
    new = Path(authority.file).read_bytes()

    async def main() -> list[bool]:
        probe = probe_for(http(tls=True, ca_file=str(file)))
        async with streams(answering(), tls=server) as port:
            first = await run_probe(probe, subject(port=port))
            file.write_bytes(new)
            second = await run_probe(probe, subject(port=port))
        return [first.passed, second.passed]

    assert [False, True] == asyncio.run(main())


def test_a_ca_file_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop does not wait, and SystemFault tells the reason."""
    file, go = tmp_path / "file", threading.Event()
    monkeypatch.setattr(file_systems, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(http_probes, "stamp", lambda *_: go.wait(60))

    async def test() -> None:
        with pytest.raises(SystemFault, match=f"ca_file {file} can't be read: its file system has not answered"):
            await run_probe(probe_for(http(tls=True, ca_file=str(file))), subject(port=1))

    try:
        asyncio.run(test())
    finally:
        go.set()


def test_no_file_to_read_authorities_from(tmp_path: Path) -> None:
    """A FIFO without a writer, a device, or a file of gigabytes does not block the daemon."""
    for path, what in no_files(tmp_path):
        with pytest.raises(SystemFault, match=f"ca_file {path} {what}"):
            asyncio.run(run_probe(probe_for(http(tls=True, ca_file=str(path))), subject(port=1)))


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "can't be read: No such file or directory"), ("nonsense", "holds no certificates")],
)
def test_no_ca_file(tmp_path: Path, content: str | None, what: str) -> None:
    """Without authorities, SystemFault names the fix, and the state of the backend does not change."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)

    with pytest.raises(SystemFault, match=f"ca_file {file} {what}"):
        asyncio.run(run_probe(probe_for(http(tls=True, ca_file=str(file))), subject(port=1)))


TOO_LONG = 'the body does not match "hello" in its first 65536 bytes'


def stalling(context: ssl.SSLContext, sent: bytes = b"") -> Streams:
    """A server that completes the handshake, sends `sent`, and does not end TLS when the client does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.readexactly(1) + await reader.read(65536))
        tls.write(sent)
        writer.write(outgoing.read())
        await mute(reader, writer)

    return serve


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "no answer within 2s"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 50_000, "no answer within 2s"),
        (OK, "200 OK"),
        (b"HTTP/1.1 503 No\r\n\r\n", "answered 503 No"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 5_000_000, f"answered 200 OK, but {TOO_LONG}"),
    ],
)
def test_a_server_that_stalls(server: ssl.SSLContext, sent: bytes, reason: str) -> None:
    """The connection does not stay open until the server ends TLS, which it may never do."""
    seconds = 2 if "2s" in reason else 20
    result = check_streams(http(tls=True, verify=False, body="hello"), stalling(server, sent), seconds=seconds)

    assert reason == result.reason


def test_no_tls_there() -> None:
    """Plain HTTP instead of TLS fails the check."""
    result = check_streams(http(tls=True, verify=False), sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"))

    assert not result.passed
    assert result.reason.startswith(("TLS: ", "connection reset"))


def test_an_impossible_name(server: ssl.SSLContext) -> None:
    """An invalid TLS server name fails the check, and the reason names it."""
    result = check_tls(http(tls=True, verify=False, sni=".example"), server)

    assert not result.passed
    assert result.reason.startswith('can\'t ask for ".example": ')


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_for_a_handshake(noise: bytes) -> None:
    """Arbitrary bytes instead of a handshake give a result."""
    result = check_streams(http(tls=True), sends(b"\x16\x03\x03" + noise), seconds=1, count=False)

    assert not result.passed
