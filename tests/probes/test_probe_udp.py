"""UDP checks."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import BOTH, cancel_datagrams, check_datagrams, clean, datagrams, says, silent, subject

from nftlb.model import Expect, Udp
from nftlb.probes import probe_for, run_probe


@pytest.mark.parametrize("host", BOTH)
def test_any_reply_will_do(host: str) -> None:
    """Without a match, a backend passes with any reply."""
    result = check_datagrams(Udp(send="ping"), says(b"\x00\xff"), host)

    assert (True, "answered") == (result.passed, result.reason)


@pytest.mark.parametrize(
    ("check", "sent"),
    [(Udp(), b""), (Udp(send="pïng\n"), "pïng\n".encode()), (Udp(send_hex=b"\x00\xff"), b"\x00\xff")],
)
def test_the_datagram_has_the_bytes_of_the_check(check: Udp, sent: bytes) -> None:
    """The datagram has the text or the hexadecimal bytes of the check, or is empty."""
    seen = []

    def server(request: bytes) -> list[bytes]:
        seen.append(request)
        return [b"ok"]

    assert check_datagrams(check, server).passed
    assert {sent} == set(seen)


@pytest.mark.parametrize(
    ("check", "reply", "reason"),
    [
        (Udp(match="^p.ng"), b"pong", "answered"),
        (Udp(match="^pong$"), b"a pong\n", 'reply "a pong" does not match "^pong$"'),
        (Udp(match="é"), "café".encode(), "answered"),
        (Udp(match="x"), b"\x80\x81", 'reply "\ufffd\ufffd" does not match "x"'),
        (Udp(match_hex=b"\xff\x00"), b"\x01\xff\x00", "answered"),
        (Udp(match_hex=b"\xff\x00"), b"\x00\xff", 'reply "00ff" does not contain "ff00"'),
        (Udp(min_length=4, max_length=4), b"pong", "answered"),
        (Udp(min_length=5), b"pong", "reply is 4 bytes long, not 5 to 65535"),
        (Udp(max_length=3, match="x"), b"pong", "reply is 4 bytes long, not 0 to 3"),
        (Udp(max_length=0), b"", "answered"),
    ],
)
def test_match(check: Udp, reply: bytes, reason: str) -> None:
    """A reply must match. The reason shows another reply in one printable line."""
    result = check_datagrams(check, says(reply))

    assert (reason == "answered", reason) == (result.passed, result.reason)


def test_silence_is_failure() -> None:
    """A backend that does not reply in time fails the check."""
    result = check_datagrams(Udp(send="ping"), silent, seconds=0.05)

    assert (False, "no answer within 0.05s") == (result.passed, result.reason)
    assert 0.04 < result.seconds < 15


def test_silence_may_be_success() -> None:
    """With `no-icmp-error`, silence passes at the time-out, and the reason says so."""
    result = check_datagrams(Udp(expect=Expect.NO_ICMP_ERROR), silent, seconds=0.05)

    assert (True, "no ICMP error within 0.05s: silence counted as success") == (result.passed, result.reason)
    assert 0.04 < result.seconds < 15


def test_any_reply_passes_the_weak_form() -> None:
    """A reply ends the check at once, also if silence passes."""
    result = check_datagrams(Udp(expect=Expect.NO_ICMP_ERROR), says(b"error"))

    assert (True, "answered") == (result.passed, result.reason)


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("expect", list(Expect))
def test_port_unreachable(expect: Expect, host: str) -> None:
    """An ICMP error fails the check at once, also if silence passes."""
    result = check_datagrams(Udp(send="ping", expect=expect), None, host)

    assert (False, "connection refused") == (result.passed, result.reason)
    assert result.seconds < 15


@pytest.mark.parametrize("host", BOTH)
def test_cancelled(host: str) -> None:
    """A cancelled check leaves no socket."""
    cancel_datagrams(Udp(send="ping"), host)


def test_the_source_is_used() -> None:
    """A check with a source address uses it."""

    async def main() -> list[str]:
        clients: list[str] = []
        async with datagrams(says(b"pong"), clients=clients) as port:
            assert (await run_probe(probe_for(Udp()), subject(port=port, source="127.0.0.77"))).passed
        return clients

    assert ["127.0.0.77"] == asyncio.run(main())


def test_a_late_answer_does_not_count() -> None:
    """Every check has another port, so a late reply to an earlier check never reaches it."""

    async def main() -> None:
        requests = []

        def server(request: bytes) -> list[bytes]:
            requests.append(request)
            return []

        async with datagrams(server) as port:
            probe = probe_for(Udp(send="ping"))
            first = await run_probe(probe, subject(port=port, seconds=0.2))
            second = await run_probe(probe, subject(port=port, seconds=0.2))
        assert [False, False] == [first.passed, second.passed]
        assert 2 == len(requests)

    asyncio.run(main())


def test_an_answer_in_the_queue_counts() -> None:
    """If the balancer was busy for longer than the time-out, a reply that has arrived counts."""

    async def main() -> None:
        async with datagrams(says(b"pong")) as port:
            task = asyncio.create_task(run_probe(probe_for(Udp(send="ping")), subject(port=port, seconds=0.05)))
            await asyncio.sleep(0)  # the check sends
            await asyncio.sleep(0)  # the server replies
            loop = asyncio.get_running_loop()
            until = loop.time() + 0.2
            while loop.time() < until:
                pass
            assert (await task).passed

    asyncio.run(main())


def test_many_at_once() -> None:
    """One probe serves many backends at the same time."""

    async def main() -> None:
        async with datagrams(lambda request: [request]) as port:
            probe = probe_for(Udp(send="ping", match="^ping$"))
            results = await asyncio.gather(*(clean_run(probe, port) for _ in range(200)))
        assert all(results)

    async def clean_run(probe: object, port: int) -> bool:
        return (await run_probe(probe, subject(port=port))).passed  # type: ignore[arg-type]

    asyncio.run(main())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([None, "x", "^.*$"]))
def test_any_bytes(reply: bytes, match: str | None) -> None:
    """Arbitrary bytes give a result of one line, and no exception."""

    async def main() -> None:
        async with datagrams(says(reply)) as port:
            result = await run_probe(probe_for(Udp(match=match)), subject(port=port))
        assert result.reason.isprintable()
        assert len(result.reason) <= 200

    asyncio.run(main())


def test_nothing_stays_open_when_the_kernel_refuses() -> None:
    """A backend that this host can't send to fails, and leaves no socket."""
    result = asyncio.run(clean(probe_for(Udp(send="ping")), subject("255.255.255.255", 9)))

    assert (False, "permission denied") == (result.passed, result.reason)
