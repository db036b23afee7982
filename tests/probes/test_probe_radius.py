"""RADIUS checks."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probing import BOTH, NOTED, cancel_datagrams, check_datagrams, datagrams, no_files, says, silent, subject
from pyrad.dictionary import Dictionary
from pyrad.packet import AuthPacket

from nftlb import file_systems
from nftlb.errors import SystemFault
from nftlb.model import Radius
from nftlb.probes import Failed, probe_for, run_probe
from nftlb.probes import radius as radius_probes
from nftlb.probes.exchange import NotOurs
from nftlb.probes.radius import read_radius_reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from probing import Datagrams

SECRET = b"testing123"
CHECK = Radius(secret=SECRET.decode())
ACCEPT, REJECT, ACCOUNTING, CHALLENGE = 2, 3, 5, 11


def request_of(wire: bytes, secret: bytes = SECRET) -> AuthPacket:
    return AuthPacket(packet=wire, secret=secret, dict=Dictionary())


def answering(
    code: int = ACCEPT, secret: bytes = SECRET, number: int = 0, *, signed: bool = True
) -> Callable[[bytes], list[bytes]]:
    def serve(wire: bytes) -> list[bytes]:
        reply = request_of(wire, secret).CreateReply(message_authenticator=signed or None)
        reply.code = code
        reply.id ^= number
        return [bytes(reply.ReplyPacket())]

    return serve


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize(("code", "reason"), [(ACCEPT, "access-accept"), (ACCOUNTING, "accounting-response")])
@pytest.mark.parametrize("signed", [True, False])
def test_healthy(host: str, code: int, reason: str, signed: bool) -> None:
    """A server with the right reply for its port passes, with or without a Message-Authenticator."""
    result = check_datagrams(CHECK, answering(code, signed=signed), host)

    assert (True, reason) == (result.passed, result.reason)


def test_the_request() -> None:
    """The request is a Status-Server with only a Message-Authenticator, which is valid."""
    seen = []

    def serve(wire: bytes) -> list[bytes]:
        seen.append(wire)
        return answering()(wire)

    assert check_datagrams(CHECK, serve).passed
    request = request_of(seen[0])
    assert (12, [80]) == (request.code, list(request.keys()))
    assert request.verify_message_authenticator()
    assert not request_of(seen[0], b"other").verify_message_authenticator()
    assert seen[0][4:20] != seen[1][4:20]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(REJECT, "access-reject"), (CHALLENGE, "access-challenge"), (42, "code 42")],
)
def test_unhealthy(code: int, reason: str) -> None:
    """All other replies fail the check."""
    result = check_datagrams(CHECK, answering(code))

    assert (False, f"answered with {reason}") == (result.passed, result.reason)


@pytest.mark.parametrize(
    ("serve", "note"),
    [
        (answering(secret=b"other"), "not signed with our secret"),
        (answering(number=1), "not for our request"),
        (says(b"\x02"), "not RADIUS"),
        (says(b"\x02\x00\x00\x14" + bytes(16)), "not "),
    ],
)
def test_foreign_messages_are_ignored_and_named(serve: Datagrams, note: str) -> None:
    """Datagrams that are not the reply are ignored, and named at the time-out."""
    result = check_datagrams(CHECK, serve, seconds=NOTED)

    assert not result.passed
    assert result.reason.startswith(f"no answer within 0.6s; the reply was {note}")


def test_a_broken_signature() -> None:
    """A Message-Authenticator is verified even if the Response Authenticator is right."""

    def serve(wire: bytes) -> list[bytes]:
        request = request_of(wire)
        reply = request.CreateReply(message_authenticator=False)
        reply[80] = [bytes(16)]
        return [bytes(reply.ReplyPacket())]

    result = check_datagrams(CHECK, serve, seconds=NOTED)

    assert "no answer within 0.6s; the reply was not signed with our secret" == result.reason


def test_foreign_messages_before_the_reply_are_ignored() -> None:
    """The reply counts, after any other datagrams."""
    result = check_datagrams(
        CHECK,
        lambda wire: [b"", *answering(secret=b"other")(wire), *answering(number=1)(wire), *answering()(wire)],
    )

    assert result.passed


def test_secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is read from a file, without the end of the line, and again after a change of the file."""
    monkeypatch.setattr(file_systems, "FRESH", 0.0)
    file = tmp_path / "secret"
    file.write_text("wrong\n")

    async def main() -> list[bool]:
        probe = probe_for(Radius(secret_file=str(file)))
        async with datagrams(answering()) as port:
            first = await run_probe(probe, subject(port=port, seconds=0.05))
            file.write_text(" testing123\n")
            second = await run_probe(probe, subject(port=port))
        return [first.passed, second.passed]

    assert [False, True] == asyncio.run(main())


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_no_secret(tmp_path: Path, content: str | None) -> None:
    """Without a secret SystemFault names the fix."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    what = "can't be read: No such file or directory" if content is None else "is empty: write the shared secret"

    with pytest.raises(SystemFault, match=f"secret_file {file} {what}"):
        check_datagrams(Radius(secret_file=str(file)), answering())


def test_a_directory_for_a_secret(tmp_path: Path) -> None:
    """The same holds for a file that exists but can't be read."""
    with pytest.raises(SystemFault, match=r"is not a regular file"):
        check_datagrams(Radius(secret_file=str(tmp_path)), answering())


def test_no_file_to_read_a_secret_from(tmp_path: Path) -> None:
    """A FIFO without a writer, a device, or a file of gigabytes does not block the daemon."""
    for path, what in no_files(tmp_path):
        with pytest.raises(SystemFault, match=f"secret_file {path} {what}"):
            check_datagrams(Radius(secret_file=str(path)), answering())


def test_a_secret_file_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop does not wait, and SystemFault tells the reason."""
    file, go = tmp_path / "file", threading.Event()
    monkeypatch.setattr(file_systems, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(radius_probes, "stamp", lambda *_: go.wait(60))

    async def test() -> None:
        with pytest.raises(SystemFault, match=f"secret_file {file} can't be read: its file system has not answered"):
            await run_probe(probe_for(Radius(secret_file=str(file))), subject(port=1))

    try:
        asyncio.run(test())
    finally:
        go.set()


def test_silent_and_refused() -> None:
    """A silent server fails the check after the time-out, a closed port at once."""
    assert "no answer within 0.05s" == check_datagrams(CHECK, silent, seconds=0.05).reason
    assert "connection refused" == check_datagrams(CHECK, None).reason


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""
    cancel_datagrams(CHECK)


def _request() -> tuple[AuthPacket, bytes]:
    request = AuthPacket(code=12, id=7, secret=SECRET, authenticator=bytes(16), dict=Dictionary())
    request.add_message_authenticator()
    wire = request.RequestPacket()
    (reply,) = answering()(wire)
    return request, reply


@given(st.binary(max_size=200), st.integers(0, 40), st.integers(0, 255))
def test_any_bytes(noise: bytes, at: int, value: int) -> None:
    """Arbitrary bytes, and replies with a changed bit, give a result, and no other exception."""
    request, reply = _request()
    changed = bytearray(reply)
    changed[at % len(changed)] = value
    for wire in (noise, reply[:20] + noise, reply[:2] + noise, bytes(changed), reply + noise):
        try:
            assert "access-accept" == read_radius_reply(request, wire).reason
        except (NotOurs, Failed) as outcome:
            assert str(outcome).isprintable()  # noqa: PT017 - either is right
