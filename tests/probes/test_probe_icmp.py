"""ICMP checks; the kernel of this host replies."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probing import BOTH, V4, clean, open_files, subject
from unprivileged import unprivileged

from nftlb.errors import SystemFault
from nftlb.lab import Namespace
from nftlb.model import Icmp
from nftlb.probes import probe_for, run_probe
from nftlb.probes.exchange import NotOurs
from nftlb.probes.icmp import echo_request, read_echo_reply_4, read_echo_reply_6

OURS = bytes(range(28))
HEADER = b"\x45" + bytes(19)


@pytest.mark.parametrize("host", BOTH)
def test_healthy(host: str) -> None:
    """A host that replies passes the check."""
    result = asyncio.run(clean(probe_for(Icmp()), subject(host)))

    assert (True, "answered") == (result.passed, result.reason)


def test_the_source_is_used() -> None:
    """A check with a source address uses it, and gets its reply there."""
    assert asyncio.run(run_probe(probe_for(Icmp()), subject(source="127.0.0.77"))).passed


@pytest.mark.parametrize("host", BOTH)
def test_many_at_once(host: str) -> None:
    """Concurrent checks of a host, which all receive all replies, find their own replies."""

    async def main() -> None:
        probe = probe_for(Icmp())
        results = await asyncio.gather(*(run_probe(probe, subject(host)) for _ in range(50)))
        assert {(True, "answered")} == {(result.passed, result.reason) for result in results}

    asyncio.run(main())


def _without_echoes(family: str, host: str) -> tuple[bool, str]:
    with Namespace("icmp") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.sysctl(f"net.{family}", 1)
        result = namespace.call(lambda: asyncio.run(clean(probe_for(Icmp()), subject(host, seconds=0.05))))
    return result.passed, result.reason


@pytest.mark.parametrize(
    ("family", "host"), [("ipv4.icmp_echo_ignore_all", BOTH[0]), ("ipv6.icmp.echo_ignore_all", BOTH[1])]
)
def test_silent(family: str, host: str) -> None:
    """A silent host fails the check."""
    assert (False, "no answer within 0.05s") == _without_echoes(family, host)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_no_route(host: str) -> None:
    """A backend without a route fails the check, because its users have no route either."""
    with Namespace("icmp") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        result = namespace.call(lambda: asyncio.run(clean(probe_for(Icmp()), subject(host))))

    assert (False, "network is unreachable") == (result.passed, result.reason)


def test_not_permitted() -> None:
    """Without CAP_NET_RAW SystemFault names the missing capability."""

    def check() -> None:
        with pytest.raises(SystemFault, match="not permitted to open a socket: run nftlb as root, or with CAP_NET_RAW"):
            asyncio.run(run_probe(probe_for(Icmp()), subject(V4)))

    with Namespace("icmp") as namespace:
        unprivileged(namespace, check)


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""

    async def main() -> None:
        assert (await run_probe(probe_for(Icmp()), subject())).passed
        before = open_files()
        task = asyncio.create_task(run_probe(probe_for(Icmp()), subject()))
        await asyncio.sleep(0)
        assert before + 1 == open_files()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert before == open_files()

    asyncio.run(main())


def test_the_checksum() -> None:
    """The words of a request sum up to 0xffff, as RFC 1071 demands."""
    for ours in (OURS, bytes(28), b"\xff" * 28):
        message = echo_request(ours)
        total = sum(int.from_bytes(message[at : at + 2], "big") for at in range(0, len(message), 2))
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        assert 0xFFFF == total


def test_an_echo_reply_with_our_bytes_counts() -> None:
    """Only an echo reply with all of our bytes counts."""
    assert "answered" == read_echo_reply_4(OURS, HEADER + bytes(4) + OURS).reason
    assert "answered" == read_echo_reply_4(OURS, b"\x46" + bytes(23) + bytes(4) + OURS).reason  # with an option
    assert "answered" == read_echo_reply_6(OURS, b"\x81\x00\x12\x34" + OURS).reason
    for packet in (
        b"",
        HEADER,
        HEADER + b"\x08\x00\x00\x00" + OURS,
        HEADER + b"\x00\x01\x00\x00" + OURS,
        HEADER + bytes(4) + OURS[:-1],
        HEADER + bytes(4) + OURS + b"\x00",
        HEADER + bytes(4) + OURS[::-1],
    ):
        with pytest.raises(NotOurs):
            read_echo_reply_4(OURS, packet)
        with pytest.raises(NotOurs):
            read_echo_reply_6(OURS, packet[20:])


@given(st.binary(max_size=100))
def test_any_bytes(packet: bytes) -> None:
    """Arbitrary bytes are not the reply."""
    for read in (read_echo_reply_4, read_echo_reply_6):
        with pytest.raises(NotOurs):
            read(OURS, packet)


@pytest.mark.parametrize("host", BOTH)
def test_other_icmp_types_are_filtered(host: str) -> None:
    """The kernel filters: this host's own requests, and port-unreachables, don't wake a check."""
    from nftlb.probes import icmp  # noqa: PLC0415

    six = ":" in host
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    family = socket.AF_INET6 if six else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.setsockopt(*(icmp._ONLY_REPLIES_6 if six else icmp._ONLY_REPLIES))
        raw.connect((host, 0))
        raw.settimeout(5)
        raw.send(icmp._HEADER.pack(128, 0, 0) + OURS if six else echo_request(OURS))
        first = raw.recv(2048)

    assert (read_echo_reply_6 if six else read_echo_reply_4)(OURS, first).reason == "answered"
