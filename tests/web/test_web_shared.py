"""Expensive responses: made once for all clients that wait, with pauses, and not for clients that left."""

from __future__ import annotations

import asyncio
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from fake_service import FakeService, a_pool, two_pools
from multidict import CIMultiDict
from virtual_time import elapsed, play
from web_server import RunningApi, hang_up, head, read_answer, run, serving, until

from nftlb.model import Admin
from nftlb.web import Limits
from nftlb.web import shared as module
from nftlb.web.compression import accepts_gzip
from nftlb.web.errors import RequestError
from nftlb.web.shared import Lane, LargeBody, SharedResponses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nftlb.service import Notices, PoolStatus

LARGE = ("/api/v1/status", "/api/v1/pools", "/api/v1/pools/dns", "/api/v1/ruleset", "/metrics")


class Held(FakeService):
    """Counts the calls that read the state, and makes them wait."""

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
        async for pool in super().pools():
            yield pool

    async def pool(self, name: str) -> PoolStatus:
        await self._look()
        return await super().pool(name)

    async def ruleset(self) -> str:
        await self._look()
        return await super().ruleset()


async def many_ask(api: RunningApi, path: str, count: int) -> list[asyncio.Task[int]]:
    async def ask() -> int:
        return (await api.get(path)).status

    return [asyncio.create_task(ask()) for _ in range(count)]


@pytest.mark.parametrize("path", LARGE)
def test_waiting_clients_share_one_response(path: str) -> None:
    """Twenty clients that ask while the first response is made share the next one."""

    async def test() -> None:
        service = Held()
        async with serving(service) as api:
            asked = await many_ask(api, path, 1)
            await until(lambda: service.looks)
            asked += await many_ask(api, path, 20)
            await until(lambda: len(api.connections) == 21)
            await until(lambda: not api.server._connections._waiting)
            service.go.set()
            assert {200} == set(await asyncio.gather(*asked))
            assert service.looks == 2

    run(test())


@pytest.mark.parametrize("path", LARGE)
def test_no_work_for_clients_that_left(path: str) -> None:
    """Thirty clients ask and disconnect: work that had begun is cancelled, the rest never begins."""

    async def test() -> None:
        service = Held()
        async with serving(service) as api:
            many = [await api.connect() for _ in range(30)]
            for streams in many:
                streams[1].write(head("GET", path, {"Host": "localhost"}))
            await until(lambda: service.looks)
            for streams in many:
                await hang_up(streams)
            await until(lambda: not api.connections)
            service.go.set()
            assert (await api.get(path)).status == 200
            assert (2, 1) == (service.looks, service.whole)

    run(test())


@pytest.mark.parametrize("path", LARGE)
def test_limit_of_waiting_clients(path: str) -> None:
    """Further clients get 503 with Retry-After at once; probes, the page and changes are still answered."""

    async def test() -> None:
        service = Held()
        async with serving(service, limits=Limits(readers=4)) as api:
            asked = await many_ask(api, path, 4)
            await until(lambda: len(api.connections) == 4 and not api.server._connections._waiting)
            for other in LARGE:
                refused = await api.get(other)
                assert (503, module.RETRY_AFTER) == (refused.status, refused.headers["retry-after"])
                assert "4 requests wait" in refused.error
            for other in ("/healthz", "/readyz?pool=dns", "/", "/api/v1/nothing"):
                assert (await api.get(other)).status in {200, 404}
            assert (await api.ask("POST", "/api/v1/reload")).status == 200
            service.go.set()
            assert {200} == set(await asyncio.gather(*asked))
            assert (await api.get(path)).status == 200

    run(test())


def test_a_response_has_earlier_changes() -> None:
    """A change that was answered while a response was made is in the next response."""

    async def test() -> None:
        service = Held()
        async with serving(service) as api:
            first = await many_ask(api, "/api/v1/status", 1)
            await until(lambda: service.looks)
            pool = service.shown["dns"]
            drained = replace_admin(pool)
            service.put(drained)
            asked = [asyncio.create_task(api.get("/api/v1/status")) for _ in range(5)]
            service.go.set()
            await asyncio.gather(*first)
            for answer in await asyncio.gather(*asked):
                shown = {entry["name"]: entry for entry in answer.json["pools"]}
                assert shown["dns"]["backends"][0]["admin"] == "drain"

    run(test())


