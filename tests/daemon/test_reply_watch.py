"""The watch of the settings that `replies: prerouting` needs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pool_builders import backends, config, pool

from nftlb.compiler.reply_form import Obstacle
from nftlb.daemon import reply_watch
from nftlb.daemon.reply_watch import ReplyWatch
from nftlb.errors import KernelError
from nftlb.model import Config, Family, Forward, Replies

if TYPE_CHECKING:
    import pytest

    from nftlb.compiler.reply_form import Obstacles

CLOSED = {("dns", Family.IP): Obstacle("accept_local of b1 is 0")}


def service(replies: Replies) -> Config:
    one = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:53"), forward=Forward.STATELESS, replies=replies)
    return config(one)


def first_two_reports(answers: list[Obstacles | Exception]) -> list[Obstacles]:
    """Return the first two reports of a watch whose reads give these answers; the last answer stays."""

    def find(_: Config) -> Obstacles:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scene() -> list[Obstacles]:
        reported: asyncio.Queue[Obstacles] = asyncio.Queue()
        with ReplyWatch(service(Replies.PREROUTING), reported.put_nowait, find):
            async with asyncio.timeout(60):
                return [await reported.get(), await reported.get()]

    return asyncio.run(scene())


def test_a_change_without_an_announcement() -> None:
    """The obstacles are read again without an announcement, also after a failed read."""
    assert [{}, CLOSED] == first_two_reports([{}, KernelError("no netlink"), CLOSED])


def test_failed_reads(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The watch continues after any error, and logs a repeated error once."""
    monkeypatch.setattr(reply_watch, "EVERY", 0)
    thread, netlink = RuntimeError("can't start new thread"), KernelError("no netlink")

    assert [{}, CLOSED] == first_two_reports([thread, netlink, netlink, netlink, {}, netlink, CLOSED])
    assert [
        "a fault of nftlb itself: RuntimeError: can't start new thread",
        "no netlink",
        "no netlink",
    ] == [message.partition("not known: ")[2] for message in caplog.messages]


def test_nothing_is_read_without_the_key() -> None:
    """Only a configuration with `replies: prerouting` makes the watch read something."""

    async def scene() -> None:
        reported: asyncio.Queue[Obstacles] = asyncio.Queue()
        seen: list[Config] = []

        def find(one: Config) -> Obstacles:
            seen.append(one)
            return CLOSED

        with ReplyWatch(service(Replies.POSTROUTING), reported.put_nowait, find) as watch:
            watch.suspect()
            await asyncio.sleep(0)
            watch.follow(service(Replies.PREROUTING))
            async with asyncio.timeout(60):
                assert CLOSED == await reported.get()
        assert {service(Replies.PREROUTING)} == set(seen)

    asyncio.run(scene())
