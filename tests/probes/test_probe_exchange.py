"""What every check with datagrams rests on: one there, one back."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from probing import closed_port, datagrams, open_files, says, subject

import nftlb.probes.exchange
from nftlb.probes.exchange import NotOurs, Silence, connected, exchange

if TYPE_CHECKING:
    from collections.abc import Callable


class Blind:
    """Never tells that a socket can be read, as it is for a loop that comes to its timers first."""

    def add(self, descriptor: int, callback: Callable[[], object]) -> None:
        pass

    def forget(self, descriptor: int) -> None:
        pass


def ours(reply: bytes) -> bytes:
    if reply != b"ours":
        raise NotOurs("something else came")
    return reply


def at_the_last_moment(monkeypatch: pytest.MonkeyPatch, *replies: bytes) -> bytes:
    """Exchange with a server that sends these, of which nothing is known before the time is up."""
    monkeypatch.setattr(nftlb.probes.exchange, "readiness", lambda _: Blind())

    async def main() -> bytes:
        async with datagrams(says(*replies)) as port:
            before = open_files()
            try:
                return await exchange(connected(subject(port=port), port), b"", ours, 0.1)
            finally:
                assert before == open_files()

    return asyncio.run(main())


@pytest.mark.parametrize("others", [0, 3])
def test_an_answer_that_is_there_counts(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was stopped until after the time-out looks for the answer before giving up, behind others' too."""
    assert b"ours" == at_the_last_moment(monkeypatch, *[b"other"] * others, b"ours")


@pytest.mark.parametrize(("others", "note"), [(0, ""), (1, "; something else came"), (150, "; something else came")])
def test_nothing_of_ours_is_there(others: int, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last look finds no answer, it was silence."""
    with pytest.raises(Silence) as silence:
        at_the_last_moment(monkeypatch, *[b"other"] * others)

    assert f"no answer within 0.1s{note}" == str(silence.value)


def test_the_last_look_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who floods us does not keep us looking."""
    monkeypatch.setattr(nftlb.probes.exchange, "_LAST_LOOKS", 3)

    with pytest.raises(Silence):
        at_the_last_moment(monkeypatch, *[b"other"] * 3, b"ours")


def test_an_error_that_is_there_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look finds what an answer's absence is due to."""
    monkeypatch.setattr(nftlb.probes.exchange, "readiness", lambda _: Blind())
    port = closed_port(socket.SOCK_DGRAM)

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(exchange(connected(subject(port=port), port), b"", ours, 0.1))