def replace_admin(pool: PoolStatus) -> PoolStatus:
    first = pool.backends[0].model_copy(update={"admin": Admin.DRAIN})
    return pool.model_copy(update={"backends": (first, *pool.backends[1:])})


def test_an_error_reaches_all_waiting_clients() -> None:
    """All clients that waited get the error; the next client gets a response."""

    async def test() -> None:
        service = FakeService()
        service.put(a_pool("dns"))
        async with serving(service) as api:
            service.error = SystemError("broken")
            answers = await asyncio.gather(*(api.get("/api/v1/status") for _ in range(5)))
            assert {500} == {answer.status for answer in answers}
            assert (await api.get("/api/v1/pools/nothing")).status == 404
            service.error = None
            assert (await api.get("/api/v1/status")).status == 200

    run(test())


def test_a_pause_after_each_response() -> None:
    """Clients that ask all the time use a limited share of the loop, and each kind of response is made in turn."""

    async def scene() -> None:
        shared, worked, seen = SharedResponses(10), 0.0, dict.fromkeys(("status", "metrics", "ruleset"), 0)

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
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert 60 == pytest.approx(elapsed())
        assert worked <= 60 / 3 + 0.3
        assert min(seen.values()) >= max(seen.values()) - 3 > 0

    play(scene())


def test_the_state_of_a_pool_does_not_wait_for_the_pause_of_all_pools() -> None:
    """A page that follows events can read a pool soon after all pools; requests for single pools have pauses too."""

    async def scene() -> None:
        shared, done = SharedResponses(10), []

        async def make(what: str, seconds: float) -> bytes:
            await asyncio.sleep(seconds)
            done.append((what, round(elapsed(), 3)))
            return b""

        await shared.get("status", partial(make, "status", 0.1))
        again = asyncio.create_task(shared.get("status", partial(make, "status", 0.1)))
        for _ in range(2):
            await shared.get("pool dns", partial(make, "dns", 0.01), Lane.SMALL)
        await again
        assert [("status", 0.1), ("dns", 0.11), ("dns", 0.16), ("status", 0.6)] == done

    play(scene())


def test_slow_responses_hold_up_no_other_response() -> None:
    """The metrics do not wait for notices, and notices and explanations are made one at a time."""

    async def scene() -> None:
        shared, done = SharedResponses(10), []

        async def make(what: str, seconds: float) -> bytes:
            await asyncio.sleep(seconds)
            done.append((what, elapsed()))
            return b""

        await asyncio.gather(
            shared.get("notices", partial(make, "notices", 5), Lane.SLOW),
            shared.get("explain", partial(make, "explain", 1), Lane.SLOW),
            shared.get("metrics", partial(make, "metrics", 0.1)),
        )
        assert [("metrics", 0.1), ("notices", 5), ("explain", 5 + module.LONGEST_REST + 1)] == done

    play(scene())


@pytest.mark.parametrize("path", ["notices", "explain?source=198.51.100.7:40000&destination=192.0.2.53:53/udp"])
def test_metrics_are_answered_during_an_examination(path: str) -> None:
    """Readers of the state get their answers while the answer of a thread is not there yet."""

    class Examined(FakeService):
        """Waits in what takes a thread."""

        def __init__(self) -> None:
            super().__init__(two_pools().shown)
            self.asked, self.go = asyncio.Event(), asyncio.Event()

        async def notices(self) -> Notices:
            self.asked.set()
            await self.go.wait()
            return await super().notices()

        async def explain(self, *packet: Any) -> dict[str, Any]:
            self.asked.set()
            await self.go.wait()
            return await super().explain(*packet)

    async def test() -> None:
        service = Examined()
        async with serving(service) as api:
            first = asyncio.create_task(api.get(f"/api/v1/{path}"))
            await service.asked.wait()
            for other in LARGE:
                assert 200 == (await api.get(other)).status
            assert not first.done()
            service.go.set()
            assert 200 == (await first).status

    run(test())


def test_the_longest_pause() -> None:
    """The pause after a very long response is limited."""

    async def scene() -> None:
        shared = SharedResponses(10)

        async def make() -> bytes:
            await asyncio.sleep(10)
            return b""

        await shared.get("one", make)
        await shared.get("one", make)
        assert 20 + module.LONGEST_REST == pytest.approx(elapsed())

    play(scene())


