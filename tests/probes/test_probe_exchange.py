"""The exchange of datagrams, which all datagram checks use."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress
from typing import Any

import pytest
from probing import closed_port, datagrams, open_files, says, silent, subject

import nftlb.probes.exchange
from nftlb.probes.exchange import NotOurs, Silence, Waits, connected, exchange, waits_of
from nftlb.probes.probe import Failed


class Blind(Waits):
    """Never calls back for a readable socket, like a loop that handles its timers first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        loop.remove_reader(self._epoll.fileno())


def ours(reply: bytes) -> bytes:
    if reply != b"ours":
        raise NotOurs("something else came")
    return reply


def at_the_last_moment(monkeypatch: pytest.MonkeyPatch, *replies: bytes) -> bytes:
    """Exchange with a server whose replies are not noticed before the time-out."""
    monkeypatch.setattr(nftlb.probes.exchange, "Waits", Blind)

    async def main() -> bytes:
        async with datagrams(says(*replies)) as port:
            waits_of(asyncio.get_running_loop())  # opens the file that all exchanges of a loop share
            before = open_files()
            try:
                return await exchange(connected(subject(port=port), port), b"", ours, 0.1)
            finally:
                assert before == open_files()

    return asyncio.run(main())


@pytest.mark.parametrize("others", [0, 3])
def test_an_answer_that_is_there_counts(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time-out, the check looks for a reply that has already arrived, also behind other datagrams."""
    assert b"ours" == at_the_last_moment(monkeypatch, *[b"other"] * others, b"ours")


@pytest.mark.parametrize(("others", "note"), [(0, ""), (1, "; something else came"), (150, "; something else came")])
def test_without_a_reply_the_last_look_times_out(others: int, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this last look finds no reply, the result is a time-out."""
    with pytest.raises(Silence) as silence:
        at_the_last_moment(monkeypatch, *[b"other"] * others)

    assert f"no answer within 0.1s{note}" == str(silence.value)


def test_the_last_look_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood does not make the last look endless."""
    monkeypatch.setattr(nftlb.probes.exchange, "_LAST_LOOKS", 3)

    with pytest.raises(Silence):
        at_the_last_moment(monkeypatch, *[b"other"] * 3, b"ours")


def test_the_last_look_reads_few_expensive_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check whose replies take long to read reads no more of them in the last look than before a pause."""
    read: list[bytes] = []

    def expensive(reply: bytes) -> bytes:
        read.append(reply)
        raise NotOurs("something else came")

    monkeypatch.setattr(nftlb.probes.exchange, "Waits", Blind)

    async def main() -> None:
        async with datagrams(says(*[b"other"] * 20)) as port:
            await exchange(connected(subject(port=port), port), b"", expensive, 0.1, 2)

    with pytest.raises(Silence):
        asyncio.run(main())
    assert 2 == len(read)


def test_a_fault_of_one_wait_does_not_stop_the_others() -> None:
    """After an exception in the code that reads replies, other waits of the same length still end."""

    def faulty(_: bytes) -> bytes:
        raise StopIteration

    async def main() -> None:
        async with datagrams(says(b"reply")) as server, datagrams(silent) as other:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await exchange(connected(subject(port=server), server), b"", faulty, 0.1)
            with pytest.raises(Silence):
                await exchange(connected(subject(port=other), other), b"", ours, 0.1)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_wait_that_raises_does_not_stop_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a wait can't end for lack of memory, its time is over again in the next turn of the loop."""
    real = nftlb.probes.exchange._ReplyWait.give_up
    failed: list[Any] = []

    def give_up(self: Any, seconds: float) -> None:
        if not failed:
            failed.append(self)
            raise MemoryError
        real(self, seconds)

    monkeypatch.setattr(nftlb.probes.exchange._ReplyWait, "give_up", give_up)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with datagrams(silent) as port:
            with pytest.raises(Silence):
                await exchange(connected(subject(port=port), port), b"", ours, 0.1)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert failed


def test_an_error_that_is_there_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look finds the error that explains the missing reply."""
    monkeypatch.setattr(nftlb.probes.exchange, "Waits", Blind)
    port = closed_port(socket.SOCK_DGRAM)

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(exchange(connected(subject(port=port), port), b"", ours, 0.1))


def refuse(_: bytes) -> bytes:
    raise Failed("a wrong reply")


@pytest.mark.parametrize("how", ["silent", "refused", "wrong"])
def test_a_failure_leaves_no_garbage(how: str) -> None:
    """All objects of a failed exchange are freed at once. The garbage collector would delay other checks."""

    async def main() -> int:
        async with datagrams(silent if how == "silent" else says(b"wrong")) as server:
            port = closed_port(socket.SOCK_DGRAM) if how == "refused" else server

            async def fail() -> None:
                with suppress(Failed, ConnectionRefusedError):
                    await exchange(connected(subject(port=port), port), b"", refuse, 0.01)
                    raise AssertionError("it passed")

            await fail()  # the first opens what all share
            gc.collect()
            gc.disable()
            try:
                for _ in range(5):
                    await fail()
                return gc.collect()
            finally:
                gc.enable()

    assert 0 == asyncio.run(main())
