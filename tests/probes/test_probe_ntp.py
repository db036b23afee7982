"""NTP checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probing import BOTH, NOTED, cancel_datagrams, check_datagrams, says, silent

from nftlb.model import Ntp
from nftlb.probes import Failed
from nftlb.probes.exchange import NotOurs
from nftlb.probes.ntp import read_ntp_reply

if TYPE_CHECKING:
    from probing import Datagrams

STAMP = b"\x01\x02\x03\x04\x05\x06\x07\x08"


def reply(stamp: bytes, *, leap: int = 0, mode: int = 4, stratum: int = 2, word: bytes = b"\x7f\x00\x00\x01") -> bytes:
    return bytes((leap << 6 | 4 << 3 | mode, stratum, 6, 0xE9)) + bytes(8) + word + bytes(8) + stamp + bytes(16)


def answering(**fields: object) -> Datagrams:
    return lambda request: [reply(request[40:48], **fields)]  # type: ignore[arg-type]


@pytest.mark.parametrize("host", BOTH)
def test_healthy(host: str) -> None:
    """A synchronised server passes the check."""
    result = check_datagrams(Ntp(), answering(), host)

    assert (True, "stratum 2") == (result.passed, result.reason)


def test_the_request() -> None:
    """The request is that of a client of version 4, with random bits in place of a time."""
    seen = []

    def serve(request: bytes) -> list[bytes]:
        seen.append(request)
        return [reply(request[40:48])]

    assert check_datagrams(Ntp(), serve).passed
    assert {b"\x23" + bytes(39)} == {request[:40] for request in seen}
    assert {48} == {len(request) for request in seen}
    assert len(seen) == len({request[40:] for request in seen})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"leap": 3}, "not synchronised"),
        ({"leap": 3, "stratum": 0, "word": bytes(4)}, "not synchronised"),
        ({"stratum": 0, "word": bytes(4)}, "stratum 0, not 1 to 15"),
        ({"stratum": 16}, "stratum 16, not 1 to 15"),
        ({"stratum": 0, "leap": 3, "word": b"RATE"}, "kiss of death: RATE"),
        ({"stratum": 0, "word": b"DENY"}, "kiss of death: DENY"),
    ],
)
def test_unhealthy(fields: dict[str, object], reason: str) -> None:
    """A server that is not synchronised, or refuses clients, is down."""
    result = check_datagrams(Ntp(), answering(**fields))

    assert (False, reason) == (result.passed, result.reason)


@pytest.mark.parametrize("stratum", [1, 3, 4, 15])
def test_max_stratum(stratum: int) -> None:
    """A server with a too high stratum fails the check."""
    result = check_datagrams(Ntp(max_stratum=3), answering(stratum=stratum))

    assert (stratum <= 3) == result.passed
    assert (f"stratum {stratum}" if stratum <= 3 else f"stratum {stratum}, not 1 to 3") == result.reason


def test_leap_seconds_are_fine() -> None:
    """An announced leap second does not matter."""
    assert check_datagrams(Ntp(), answering(leap=1)).passed
    assert check_datagrams(Ntp(), answering(leap=2)).passed


@pytest.mark.parametrize(
    ("serve", "note"),
    [
        (answering(mode=3), "not NTP"),
        (answering(mode=5), "not NTP"),
        (says(reply(STAMP)), "not for our request"),
        (lambda request: [reply(request[40:48])[:47]], "not NTP"),
        (says(b""), "not NTP"),
    ],
)
def test_foreign_messages_are_ignored_and_named(serve: Datagrams, note: str) -> None:
    """Datagrams that are not the reply are ignored, and named at the time-out."""
    result = check_datagrams(Ntp(), serve, seconds=NOTED)

    assert (False, f"no answer within 0.6s; the reply was {note}") == (result.passed, result.reason)


def test_foreign_messages_before_the_reply_are_ignored() -> None:
    """The reply counts, after any other datagrams."""
    assert check_datagrams(Ntp(), lambda request: [b"", reply(STAMP), reply(request[40:48])]).passed


def test_silent_and_refused() -> None:
    """A silent server fails the check after the time-out, a closed port at once."""
    assert "no answer within 0.05s" == check_datagrams(Ntp(), silent, seconds=0.05).reason
    assert "connection refused" == check_datagrams(Ntp(), None).reason


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""
    cancel_datagrams(Ntp())


@given(st.binary(max_size=100))
def test_any_bytes(noise: bytes) -> None:
    """Arbitrary bytes are not the reply."""
    with pytest.raises(NotOurs):
        read_ntp_reply(STAMP, 15, noise)


@given(st.binary(min_size=24, max_size=24), st.binary(min_size=16, max_size=100))
def test_any_bytes_with_our_stamp(before: bytes, after: bytes) -> None:
    """Arbitrary bytes around our timestamp give a result, and no other exception."""
    try:
        assert read_ntp_reply(STAMP, 15, before + STAMP + after).reason.startswith("stratum ")
    except (NotOurs, Failed) as outcome:
        assert str(outcome).isprintable()  # noqa: PT017 - either is right


def test_the_duration_is_reported() -> None:
    """The result has the duration of the check in seconds."""
    assert 0 < check_datagrams(Ntp(), answering()).seconds < 15
