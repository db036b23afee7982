"""The HTTP API: every answer that it can give, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest
from fake_service import FakeService, a_pool, two_pools
from prometheus_client.parser import text_string_to_metric_families
from serving import BEARER, Answer, World, hang_up, head, read_answer, run, serving
from states import status_of

from nftlb.errors import ConfigError, KernelError, Problem, SystemFault
from nftlb.model import UnixSocket
from nftlb.service import BackendStatus, PoolStatus, Status, Unapplied
from nftlb.web import Limits

if TYPE_CHECKING:
    from pathlib import Path

BACKEND = "/api/v1/pools/dns/backends/ns1"
BACKENDS = "/api/v1/pools/dns/backends"
NEW = {"name": "ns9", "address": "10.0.0.19", "port": 53, "weight": 2}


def test_health() -> None:
    """200 as long as the process works, whatever the state of the pools."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.get("/healthz")
            assert (200, b"ok\n") == (answer.status, answer.body)

    run(test())


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ("", 503, b"not ready\nsyslog: 0 of 1 backends that make its quorum are healthy\n"),
        ("?pool=dns", 200, b"ready\n"),
        ("?pool=syslog", 503, b"not ready\nsyslog: 0 of 1 backends that make its quorum are healthy\n"),
        ("?pool=none", 404, b'{"error": "no pool is named none"}\n'),
        ("?pool=", 404, b'{"error": "no pool is named "}\n'),
        ("?pol=dns", 400, b'{"error": "pol can\'t be asked; allowed: pool"}\n'),
        ("?pool=dns&pool=syslog", 400, b'{"error": "pool is asked twice; allowed: once"}\n'),
    ],
)
def test_readiness(query: str, status: int, body: bytes) -> None:
    """200 when every pool, or the one that is asked for, has its quorum; 503 and which has not; misspelt, never 200."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.get(f"/readyz{query}")
            assert (status, body) == (answer.status, answer.body)

    run(test())


def test_readiness_of_all() -> None:
    """200 when no pool lacks its quorum."""

    async def test() -> None:
        service = two_pools()
        del service.shown["syslog"]
        async with serving(service) as world:
            answer = await world.get("/readyz")
            assert (200, b"ready\n") == (answer.status, answer.body)

    run(test())


def test_readiness_without_rules() -> None:
    """503 too where all have their quorum, and nothing is said against the pools."""

    class Robbed(FakeService):
        def ready(self, pool: str | None = None) -> bool:
            super().ready(pool)
            return False

    async def test() -> None:
        service = Robbed({"dns": two_pools().shown["dns"]})
        async with serving(service) as world:
            for query in ("", "?pool=dns"):
                answer = await world.get(f"/readyz{query}")
                assert (503, b"not ready\n") == (answer.status, answer.body)

    run(test())


def test_readiness_of_many() -> None:
    """All that are not ready are named, and no pool's whole status is made for it: that would take seconds."""

    class Unasked(FakeService):
        async def pool(self, name: str) -> PoolStatus:
            raise AssertionError(f"the status of {name} was asked for")

    async def test() -> None:
        service = Unasked(two_pools().shown)
        service.put(*(a_pool(f"more{number}") for number in range(1000)))
        async with serving(service) as world:
            answer = await world.get("/readyz")
            assert 503 == answer.status
            lines = [line.split(":")[0] for line in answer.body.decode().splitlines()]
            assert ["not ready", "syslog", *(f"more{number}" for number in range(1000))] == lines

    run(test())


def test_figures() -> None:
    """The status, and what was counted, in the type that Prometheus expects."""

    async def test() -> None:
        async with serving() as world:
            world.metrics.swapped(0.1)
            answer = await world.get("/metrics")
            assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status, answer.headers["content-type"])
            samples = {
                (sample.name, sample.labels.get("backend")): sample.value
                for family in text_string_to_metric_families(answer.body.decode())
                for sample in family.samples
            }
            assert samples["nftlb_backend_packets_total", "ns2"] == 4
            assert samples["nftlb_swaps_total", None] == 1

    run(test())


