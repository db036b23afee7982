"""The HTTP API over real sockets: the state, refusals, and the connection itself."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from api_state import status_of
from fake_service import FakeService, a_pool, two_pools
from prometheus_client.parser import text_string_to_metric_families
from web_server import head, read_answer, run, serving

from nftlb.errors import KernelError, SystemFault
from nftlb.model import UnixSocket
from nftlb.service import PoolClients, PoolStatus, Status, Unapplied

if TYPE_CHECKING:
    from pathlib import Path

BACKEND = "/api/v1/pools/dns/backends/ns1"
BACKENDS = "/api/v1/pools/dns/backends"
NEW = {"name": "ns9", "address": "10.0.0.19", "port": 53, "weight": 2}


def test_health() -> None:
    """200 as long as the process works, whatever the state of the pools; a header has the version."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get("/healthz")
            assert (200, b"ok\n") == (answer.status, answer.body)
            assert version("nftlb") == answer.headers["nftlb-version"]

    run(test())


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        ("", 503, b"not ready\nsyslog: 0 usable, 1 needed\n"),
        ("?pool=dns", 200, b"ready\n"),
        ("?pool=syslog", 503, b"not ready\nsyslog: 0 usable, 1 needed\n"),
        ("?pool=none", 404, b'{"error": "no pool is named none"}\n'),
        ("?pool=", 404, b'{"error": "no pool is named "}\n'),
        ("?pol=dns", 400, b"unknown in the query: pol; allowed: pool"),
        ("?pool=dns&pool=syslog", 400, b"pool is given more than once; allowed: once"),
    ],
)
def test_readiness(query: str, status: int, body: bytes) -> None:
    """200 if every pool, or the named pool, has its quorum; else 503 with the pools; a misspelt query is never 200."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get(f"/readyz{query}")
            assert (status, body) == (answer.status, answer.error.encode() if status == 400 else answer.body)

    run(test())


def test_readiness_of_all_pools() -> None:
    """200 when no pool lacks its quorum."""

    async def test() -> None:
        service = two_pools()
        del service.shown["syslog"]
        async with serving(service) as api:
            answer = await api.get("/readyz")
            assert (200, b"ready\n") == (answer.status, answer.body)

    run(test())


def test_readiness_without_rules() -> None:
    """503 without rules in the kernel, even if all pools have their quorum; no pool is named."""

    class Robbed(FakeService):
        def ready(self, pool: str | None = None) -> bool:
            super().ready(pool)
            return False

    async def test() -> None:
        service = Robbed({"dns": two_pools().shown["dns"]})
        async with serving(service) as api:
            for query in ("", "?pool=dns"):
                answer = await api.get(f"/readyz{query}")
                assert (503, b"not ready\n") == (answer.status, answer.body)

    run(test())


def test_readiness_of_many() -> None:
    """All pools that are not ready are named without making the status of a pool, which would take seconds."""

    class Unasked(FakeService):
        async def pool(self, name: str) -> PoolStatus:
            raise AssertionError(f"the status of {name} was asked for")

    async def test() -> None:
        service = Unasked(two_pools().shown)
        service.put(*(a_pool(f"more{number}") for number in range(1000)))
        async with serving(service) as api:
            answer = await api.get("/readyz")
            assert 503 == answer.status
            lines = [line.split(":")[0] for line in answer.body.decode().splitlines()]
            assert ["not ready", "syslog", *(f"more{number}" for number in range(1000))] == lines

    run(test())


def test_figures() -> None:
    """The metrics have values of the status and counters, in the content type that Prometheus expects."""

    async def test() -> None:
        async with serving() as api:
            api.metrics.swapped(0.1)
            answer = await api.get("/metrics")
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
    """The status, all pools and one pool equal the objects of the service."""

    async def test() -> None:
        async with serving() as api:
            status = Status.model_validate_json((await api.get("/api/v1/status")).body)
            assert await status_of(api.service) == status
            pools = (await api.get("/api/v1/pools")).json
            assert list(status.pools) == [PoolStatus.model_validate_json(json.dumps(pool)) for pool in pools]
            pool = PoolStatus.model_validate_json((await api.get("/api/v1/pools/syslog")).body)
            assert status.pools[1] == pool

    run(test())


@pytest.mark.parametrize(
    ("path", "status", "shown"),
    [
        ("dns/clients", 200, 2),
        ("dns/clients?limit=1", 200, 1),
        ("syslog/clients", 409, "pool syslog does not count clients"),
        ("none/clients", 404, "no pool is named none; there are: dns, syslog"),
        ("dns/clients?limit=0", 400, "limit is not a number of clients; allowed: 1 to 10000"),
        ("dns/clients?limit=10001", 400, "limit is not a number of clients; allowed: 1 to 10000"),
        ("dns/clients?limit=%C2%B2", 400, "limit is not a number of clients; allowed: 1 to 10000"),
        ("dns/clients?most=1", 400, "unknown in the query: most; allowed: limit"),
        ("dns/clients?limit=1&limit=2", 400, "limit is given more than once; allowed: once"),
    ],
)
def test_clients(path: str, status: int, shown: object) -> None:
    """The sources with the most packets, up to a limit; a refusal for a pool that does not count them."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get(f"/api/v1/pools/{path}")
            assert status == answer.status
            if status == 200:
                assert shown == len(PoolClients.model_validate_json(answer.body).clients)
            else:
                assert shown == answer.error

    run(test())


def test_ruleset() -> None:
    """The ruleset is the nft text that was last applied."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get("/api/v1/ruleset")
            assert ("text/plain; charset=utf-8", b"table ip nftlb {\n}\n") == (
                answer.headers["content-type"],
                answer.body,
            )

    run(test())


def test_head() -> None:
    """HEAD is answered like GET, without the body."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask("HEAD", "/healthz")
            assert (200, "3") == (answer.status, answer.headers["content-length"])

    run(test())


