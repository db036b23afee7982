"""Answers that take work: made once for all who ask, with rests, for a few at a time, and for nobody who left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from clockwork import elapsed, play
from fake_service import FakeService, a_pool, two_pools
from serving import World, hang_up, head, read_answer, run, serving, until

from nftlb.model import Admin
from nftlb.web import Limits
from nftlb.web import shared as module
from nftlb.web.errors import Refused
from nftlb.web.shared import Shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nftlb.service import PoolStatus

LARGE = ("/api/v1/status", "/api/v1/pools", "/api/v1/pools/dns", "/api/v1/ruleset", "/metrics")


class Held(FakeService):
    """Looks at the state begin, are counted, and wait."""

    def __init__(self) -> None:
        super().__init__(two_pools().shown)
        self.go = asyncio.Event()
        self.looks = self.whole = 0

    async def _look(self) -> None:
        self.looks += 1
        await self.go.wait()
        self.whole += 1

    async def pools(self) -> AsyncIterator[PoolStatus]:
        await self._look()
        async for one in super().pools():
            yield one

    async def pool(self, name: str) -> PoolStatus:
        await self._look()
        return await super().pool(name)

    async def ruleset(self) -> str:
        await self._look()
        return await super().ruleset()


async def many_ask(world: World, path: str, count: int) -> list[asyncio.Task[int]]:
    async def ask() -> int:
        return (await world.get(path)).status

    return [asyncio.create_task(ask()) for _ in range(count)]


@pytest.mark.parametrize("path", LARGE)
def test_one_answer_for_all_who_ask(path: str) -> None:
    """Twenty more ask while the first answer is made: one more look at the state is enough for them."""

    async def test() -> None:
        service = Held()
        async with serving(service) as world:
            asked = await many_ask(world, path, 1)
            await until(lambda: service.looks)
            asked += await many_ask(world, path, 20)
            await until(lambda: len(world.connections) == 21)
            await until(lambda: not world.server._room._waiting)
            service.go.set()
            assert {200} == set(await asyncio.gather(*asked))
            assert service.looks == 2

    run(test())


@pytest.mark.parametrize("path", LARGE)
def test_nobody_works_for_those_who_left(path: str) -> None:
    """Thirty ask and hang up: what had begun is given up, and what had not never begins."""

    async def test() -> None:
        service = Held()
        async with serving(service) as world:
            many = [await world.connect() for _ in range(30)]
            for streams in many:
                streams[1].write(head("GET", path, {"Host": "localhost"}))
            await until(lambda: service.looks)
            for streams in many:
                await hang_up(streams)
            await until(lambda: not world.connections)
            service.go.set()
            assert (await world.get(path)).status == 200
            assert (2, 1) == (service.looks, service.whole)

    run(test())


@pytest.mark.parametrize("path", LARGE)
def test_no_more_than_a_few_wait(path: str) -> None:
    """The others get 503 with Retry-After at once; probes, the page and changes are answered meanwhile."""

    async def test() -> None:
        service = Held()
        async with serving(service, limits=Limits(readers=4)) as world:
            asked = await many_ask(world, path, 4)
            await until(lambda: len(world.connections) == 4 and not world.server._room._waiting)
            for other in LARGE:
                refused = await world.get(other)
                assert (503, module.RETRY_AFTER) == (refused.status, refused.headers["retry-after"])
                assert "4 requests wait" in refused.error
            for other in ("/healthz", "/readyz?pool=dns", "/", "/api/v1/nothing"):
                assert (await world.get(other)).status in {200, 404}
            assert (await world.ask("POST", "/api/v1/reload")).status == 200
            service.go.set()
            assert {200} == set(await asyncio.gather(*asked))
            assert (await world.get(path)).status == 200

    run(test())


def test_an_answer_shows_what_was_changed_before() -> None:
    """A change that is answered while others' answers are made is in the next one, however many ask."""

    async def test() -> None:
        service = Held()
        async with serving(service) as world:
            first = await many_ask(world, "/api/v1/status", 1)
            await until(lambda: service.looks)
            pool = service.shown["dns"]
            drained = replace_admin(pool)
            service.put(drained)
            asked = [asyncio.create_task(world.get("/api/v1/status")) for _ in range(5)]
            service.go.set()
            await asyncio.gather(*first)
            for answer in await asyncio.gather(*asked):
                shown = {one["name"]: one for one in answer.json["pools"]}
                assert shown["dns"]["backends"][0]["admin"] == "drain"

    run(test())