def test_state() -> None:
    """The status, all pools and one pool are what the service says."""

    async def test() -> None:
        async with serving() as world:
            status = Status.model_validate_json((await world.get("/api/v1/status")).body)
            assert await status_of(world.service) == status
            pools = (await world.get("/api/v1/pools")).json
            assert list(status.pools) == [PoolStatus.model_validate_json(json.dumps(pool)) for pool in pools]
            pool = PoolStatus.model_validate_json((await world.get("/api/v1/pools/syslog")).body)
            assert status.pools[1] == pool

    run(test())


def test_ruleset() -> None:
    """The text last applied, as text."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.get("/api/v1/ruleset")
            assert ("text/plain; charset=utf-8", b"table ip nftlb {\n}\n") == (
                answer.headers["content-type"],
                answer.body,
            )

    run(test())


def test_head() -> None:
    """HEAD is answered like GET, without the body."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask("HEAD", "/healthz")
            assert (200, "3") == (answer.status, answer.headers["content-length"])

    run(test())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"admin": "drain"}, "change dns/ns1 drain None"),
        ({"weight": 0}, "change dns/ns1 None 0"),
        ({"weight": 2.0}, "change dns/ns1 None 2"),
        ({"admin": "maintenance", "weight": 256}, "change dns/ns1 maintenance 256"),
    ],
)
def test_change(change: dict[str, object], told: str) -> None:
    """What is in the body is set, nothing else; the answer is the backend as it is now."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask("PATCH", BACKEND, change)
            assert answer.status == 200
            assert [told] == world.service.done
            assert (await world.service.pool("dns")).backends[0] == BackendStatus.model_validate_json(answer.body)
            assert change.items() <= answer.json.items()

    run(test())


def test_add_and_remove() -> None:
    """201 with the place of what is new, 409 for a second of that name, 204 when it is gone, then 404."""

    async def test() -> None:
        async with serving() as world:
            added = await world.ask("POST", BACKENDS, NEW)
            assert (201, f"{BACKENDS}/ns9") == (added.status, added.headers["location"])
            assert (await world.service.pool("dns")).backends[-1] == BackendStatus.model_validate_json(added.body)
            assert (await world.ask("POST", BACKENDS, NEW)).status == 409
            removed = await world.ask("DELETE", added.headers["location"])
            assert (204, b"") == (removed.status, removed.body)
            assert (await world.ask("DELETE", added.headers["location"])).status == 404
            told = "add dns/ns9 {'address': '10.0.0.19', 'port': 53, 'weight': 2}"
            assert [told, told, "remove dns/ns9", "remove dns/ns9"] == world.service.done

    run(test())


def test_only_what_is_written_is_handed_on() -> None:
    """Defaults are the daemon's to know: the service gets the body as it was written, without the name."""

    async def test() -> None:
        async with serving() as world:
            await world.ask("POST", BACKENDS, {"name": "ns9", "address": "2001:db8::1", "device": "eth0"})
            assert ["add dns/ns9 {'address': '2001:db8::1', 'device': 'eth0'}"] == world.service.done[:1]

    run(test())