def test_unknown_places() -> None:
    """404 with a JSON error for pages, pools and backends that do not exist."""

    async def test() -> None:
        async with serving() as api:
            for path in (
                "/nothing",
                "/api/v1",
                "/api/v2/status",
                "/api/v1/pools/",
                "/api/v1/pools/%00",
                "//",
                "/%2e%2e/x",
            ):
                answer = await api.get(path)
                assert (404, "application/json; charset=utf-8") == (answer.status, answer.headers["content-type"])
            assert (await api.get("/api/v1/pools/none")).error == "no pool is named none; there are: dns, syslog"
            for method, path, body in (
                ("PATCH", "/api/v1/pools/dns/backends/none", {"weight": 1}),
                ("PATCH", "/api/v1/pools/none/backends/ns1", {"weight": 1}),
                ("POST", "/api/v1/pools/none/backends", NEW),
                ("DELETE", "/api/v1/pools/dns/backends/none", None),
                ("DELETE", "/api/v1/pools/none/backends/ns1", None),
            ):
                assert (await api.ask(method, path, body)).status == 404

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
    """405 with the allowed methods."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask(method, path)
            assert (405, allowed) == (answer.status, answer.headers["allow"])
            assert method == "HEAD" or answer.error == f"{method} can't be done here; allowed: {allowed}"

    run(test())


@pytest.mark.parametrize(
    "error", [Unapplied("noted; the kernel is busy"), KernelError("no room"), SystemFault("not permitted")]
)
def test_refusals_of_the_kernel(error: Exception) -> None:
    """503 with the error of the kernel or the system, for changes and for the status."""

    async def test() -> None:
        service = two_pools()
        service.error = error
        async with serving(service) as api:
            for answer in (
                await api.ask("PATCH", BACKEND, {"weight": 1}),
                await api.ask("POST", BACKENDS, NEW),
                await api.ask("DELETE", BACKEND),
                await api.ask("POST", "/api/v1/reload"),
                await api.get("/api/v1/status"),
                await api.get("/metrics"),
            ):
                assert (503, str(error)) == (answer.status, answer.error)

    run(test())


@pytest.mark.parametrize("error", [RuntimeError("secret"), TimeoutError("secret"), ConnectionError("secret")])
def test_an_internal_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """An internal error is 500 without details for the client, and with all details in the log."""

    async def test() -> None:
        service = two_pools()
        service.error = error
        async with serving(service) as api:
            answer = await api.ask("POST", "/api/v1/reload")
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
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\n{}", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n{}", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +2\r\n\r\n{}", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\rX: a\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 400),
    ],
)
def test_bytes_that_are_not_http(request_: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are not HTTP are refused with JSON and without a log line, as any client could fill the log.

    Also requests whose end a proxy may see at another place: the rest would be a request of another client.
    """

    async def test() -> None:
        async with serving() as api:
            streams = await api.connect()
            streams[1].write(request_)
            answer = await read_answer(streams)
            assert (status, "application/json; charset=utf-8") == (answer.status, answer.headers["content-type"])
            assert answer.error
            assert await streams[0].read() == b""  # and the connection is closed

    run(test())
    assert caplog.records == []


def test_a_body_that_breaks_off() -> None:
    """400 for a body with invalid chunks."""

    async def test() -> None:
        async with serving() as api:
            chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
            answer = await api.ask("PATCH", BACKEND, b"zz\r\n", chunked)
            assert (400, True) == (answer.status, "body" in answer.error or "HTTP" in answer.error)
            assert api.service.done == []

    run(test())


def test_headers() -> None:
    """All responses, errors too, forbid caches, other sites and content sniffing, and show no version."""

    async def test() -> None:
        async with serving() as api:
            paths = ("/healthz", "/metrics", "/api/v1/status", "/api/v1/pools/none", "/nothing")
            answers = [await api.get(path) for path in paths]
            answers += [await api.ask("PUT", "/healthz"), await api.send(b"nonsense\r\n\r\n")]
            for answer in answers:
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
                assert answer.headers["server"] == "nftlb"
                assert not any(name.startswith("access-control") for name in answer.headers)

    run(test())


def test_keep_alive() -> None:
    """One connection serves many requests, refused requests too."""

    async def test() -> None:
        async with serving() as api:
            streams = await api.connect()
            statuses = []
            for path in ("/healthz", "/nothing", "/api/v1/status", "/readyz"):
                streams[1].write(head("GET", path, {"Host": "localhost"}))
                statuses.append((await read_answer(streams)).status)
            assert [200, 404, 200, 503] == statuses

    run(test())


def test_pipelining() -> None:
    """Pipelined requests are answered in their order."""

    async def test() -> None:
        async with serving() as api:
            streams = await api.connect()
            streams[1].write(
                b"".join(head("GET", path, {"Host": "localhost"}) for path in ("/healthz", "/nothing", "/readyz"))
            )
            assert [200, 404, 503] == [(await read_answer(streams)).status for _ in range(3)]

    run(test())


def test_unix_socket(tmp_path: Path) -> None:
    """The API works over a unix socket too, with tokens for changes."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(tmp_path / "api.sock"))) as api:
            assert (await api.get("/healthz")).status == 200
            assert (await api.ask("PATCH", BACKEND, {"weight": 3}, {"Via": "1.1 proxy"})).json["weight"] == 3
            refused = await api.ask("PATCH", BACKEND, {"weight": 3}, {"Authorization": "", "Via": "1.1 proxy"})
            assert 401 == refused.status

    run(test())