def replace_admin(pool: PoolStatus) -> PoolStatus:
    first = pool.backends[0].model_copy(update={"admin": Admin.DRAIN})
    return pool.model_copy(update={"backends": (first, *pool.backends[1:])})


def test_a_fault_is_everybodys_and_not_for_ever() -> None:
    """All who waited for it are told; who asks next is answered."""

    async def test() -> None:
        service = FakeService()
        service.put(a_pool("dns"))
        async with serving(service) as world:
            service.error = SystemError("broken")
            answers = await asyncio.gather(*(world.get("/api/v1/status") for _ in range(5)))
            assert {500} == {answer.status for answer in answers}
            assert (await world.get("/api/v1/pools/nothing")).status == 404
            service.error = None
            assert (await world.get("/api/v1/status")).status == 200

    run(test())


def test_a_rest_after_each_answer() -> None:
    """Readers who ask without end have a third of the time, and each kind of answer has its turn."""

    async def scene() -> None:
        shared, worked, seen = Shared(10), 0.0, dict.fromkeys(("status", "metrics", "ruleset"), 0)

        async def make() -> bytes:
            nonlocal worked
            await asyncio.sleep(0.3)
            worked += 0.3
            return b""

        async def ask_for_ever(what: str) -> None:
            while True:
                await shared.get(what, make)
                seen[what] += 1

        tasks = [asyncio.create_task(ask_for_ever(what)) for what in seen for _ in range(3)]
        await asyncio.sleep(60)
        for one in tasks:
            one.cancel()
        await asyncio.wait(tasks)
        assert 60 == pytest.approx(elapsed())
        assert worked <= 60 / 3 + 0.3
        assert min(seen.values()) >= max(seen.values()) - 3 > 0

    play(scene())


def test_the_longest_rest() -> None:
    """Who waits after an answer that took very long does not wait three times as long."""

    async def scene() -> None:
        shared = Shared(10)

        async def make() -> bytes:
            await asyncio.sleep(10)
            return b""

        await shared.get("one", make)
        await shared.get("one", make)
        assert 20 + module.LONGEST_REST == pytest.approx(elapsed())

    play(scene())


def test_places_come_back() -> None:
    """Whatever became of those who waited: answered, failed, gone or refused."""

    async def scene() -> None:
        shared = Shared(2)

        async def fail() -> bytes:
            raise SystemError

        async def stay() -> bytes:
            await asyncio.sleep(1000)
            return b""

        async def good() -> bytes:
            return b"good"

        for _ in range(5):
            with pytest.raises(SystemError):
                await shared.get("a", fail)
            waiting = [asyncio.create_task(shared.get(what, stay)) for what in ("a", "b")]
            await asyncio.sleep(0)
            with pytest.raises(Refused):
                await shared.get("c", good)
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
            assert b"good" == await shared.get("a", good)
        assert elapsed() < 1000

    play(scene())


def test_head_and_pipelining_are_no_way_around() -> None:
    """HEAD gets a length and no body; requests in one write are answered one after the other, in order."""

    async def test() -> None:
        service = Held()
        service.go.set()
        async with serving(service) as world:
            answer = await world.send(head("HEAD", "/api/v1/status", {"Host": "localhost", "Connection": "close"}))
            assert answer.status == 200
            assert int(answer.headers["content-length"]) > 0
            streams = await world.connect()
            streams[1].write(head("GET", "/api/v1/pools", {"Host": "localhost"}) * 5)
            assert [200] * 5 == [(await read_answer(streams)).status for _ in range(5)]

    run(test())
