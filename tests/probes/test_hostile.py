"""Harmful replies of backends: no reply costs much time, or makes other tasks wait."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import time
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from probing import subject
from processor_time import processor_time

from nftlb.config import read_check
from nftlb.model import Agent, AnyCheck, Dns, Exec, Radius, Sip, Snmp, Tcp, Transport, Udp
from nftlb.probes import probe_for, run_probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.health import CheckResult
    from nftlb.model import AnyCheck

MEBIBYTE = 1024 * 1024
# A mebibyte of this would keep Python's own expressions busy for minutes: each `status` may begin a match.
EVIL, EVIL_PATTERN = b"status" * (MEBIBYTE // 6), "status.*ok"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def flood(first: bytes, again: bytes, pause: float = 0.0) -> Iterator[int]:
    """A server that sends `first` to each client, and then `again` until the connection ends."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # the end
                return
            with connection:
                try:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.sendall(first)
                    while again:
                        connection.sendall(again)
                        time.sleep(pause)
                    connection.recv(1 << 16)
                    while connection.recv(1 << 16):
                        pass
                except OSError:  # the client closed the connection
                    pass

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@contextmanager
def echoes(reply: bytes, times: int) -> Iterator[int]:
    """A server that replies to a datagram `times` times, with `reply` and the request."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                request, client = server.recvfrom(65535)
                if not request:
                    return
                for _ in range(times):
                    server.sendto((reply + request)[:65507], client)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        port: int = server.getsockname()[1]
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", port))
            thread.join()


def check(wanted: AnyCheck, port: int, seconds: float = 1.0) -> tuple[CheckResult, float, float, float]:
    """The result of a check, the longest wait of another task meanwhile, and this thread's processor time."""

    async def main() -> tuple[CheckResult, float, float, float]:
        longest = 0.0

        async def other() -> None:
            nonlocal longest
            while True:
                before = time.thread_time()
                await asyncio.sleep(0.001)
                longest = max(longest, time.thread_time() - before)

        probe = probe_for(wanted)
        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        before, began = time.thread_time(), time.monotonic()
        result = await run_probe(probe, subject(port=port, seconds=seconds))
        took, elapsed = time.thread_time() - before, time.monotonic() - began
        await asyncio.sleep(0)
        task.cancel()
        return result, longest, took, elapsed

    return asyncio.run(main())


def http(**options: Any) -> AnyCheck:
    return read_check("http", options)