def test_reload() -> None:
    """200 when the file is in use."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask("POST", "/api/v1/reload")
            assert (200, {"reloaded": True}) == (answer.status, answer.json)
            assert ["reload"] == world.service.done

    run(test())


def test_reload_of_a_bad_file() -> None:
    """422 with every fault, in the lines that `nftlb check` would show."""

    async def test() -> None:
        async with serving() as world:
            problems = [Problem("a.yaml", 1, 2, "pools", "bad"), Problem("a.yaml", 3, 4, "pools.dns", "worse")]
            world.service.error = ConfigError(problems)
            answer = await world.ask("POST", "/api/v1/reload")
            assert answer.status == 422
            expected = ["a.yaml:1:2: pools: bad", "a.yaml:3:4: pools.dns: worse"]
            assert {"error": "the configuration is bad", "problems": expected} == answer.json

    run(test())


@pytest.mark.parametrize(
    ("path", "body", "problems"),
    [
        (BACKEND, {}, ["nothing is in it; allowed: admin, weight"]),
        (BACKEND, [], ["a list is not an object; allowed: admin, weight"]),
        (BACKEND, None, ["nothing is not an object; allowed: admin, weight"]),
        (BACKEND, {"weight": 257}, ["weight: 257 is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"weight": -1}, ["weight: -1 is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"weight": True}, ["weight: true is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"weight": 1.5}, ["weight: 1.5 is not a weight; allowed: 0 to 256"]),
        (BACKENDS, {"name": 5, "address": "10.0.0.1"}, ["name: 5 is not a string; allowed: a string, in quotes"]),
        (BACKEND, {"weight": "1"}, ["weight: 1 is not a weight; allowed: 0 to 256, without quotes or leading zeros"]),
        (BACKEND, {"weight": None}, ["weight: nothing is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"admin": "up"}, ["admin: up is not a state; allowed: enabled, drain, maintenance"]),
        (BACKEND, {"admin": None}, ["admin: nothing is not a state; allowed: enabled, drain, maintenance"]),
        (BACKEND, {"port": 1}, ["port is unknown; allowed: admin, weight"]),
        (
            BACKEND,
            {"admin": 1, "weight": 999, "x\n": 1},
            [
                "admin: 1 is not a state; allowed: enabled, drain, maintenance",
                "weight: 999 is not a weight; allowed: 0 to 256",
                '"x\\n" is unknown; allowed: admin, weight',
            ],
        ),
        (BACKENDS, {"name": "a"}, ["address is missing"]),
        (BACKENDS, {"address": "10.0.0.1"}, ["name is missing"]),
        (
            BACKENDS,
            {"name": "a", "address": "10.0.0.256"},
            [
                (
                    "address: 10.0.0.256 is not an address; "
                    "allowed: an IPv4 or IPv6 address, without port, brackets or leading zeros"
                )
            ],
        ),
        (BACKENDS, {"name": "a", "address": "10.0.0.1", "port": 0}, ["port: 0 is not a port; allowed: 1 to 65535"]),
        (
            BACKENDS,
            {"name": "a/b", "address": "10.0.0.1"},
            [
                (
                    "name: a/b is not a name of a backend; "
                    "allowed: a letter or digit, then letters, digits and _ . -, at most 48 in all"
                )
            ],
        ),
        (
            BACKENDS,
            {"name": "\ud800", "address": "10.0.0.1"},
            [
                (
                    'name: "\\ud800" is not a name of a backend; '
                    "allowed: a letter or digit, then letters, digits and _ . -, at most 48 in all"
                )
            ],
        ),
    ],
)
def test_bad_values(path: str, body: object, problems: list[str]) -> None:
    """422 with every fault: where, what was found, and what is allowed; and nothing is changed."""

    async def test() -> None:
        async with serving() as world:
            method = "PATCH" if path == BACKEND else "POST"
            answer = await world.ask(method, path, json.dumps(body).encode())
            assert (422, {"error": "the body is bad", "problems": problems}) == (answer.status, answer.json)
            assert world.service.done == []

    run(test())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"weight": 1', "Expecting ',' delimiter"),
        (b'{"weight": 1} {}', "Extra data"),
        (b"{'weight': 1}", "Expecting property name"),
        (b'{"weight": NaN}', "NaN is not a number"),
        (b'{"weight": 1, "weight": 2}', "a key is there twice"),
        (b'{"weight": "\xff"}', "invalid start byte"),
        ('{"weight": 1}'.encode("utf-16"), "invalid start byte"),
        (b"[" * 60_000, "recursion"),
        (b'{"weight": ' + b"9" * 5000 + b"}", "limit"),
    ],
)
def test_bad_json(body: bytes, message: str) -> None:
    """400 for a body that is no JSON, or that two readers would read differently."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask("PATCH", BACKEND, body)
            assert answer.status == 400
            assert answer.error.startswith("the body is not JSON: ")
            assert message in answer.error

    run(test())


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_other_content(headers: dict[str, str]) -> None:
    """415 for everything but JSON: no form of another site can send that."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask("PATCH", BACKEND, {"weight": 1}, headers)
            assert answer.status == 415
            assert world.service.done == []

    run(test())


def test_charset_is_no_matter() -> None:
    """JSON is UTF-8, with or without a word of it."""

    async def test() -> None:
        async with serving() as world:
            headers = {"Content-Type": "Application/JSON; charset=utf-8"}
            assert (await world.ask("PATCH", BACKEND, {"weight": 1}, headers)).status == 200

    run(test())


def test_large_body() -> None:
    """413 before it is read if its length is told, and as soon as it is too long if not; nothing is changed."""

    async def test() -> None:
        async with serving() as world:
            large = b'{"weight": 1}' + b" " * (64 << 10)
            told = await world.ask("PATCH", BACKEND, large)
            assert (413, "the body is larger than 64 KiB") == (told.status, told.error)
            chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
            found = await world.ask("PATCH", BACKEND, sent, chunked)
            assert (413, "the body is larger than 64 KiB") == (found.status, found.error)
            assert world.service.done == []

    run(test())


def test_largest_body() -> None:
    """64 KiB are allowed, and a body may come in chunks."""

    async def test() -> None:
        async with serving() as world:
            body = b'{"weight": 1}'.ljust(64 << 10)
            assert (await world.ask("PATCH", BACKEND, body)).status == 200
            chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            assert (await world.ask("PATCH", BACKEND, sent, chunked)).status == 200

    run(test())


def test_unknown_places() -> None:
    """404 for pages, pools and backends that are not there, with JSON that says so."""

    async def test() -> None:
        async with serving() as world:
            for path in (
                "/nothing",
                "/api/v1",
                "/api/v2/status",
                "/api/v1/pools/",
                "/api/v1/pools/%00",
                "//",
                "/%2e%2e/x",
            ):
                answer = await world.get(path)
                assert (404, "application/json; charset=utf-8") == (answer.status, answer.headers["content-type"])
            assert (await world.get("/api/v1/pools/none")).error == "no pool is named none; there are: dns, syslog"
            for method, path, body in (
                ("PATCH", "/api/v1/pools/dns/backends/none", {"weight": 1}),
                ("PATCH", "/api/v1/pools/none/backends/ns1", {"weight": 1}),
                ("POST", "/api/v1/pools/none/backends", NEW),
                ("DELETE", "/api/v1/pools/dns/backends/none", None),
                ("DELETE", "/api/v1/pools/none/backends/ns1", None),
            ):
                assert (await world.ask(method, path, body)).status == 404

    run(test())


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/api/v1/status", "GET, HEAD"),
        ("GET", "/api/v1/reload", "POST"),
        ("PUT", BACKEND, "DELETE, PATCH"),
        ("GET", BACKENDS, "POST"),
        ("HEAD", "/api/v1/events", "GET"),
        ("OPTIONS", "/api/v1/reload", "POST"),
        ("TRACE", "/", "GET, HEAD"),
        ("PROPFIND", "/", "GET, HEAD"),
    ],
)
def test_other_methods(method: str, path: str, allowed: str) -> None:
    """405 with those that are allowed."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask(method, path)
            assert (405, allowed) == (answer.status, answer.headers["allow"])
            assert method == "HEAD" or answer.error == f"{method} can't be done here; allowed: {allowed}"

    run(test())


