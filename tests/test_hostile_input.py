"""Functions that read input from outside take time in proportion to the input, and never long.

All functions of nftlb/probes/ and nftlb/kernel/nflog.py with a parameter of bytes are here; add new functions.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nftlb.kernel.nflog import read_refusal
from nftlb.model import Dns, Snmp, SnmpVersion
from nftlb.printable import one_line, quoted
from nftlb.probes import agent, dns, exec, icmp, ntp, radius, sip, snmp  # noqa: A004 - the probe of that name
from nftlb.probes.exchange import NotOurs
from nftlb.probes.matching import Matching, Searched
from nftlb.probes.probe import Failed, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).parents[1] / "nftlb"
SOURCES = [*sorted((ROOT / "probes").glob("*.py")), ROOT / "kernel" / "nflog.py", ROOT / "printable.py"]
LARGE = 60_000
SMALL = LARGE // 4
MOST = 0.05
"""Seconds for the largest datagram."""
EASY = 0.002
"""Seconds below which times are not compared."""
TRIES = 8

STAMP = b"12345678"
REQUEST = radius._request(b"secret")
REQUEST.RequestPacket()
CALL, BRANCH = b"call@nftlb", b"branch"
SUBJECT = Subject("pool", "backend", ip_address("192.0.2.1"), 5060, None, 1.0)


def fill(begin: bytes, again: bytes, size: int) -> bytes:
    return (begin + again * (size // len(again) + 1))[:size]


def ber(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(2) + content


def snmp_answer(content: bytes) -> bytes:
    """A reply to the request 1000, with these bindings."""
    pdu = ber(0xA2, b"\x02\x02\x03\xe8\x02\x01\x00\x02\x01\x00" + ber(0x30, content[:LARGE]))
    return ber(0x30, b"\x02\x01\x01\x04\x06public" + pdu)


def radius_answer(attributes: bytes) -> bytes:
    """A reply with a signature, as from a server that knows the secret."""
    head = bytes([2, REQUEST.id]) + (20 + len(attributes)).to_bytes(2)
    signature = hashlib.md5(head + REQUEST.authenticator + attributes + b"secret", usedforsecurity=False).digest()
    return head + signature + attributes


def extensions(again: bytes, size: int) -> bytes:
    """An IPv6 packet with a long chain of headers."""
    return b"\x60" + bytes(5) + bytes([again[0]]) + bytes(33) + fill(b"", again, size)


_QUERY, _READ = dns._Query(Dns()).new()
_JUDGE = sip._ResponseJudge(CALL, BRANCH, ((200, 299),))
_SIP_BEGIN = b"SIP/2.0 200 OK\r\nCall-ID: call@nftlb\r\n"
_TEXT = (b"a", b"status", b"\n", b" ", b"\r\n", b"\xff", b"\xc3\xa9", b"\0", b"a\n", b"a:b\r\n", b"\r\n b", b"#", b"|")
_SNMP = snmp.SnmpProbe(Snmp(version=SnmpVersion.V2C))
_WORDS = (b"up ", b"9%,", b"99999999999", b",", b"up#", b"\t ", b"ready")


def texts(size: int) -> Iterable[bytes]:
    return (fill(b"", again, size) for again in _TEXT)


def sips(size: int) -> Iterable[bytes]:
    yield from texts(size)
    for again in _TEXT:
        yield fill(_SIP_BEGIN, again, size)


def snmps(size: int) -> Iterable[bytes]:
    for again in (b"\x30\x80", b"\x30\x00", b"\xff", b"\x06\x01\x2b", b"\x02\x02\x03\xe8", b"\x24\x80"):
        yield fill(b"", again, size)
        yield snmp_answer(fill(b"", again, size))
        yield fill(b"\x30\x82\x05\xd0\x02\x02\x03\xe8", again, min(size, 1500))
    yield snmp_answer(fill(b"", ber(0x30, b"\x06\x08\x2b\x06\x01\x02\x01\x01\x03\x00\x05\x00"), min(size, 1440)))
    yield snmp_answer(ber(0x30, ber(0x06, b"\x81" * min(size, 1400)) + b"\x05\x00"))


def radii(size: int) -> Iterable[bytes]:
    for again in (b"\x01\x02", b"\x1a\x02", b"\x50\x12" + b"a" * 16, b"\x1a\x08\0\0\0\1\1\2", b"\x00"):
        yield radius_answer(fill(b"", again, min(size, 4076)))
        yield fill(bytes([2, REQUEST.id]) + size.to_bytes(2) + bytes(16), again, size)


def packets(size: int) -> Iterable[bytes]:
    for again in (b"\x00\x00" * 4, b"\x3c\x00" + bytes(6), b"\x2c\x00\x00\x00" * 2, b"\x11" * 8):
        yield extensions(again, size)
    yield fill(b"", b"\x45", size)
    yield fill(b"\x4f" + bytes(8) + b"\x01" + bytes(50) + b"\x03\x03", b"\x4f", size)


def ntps(size: int) -> Iterable[bytes]:
    return (b"\x24" + text[:23] + STAMP + text for text in texts(size))


def searches(text: str) -> Callable[[bytes], object]:
    searched = Searched.of(text)
    return lambda reply: asyncio.run(searched.occurs(reply))


# By file and function: the input, and the function itself.
READERS: dict[str, tuple[Callable[[int], Iterable[bytes]], Callable[[bytes], object]]] = {
    "agent.read_agent_reply": (
        lambda size: (fill(b"", again, min(size, 4096)) for again in (*_TEXT, *_WORDS)),
        agent.read_agent_reply,
    ),
    "dns._Query._judge": (lambda size: (fill(_QUERY[:2], again, size) for again in (b"\x81", b"\0", b"a")), _READ),
    "dns._Query._is_ours": (texts, dns._Query(Dns())._is_ours),
    "exec._first_line": (texts, exec._first_line),
    "icmp.read_echo_reply_4": (texts, lambda packet: icmp.read_echo_reply_4(b"a" * 28, packet)),
    "icmp.read_echo_reply_6": (texts, lambda packet: icmp.read_echo_reply_6(b"a" * 28, packet)),
    "icmp._read": (texts, lambda packet: icmp._read(0, b"a" * 28, packet)),
    "printable.one_line": (texts, one_line),
    "printable.quoted": (texts, quoted),
    "matching.Searched.occurs": (texts, searches("status.*ok")),
    "matching.Searched._search": (texts, searches(r"(?i)(\w+\s?)+$")),
    "matching.Matching.fits": (texts, lambda reply: asyncio.run(Matching(None, b"a" * 40 + b"b").fits(reply))),
    "matching.Matching.misfit": (texts, Matching(None, b"x").misfit),
    "ntp.read_ntp_reply": (ntps, lambda reply: ntp.read_ntp_reply(STAMP, 15, reply)),
    "radius.read_radius_reply": (radii, lambda wire: radius.read_radius_reply(REQUEST, wire)),
    "sip._ResponseJudge.judge": (sips, _JUDGE.judge),
    "sip._split": (sips, sip._split),
    "snmp.SnmpProbe.read_reply": (snmps, lambda reply: _SNMP.read_reply(1000, reply)),
    "nflog.read_refusal": (packets, read_refusal),
}  # fmt: skip
ELSEWHERE = {
    "snmp.SnmpProbe._decode": "called by read_reply, which limits the size",
    "icmp.echo_request": "of our own bytes",
    "nflog._read_entry": "of the kernel's attributes; their content is read_refusal's",
    "nflog._read_header": "called by read_refusal",
    "nflog._past_extensions": "called by read_refusal",
    "exchange.exchange": "a request of ours",
    "stream.Stream.send": "of our own bytes",
    "stream.TlsStream.send": "of our own bytes",
    "radius._request": "a secret of ours",
}


def takes_bytes(source: Path) -> set[str]:
    """The functions and methods with a parameter of bytes, by file and class."""
    found = set()

    def look(node: ast.AST, path: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                look(child, (*path, child.name))
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = (*child.args.args, *child.args.kwonlyargs)
                notes = [ast.unparse(argument.annotation) for argument in arguments if argument.annotation is not None]
                if any("bytes" in note.split(" | ") for note in notes):
                    found.add(".".join((*path, child.name)))

    look(ast.parse(source.read_text()), (source.stem,))
    return found


def test_all_readers_are_here() -> None:
    """Every function with a parameter of bytes has a test with hostile bytes here."""
    there: set[str] = set().union(*map(takes_bytes, SOURCES))

    assert there == READERS.keys() | ELSEWHERE.keys()


def seconds(read: Callable[[bytes], object], data: bytes) -> float:
    before = time.thread_time()
    with suppress(Failed, NotOurs):
        read(data)
    return time.thread_time() - before


@pytest.mark.parametrize("name", READERS)
def test_time_is_in_proportion(name: str) -> None:
    """Four times the input takes not much more than four times the time, and the largest input is read at once."""
    inputs, read = READERS[name]
    for small, large in zip(inputs(SMALL), inputs(LARGE), strict=True):
        for _ in range(TRIES):
            shorter = min(seconds(read, small) for _ in range(3))
            longer = min(seconds(read, large) for _ in range(3))
            if longer < MOST and (longer < EASY or longer < 8 * shorter):
                break
        assert longer < MOST, large[:60]
        assert longer < EASY or longer < 8 * shorter, large[:60]


def test_the_comparison_finds_what_is_not_in_proportion() -> None:
    """The test finds a reader that copies the rest of the input for each part."""

    def slow(data: bytes) -> Any:
        while data:
            data = data[1:]

    shorter, longer = (min(seconds(slow, bytes(size)) for _ in range(3)) for size in (20_000, 80_000))

    assert longer > 8 * shorter


def test_the_longest_chain_of_headers() -> None:
    """A packet with an unusually long chain of extension headers is not a refusal."""
    assert read_refusal(extensions(b"\x00\x00" * 4, LARGE)) is None