HEAD_TOO_LONG = "the reply was not HTTP: Receive buffer too long"
SEARCHED = f'does not match "{EVIL_PATTERN}"'
FLOODS: dict[str, tuple[AnyCheck, bytes, bytes, str]] = {
    "http-body": (http(body=EVIL_PATTERN), OK + b"Content-Length: 1048576\r\n\r\n" + EVIL, b"", SEARCHED),
    "http-endless": (http(body=EVIL_PATTERN), OK + b"\r\n", EVIL[:60000], SEARCHED),
    "http-digest": (http(digest="0" * 32), OK + b"\r\n", EVIL[:60000], "is longer than 1048576 bytes"),
    "http-chunks": (http(body=EVIL_PATTERN), CHUNKED, b"1\r\nx\r\n" * 10000, f"{SEARCHED} in its first"),
    "http-extensions": (http(body="x"), CHUNKED + b"1;", b"a" * 60000, HEAD_TOO_LONG),
    "http-trailers": (http(body="x"), CHUNKED + b"0\r\n", b"a: b\r\n" * 10000, HEAD_TOO_LONG),
    "http-status": (http(), b"HTTP/1.1 200 ", b"a" * 60000, HEAD_TOO_LONG),
    "http-headers": (http(), OK, b"a: b\r\n" * 10000, HEAD_TOO_LONG),
    "http-folded": (http(), OK + b"a: b\r\n", b" \r\n" * 20000, HEAD_TOO_LONG),
    "http-provisional": (http(), b"", b"HTTP/1.1 100 Go on\r\n\r\n" * 3000, "10 provisional responses came"),
    "http-redirect": (http(), b"HTTP/1.1 302 No\r\nLocation: /\r\n\r\n", b"HTTP/1.1 302 No\r\n\r\n", "answered 302 No"),
    "https-records": (http(tls=True, verify=False), b"", b"\x16\x03\x03\x40\x00" * 10000, "TLS: "),
    "https-alerts": (http(tls=True, verify=False), b"", b"\x15\x03\x03\x00\x02\x01\x5a" * 9000, "TLS: "),
    "tcp-match": (Tcp(match=EVIL_PATTERN), b"", EVIL[:60000], "more than 65536 bytes without an end"),
    "tcp-slow-pattern": (Tcp(match="(a|b)*a(a|b){200}c"), b"", b"abbaab" * 10000, ""),
    "dns-others": (Dns(transport=Transport.TCP), b"", b"\0\0" * 30000, "no answer within 1s; the reply was not DNS"),
    "dns-half": (
        Dns(transport=Transport.TCP),
        b"",
        b"\xff\xff" + b"x" * 65535,
        "no answer within 1s; the reply was not",
    ),
    "sip-others": (Sip(transport=Transport.TCP), b"", b"SIP/2.0 100 Trying\r\n\r\n" * 3000, "100 messages came"),
    "sip-alive": (Sip(transport=Transport.TCP), b"", b"\r\n" * 30000, "more than 2097152 bytes without an answer"),
    "sip-headers": (Sip(transport=Transport.TCP), b"SIP/2.0 200 OK\r\n", b"a: b\r\n" * 9000, "more than 65536 bytes"),
    "agent": (Agent(port=1), b"", b"up " * 20000, "more than 4096 bytes"),
}


def calm(wanted: AnyCheck, port: int, most: float, seconds: float = 1.0) -> CheckResult:
    """Check, and verify that no other task waited for long, and that the check cost little processor time."""
    for _ in range(3):
        result, longest, took, elapsed = check(wanted, port, seconds)
        if longest < most and took < 2 * most:
            break
    assert longest < most
    assert took < 2 * most
    assert elapsed < seconds + 20  # the flood has no end
    return result


@pytest.mark.parametrize("what", FLOODS)
def test_floods(what: str) -> None:
    """For endless replies the check ends soon, with a reason, and other tasks run meanwhile."""
    wanted, first, again, reason = FLOODS[what]

    with flood(first, again) as port:
        probed = replace(wanted, port=port) if isinstance(wanted, Agent) else wanted
        # If the check ends before the time-out, the time-out is long enough for a slow machine.
        result = calm(probed, port, 0.2, 20.0 if reason and "no answer" not in reason else 1.0)

    assert not result.passed
    assert reason in result.reason


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        (http(), OK),
        (http(body="never"), OK + b"\r\n"),
        (http(body="never"), CHUNKED + b"ffff\r\n"),
        (http(tls=True, verify=False), b"\x16\x03\x03\x40\x00"),
        (Tcp(match=EVIL_PATTERN), b""),
        (Sip(transport=Transport.TCP), b"SIP/2.0 200 OK\r\n"),
        (Dns(transport=Transport.TCP), b"\xff\xff"),
    ],
    ids=["http-head", "http-body", "http-chunk", "https", "tcp", "sip", "dns"],
)
def test_single_bytes(wanted: AnyCheck, first: bytes) -> None:
    """A server that sends thousands of single bytes per second is read only a few times, and fails at the time-out."""
    with flood(first, b"x", 0.0002) as port:
        result = calm(wanted, port, 0.1)

    assert not result.passed
    assert result.reason.startswith("no answer within 1s")