@pytest.mark.parametrize(
    "error", [Unapplied("noted; the kernel is busy"), KernelError("no room"), SystemFault("not permitted")]
)
def test_refusals_of_the_world(error: Exception) -> None:
    """503 with what the kernel or the system said, for changes and for looks at the state alike."""

    async def test() -> None:
        service = two_pools()
        service.error = error
        async with serving(service) as world:
            for answer in (
                await world.ask("PATCH", BACKEND, {"weight": 1}),
                await world.ask("POST", BACKENDS, NEW),
                await world.ask("DELETE", BACKEND),
                await world.ask("POST", "/api/v1/reload"),
                await world.get("/api/v1/status"),
                await world.get("/metrics"),
            ):
                assert (503, str(error)) == (answer.status, answer.error)

    run(test())


@pytest.mark.parametrize("error", [RuntimeError("secret"), TimeoutError("secret"), ConnectionError("secret")])
def test_a_fault_of_ours(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """500 that tells a client nothing, and the log everything."""

    async def test() -> None:
        service = two_pools()
        service.error = error
        async with serving(service) as world:
            answer = await world.ask("POST", "/api/v1/reload")
            assert (500, {"error": "a fault of nftlb itself; its log says more"}) == (answer.status, answer.json)

    run(test())
    (record,) = caplog.records
    assert (logging.ERROR, error) == (record.levelno, record.exc_info[1] if record.exc_info else None)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"PATCH /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 400),
    ],
)
def test_what_is_not_http(request_: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Refused in JSON as well, without a word in the log: anybody could fill it."""

    async def test() -> None:
        async with serving() as world:
            streams = await world.connect()
            streams[1].write(request_)
            answer = await read_answer(streams)
            assert (status, "application/json; charset=utf-8") == (answer.status, answer.headers["content-type"])
            assert answer.error
            assert await streams[0].read() == b""  # and the connection is closed

    run(test())
    assert caplog.records == []


def test_a_body_that_breaks_off() -> None:
    """400 for chunks that are none."""

    async def test() -> None:
        async with serving() as world:
            chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
            answer = await world.ask("PATCH", BACKEND, b"zz\r\n", chunked)
            assert (400, True) == (answer.status, "body" in answer.error or "HTTP" in answer.error)
            assert world.service.done == []

    run(test())


def test_headers() -> None:
    """Nothing is for caches, other sites or guesses; no word of versions; errors and refusals included."""

    async def test() -> None:
        async with serving() as world:
            paths = ("/healthz", "/metrics", "/api/v1/status", "/api/v1/pools/none", "/nothing")
            answers = [await world.get(path) for path in paths]
            answers += [await world.ask("PUT", "/healthz"), await world.send(b"nonsense\r\n\r\n")]
            for answer in answers:
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
                assert answer.headers["server"] == "nftlb"
                assert not any(name.startswith("access-control") for name in answer.headers)

    run(test())


def test_keep_alive() -> None:
    """One connection takes many requests, refused ones among them."""

    async def test() -> None:
        async with serving() as world:
            streams = await world.connect()
            statuses = []
            for path in ("/healthz", "/nothing", "/api/v1/status", "/readyz"):
                streams[1].write(head("GET", path, {"Host": "localhost"}))
                statuses.append((await read_answer(streams)).status)
            assert [200, 404, 200, 503] == statuses

    run(test())


def test_pipelining() -> None:
    """Requests that come at once are answered in their order."""

    async def test() -> None:
        async with serving() as world:
            streams = await world.connect()
            streams[1].write(
                b"".join(head("GET", path, {"Host": "localhost"}) for path in ("/healthz", "/nothing", "/readyz"))
            )
            assert [200, 404, 503] == [(await read_answer(streams)).status for _ in range(3)]

    run(test())


def test_unix_socket(tmp_path: Path) -> None:
    """All of it works over a socket in the file system too, with tokens for changes."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(tmp_path / "api.sock"))) as world:
            assert (await world.get("/healthz")).status == 200
            assert (await world.ask("PATCH", BACKEND, {"weight": 3})).json["weight"] == 3
            assert (await world.ask("PATCH", BACKEND, {"weight": 3}, {"Authorization": ""})).status == 401

    run(test())


async def _under_way(world: World) -> tuple[asyncio.Task[Answer], asyncio.Event]:
    """Begin a change that waits; return it, and what it waits for."""
    world.service.hold = asyncio.Event()
    asked = asyncio.ensure_future(world.ask("PATCH", BACKEND, {"weight": 9}))
    await world.service.begun.wait()
    return asked, world.service.hold


def test_a_change_outlives_its_client() -> None:
    """A client that leaves does not leave a change half done."""

    async def test() -> None:
        async with serving() as world:
            world.service.hold = asyncio.Event()
            streams = await world.connect()
            body = b'{"weight": 9}'
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
            streams[1].write(head("PATCH", BACKEND, {**BEARER, **headers}) + body)
            await streams[1].drain()
            await world.service.begun.wait()
            (connection,) = world.connections
            await hang_up(streams)
            await connection.lost.wait()

            world.service.hold.set()
            await world.service.ended.wait()
            assert ["change dns/ns1 None 9"] == world.service.done

    run(test())


def test_stop_waits_for_a_change() -> None:
    """A request that is under way is answered before the server stops; new ones are not taken."""

    async def test() -> None:
        async with serving() as world:
            asked, hold = await _under_way(world)
            stopping = asyncio.ensure_future(world.server.stop())
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await world.connect()
            hold.set()
            assert (await asked).json["weight"] == 9
            await stopping

    run(test())


def test_stop_does_not_wait_for_ever() -> None:
    """Nor does a change that never ends hold up the end of the daemon."""

    async def test() -> None:
        async with serving(limits=Limits(stop_seconds=0.1)) as world:
            asked, hold = await _under_way(world)
            async with asyncio.timeout(3):
                await world.server.stop()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asked
            hold.set()

    run(test())