def test_waiting_clients_are_counted_right() -> None:
    """The count is right after responses, errors, cancelled requests and refusals."""

    async def scene() -> None:
        shared = SharedResponses(2)

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
            with pytest.raises(RequestError):
                await shared.get("c", good)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert b"good" == await shared.get("a", good)
        assert elapsed() < 1000

    play(scene())


def test_head_and_pipelining() -> None:
    """HEAD gets a length and no body; pipelined requests are answered one by one, in order."""

    async def test() -> None:
        service = Held()
        service.go.set()
        async with serving(service) as api:
            answer = await api.send(head("HEAD", "/api/v1/status", {"Host": "localhost", "Connection": "close"}))
            assert answer.status == 200
            assert int(answer.headers["content-length"]) > 0
            streams = await api.connect()
            streams[1].write(head("GET", "/api/v1/pools", {"Host": "localhost"}) * 5)
            assert [200] * 5 == [(await read_answer(streams)).status for _ in range(5)]

    run(test())


# --- compressed responses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip, deflate, br, zstd", True),
        ("GZIP;q=0.5", True),
        ("br, gzip ; q=1", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("xgzip", False),
    ],
)
@pytest.mark.parametrize("path", [*LARGE, "/", "/page/main.js"])
def test_compressed_responses(path: str, accepted: str, compressed: bool) -> None:
    """A client that accepts gzip receives the same text in gzip; all others receive it as it is."""

    async def test() -> None:
        async with serving() as api:
            plain = await api.get(path)
            answer = await api.ask("GET", path, headers={"Authorization": "", "Accept-Encoding": accepted})
            assert (200, 200) == (plain.status, answer.status)
            assert {"Accept-Encoding"} == {plain.headers["vary"], answer.headers["vary"]}
            assert "content-encoding" not in plain.headers
            assert ("gzip" if compressed else None) == answer.headers.get("content-encoding")
            text = gzip.decompress(answer.body) if compressed else answer.body
            lines = 3 if path == "/metrics" else None  # the later metrics differ in each response
            assert plain.body.splitlines()[:lines] == text.splitlines()[:lines]
            assert plain.headers["content-type"] == answer.headers["content-type"]

    run(test())


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        (["gzip;foo=1;q=0"], False),
        (["gzip;q=0;foo=1"], False),
        (["gzip;foo=1;q=0.1"], True),
        (["gzip\t;\tq=0"], False),
        (["br", "gzip"], True),
        (["br", "gzip;q=0"], False),
        ([], False),
    ],
)
def test_all_headers_and_parameters_count(headers: list[str], accepted: bool) -> None:
    """A client may offer gzip in any of several headers, and refuse gzip behind another parameter."""
    request = Mock(headers=CIMultiDict([("Accept-Encoding", header) for header in headers]))
    assert accepted == accepts_gzip(request)


def test_clients_share_a_compressed_response() -> None:
    """Clients that wait for the same response share its compressed bytes too."""

    async def test() -> None:
        shared, made = SharedResponses(10), []

        async def make() -> bytes:
            made.append("status")
            return b"ready"

        request = Mock(headers=CIMultiDict({"Accept-Encoding": "gzip"}))
        first, second = await asyncio.gather(*(shared.respond(request, "status", make) for _ in range(2)))
        assert ["status"] == made
        assert isinstance(first.body, LargeBody)
        assert isinstance(second.body, LargeBody)
        assert first.body.value is second.body.value
        assert b"ready" == gzip.decompress(first.body.value)

    run(test())


def test_compression_needs_no_thread_of_the_event_loop() -> None:
    """Responses are compressed while calls that hang use all threads of the event loop; `close` ends the thread."""

    async def make() -> bytes:
        return b"ready"

    async def test() -> None:
        shared, request = SharedResponses(10), Mock(headers=CIMultiDict({"Accept-Encoding": "gzip"}))
        end = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        hanging = loop.run_in_executor(None, end.wait)
        try:
            answer = await shared.respond(request, "status", make)
        finally:
            end.set()
            await hanging
        assert isinstance(answer.body, LargeBody)
        assert b"ready" == gzip.decompress(answer.body.value)
        before = threading.active_count()
        shared.close()
        assert before - 1 == threading.active_count()

    run(test())