def test_single_bytes_are_searched_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply in many pieces is not searched again for each piece."""
    searches = 0

    async def fits(_: object, __: bytes) -> bool:
        nonlocal searches
        searches += 1
        return False

    monkeypatch.setattr("nftlb.probes.matching.Matching.fits", fits)
    with flood(b"", b"x", 0.0002) as port:
        for _ in range(4):  # this machine may stand still during a check
            searches = 0
            check(Tcp(match="y"), port)
            if searches > 5:
                break

    assert 5 < searches < 40


@pytest.mark.parametrize(
    ("wanted", "reply"),
    [
        (Dns(), b""),
        (Sip(), b"SIP/2.0 200 OK\r\nCall-ID: x\r\n" + b"a:\r\n" * 4000),
        (Sip(), b"SIP/2.0 200 OK\r\nCall-ID: x\r\n" + b" \r\n" * 6000),
        (Snmp(), b"\x30\x82\x05\x00" + b"\x30\x00" * 600),
        (Snmp(), b""),
        (Radius(secret="x"), b"\x02\x01\x10\x00" + b"\x1a\x02" * 2046),  # noqa: S106
    ],
    ids=["dns", "sip-headers", "sip-folded", "snmp", "snmp-request", "radius"],
)
def test_datagrams_that_are_no_answer(wanted: AnyCheck, reply: bytes) -> None:
    """Thousands of datagrams are read a few at a time; the check ends in time."""
    with echoes(reply, 2000) as port:
        result = calm(wanted, port, 0.2)

    assert not result.passed
    assert result.reason.startswith("no answer within 1s; ")


def test_an_answer_behind_others_counts() -> None:
    """A flood of some hundred datagrams does not hide the reply."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            request, client = server.recvfrom(65535)
            for _ in range(50):
                server.sendto(b"x", client)
            server.sendto(request[:2] + b"\x81\x80" + request[4:], client)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        result, *_ = check(Dns(), server.getsockname()[1], 5.0)
        thread.join()

    assert (True, "noerror") == (result.passed, result.reason)


@pytest.mark.parametrize("reply", [EVIL[:65000], b"status" * 10])
def test_a_datagram_that_is_searched(reply: bytes) -> None:
    """A reply that would keep Python's own expressions busy is searched at once."""
    with echoes(reply, 1) as port:
        result = calm(Udp(send="x", match=EVIL_PATTERN), port, 0.2, 20.0)

    assert not result.passed
    assert SEARCHED in result.reason


def test_the_slowest_pattern_does_not_block_the_loop() -> None:
    """The slowest searches of RE2 run in another thread, without Python's lock."""
    with echoes(b"abbaab" * 10000, 1) as port:
        result = calm(Udp(send="x", match="(a|b)*a(a|b){200}c"), port, 0.2)

    assert not result.passed


@pytest.mark.parametrize("script", ["yes", "while :; do printf x; done", "yes >&2"])
def test_endless_output_of_a_plugin_ends_at_the_time_out(script: str) -> None:
    """Endless output is read with pauses; the check ends at the time-out."""
    result = calm(Exec(argv=("/bin/sh", "-c", script)), 1, 0.2)

    assert not result.passed
    assert result.reason.startswith("no answer within 1s")


def test_excess_output_of_a_plugin_is_discarded() -> None:
    """Excess output is discarded; the plugin can end nevertheless."""
    result, *_ = check(Exec(argv=("/bin/sh", "-c", "echo fine; yes | head -c 500000")), 1, 10.0)

    assert (True, "fine") == (result.passed, result.reason)


def test_memory() -> None:
    """Floods, each of which would fill a gigabyte if kept, leave no memory behind."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for what in ("http-endless", "http-digest", "http-headers", "sip-alive", "dns-half", "tcp-match"):
        wanted, first, again, _ = FLOODS[what]
        with flood(first, again) as port:
            check(wanted, port)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert grown < 20 * 1024  # KiB


def test_python_would_not_end() -> None:
    """This reply is an attack indeed: Python's own expressions take quadratic time for it."""

    def shortest(size: int) -> float:
        return min(processor_time(lambda: re.search(EVIL_PATTERN.encode(), EVIL[:size])) for _ in range(3))

    assert shortest(48000) > 6 * shortest(12000)
