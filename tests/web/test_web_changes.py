"""The requests that change something: their bodies, their answers, and changes whose client has gone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import pytest
from web_server import BEARER, Answer, RunningApi, hang_up, head, run, serving

from nftlb.errors import ConfigError, Problem
from nftlb.service import BackendStatus
from nftlb.web import Limits

BACKEND = "/api/v1/pools/dns/backends/ns1"
BACKENDS = "/api/v1/pools/dns/backends"
NO_KEY = "is not POOL/BACKEND; allowed: two names, such as dns/ns1, or dns/* for all of a pool"
SEVERAL = "/api/v1/backends"
NEW = {"name": "ns9", "address": "10.0.0.19", "port": 53, "weight": 2}


@pytest.mark.parametrize(
    ("change", "call"),
    [
        ({"admin": "drain"}, "change dns/ns1 drain None"),
        ({"weight": 0}, "change dns/ns1 None 0"),
        ({"weight": 2.0}, "change dns/ns1 None 2"),
        ({"admin": "maintenance", "weight": 256}, "change dns/ns1 maintenance 256"),
    ],
)
def test_change(change: dict[str, object], call: str) -> None:
    """Only the options of the body are set; the answer is the new status of the backend."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask("PATCH", BACKEND, change)
            assert answer.status == 200
            assert [call] == api.service.done
            assert (await api.service.pool("dns")).backends[0] == BackendStatus.model_validate_json(answer.body)
            assert change.items() <= answer.json.items()

    run(test())


def test_a_preview_of_a_reload() -> None:
    """A preview says what the reload would lead to, and reads nothing into use; other parameters are refused."""

    async def test() -> None:
        async with serving() as api:
            api.service.losses = ("the pool sip would be removed",)
            answer = await api.ask("POST", "/api/v1/reload?preview=true")
            assert (200, {"consequences": list(api.service.losses)}) == (answer.status, answer.json)
            for query in ("previw=true", "preview=yes"):
                assert 400 == (await api.ask("POST", f"/api/v1/reload?{query}")).status
            assert [] == api.service.done
            assert 200 == (await api.ask("POST", "/api/v1/reload?preview=false")).status
            assert ["reload"] == api.service.done

    run(test())


def test_add_and_remove() -> None:
    """201 with the path of the new backend, 409 for the same name again, 204 for its removal, then 404."""

    async def test() -> None:
        async with serving() as api:
            added = await api.ask("POST", BACKENDS, NEW)
            assert (201, f"{BACKENDS}/ns9") == (added.status, added.headers["location"])
            assert (await api.service.pool("dns")).backends[-1] == BackendStatus.model_validate_json(added.body)
            assert (await api.ask("POST", BACKENDS, NEW)).status == 409
            removed = await api.ask("DELETE", added.headers["location"])
            assert (204, b"") == (removed.status, removed.body)
            assert (await api.ask("DELETE", added.headers["location"])).status == 404
            call = "add dns/ns9 {'address': '10.0.0.19', 'port': 53, 'weight': 2}"
            assert [call, call, "remove dns/ns9", "remove dns/ns9"] == api.service.done

    run(test())


def test_several_backends() -> None:
    """Several backends of several pools are changed in one request, or none if one of them is unknown."""

    async def test() -> None:
        async with serving() as api:
            wanted = {"backends": ["dns/ns2", "syslog/log1", "dns/ns2"], "admin": "maintenance"}
            preview = await api.ask("PATCH", f"{SEVERAL}?preview=true", wanted)
            lines = ["dns/ns2: maintenance", "syslog/log1: maintenance"]
            assert (200, lines) == (preview.status, preview.json["consequences"])
            assert [] == api.service.done
            answer = await api.ask("PATCH", SEVERAL, wanted)
            assert 200 == answer.status
            assert [("ns2", "maintenance"), ("log1", "maintenance")] == [(b["name"], b["admin"]) for b in answer.json]
            done = ["change dns/ns2 maintenance None", "change syslog/log1 maintenance None"]
            assert done == api.service.done
            answer = await api.ask("PATCH", SEVERAL, {"backends": ["syslog/log1", "dns/*"], "admin": "enabled"})
            changed = [f"{backend['pool']}/{backend['name']}" for backend in answer.json]
            assert (200, ["syslog/log1", "dns/ns1", "dns/ns2"]) == (answer.status, changed)
            done = api.service.done[:]
            unknown = await api.ask("PATCH", SEVERAL, {"backends": ["dns/ns1", "dns/ns9"], "weight": 2})
            assert (404, "dns has no backend ns9") == (unknown.status, unknown.error)
            assert done == api.service.done

    run(test())


def test_a_pool_of_many_backends() -> None:
    """Only the size of the body limits the number of names, and a name counts once."""

    async def test() -> None:
        async with serving() as api:
            longest = f"{'p' * 48}/{'b' * 75}"
            many = [f"{longest}{number:05}" for number in range(10_000)]
            unknown = await api.ask("PATCH", SEVERAL, {"backends": many, "weight": 2})
            assert (404, f"no pool is named {'p' * 48}; there are: dns, syslog") == (unknown.status, unknown.error)
            large = await api.ask("PATCH", SEVERAL, {"backends": many * 2, "weight": 2})
            assert (413, "the body is too large; allowed: 2048 KiB") == (large.status, large.error)
            answer = await api.ask("PATCH", SEVERAL, {"backends": ["dns/ns1"] * 1000, "weight": 2})
            assert (200, ["ns1"]) == (answer.status, [backend["name"] for backend in answer.json])

    run(test())


def test_the_service_receives_a_backend() -> None:
    """The service receives a backend with the options of the body, and defaults for the rest."""

    async def test() -> None:
        async with serving() as api:
            await api.ask("POST", BACKENDS, {"name": "ns9", "address": "2001:db8::1", "device": "eth0"})
            assert ["add dns/ns9 {'address': '2001:db8::1', 'device': 'eth0'}"] == api.service.done[:1]

    run(test())


def test_reload() -> None:
    """200 when the file is in use."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask("POST", "/api/v1/reload")
            assert (200, {"reloaded": True}) == (answer.status, answer.json)
            assert ["reload"] == api.service.done

    run(test())


def test_reload_of_a_bad_file() -> None:
    """422 with all faults, in the lines that `nftlb check` shows, and with their places for programs."""

    async def test() -> None:
        async with serving() as api:
            problems = [Problem("a.yaml", 1, 2, "pools", "bad"), Problem("a.yaml", 3, 4, "pools.dns", "worse")]
            api.service.error = ConfigError(problems)
            answer = await api.ask("POST", "/api/v1/reload")
            assert answer.status == 422
            expected = ["a.yaml:1:2: pools: bad", "a.yaml:3:4: pools.dns: worse"]
            faults = [asdict(problem) for problem in problems]
            assert {"error": "the configuration is bad", "problems": expected, "faults": faults} == answer.json
            assert {"file": "a.yaml", "line": 1, "column": 2, "path": "pools", "message": "bad"} == faults[0]

    run(test())


@pytest.mark.parametrize(
    ("path", "body", "problems"),
    [
        (BACKEND, {}, ["the body is empty; allowed: admin, weight, priority"]),
        (BACKEND, [], ["a list is not an object; allowed: admin, weight, priority"]),
        (BACKEND, None, ["nothing is not an object; allowed: admin, weight, priority"]),
        (BACKEND, {"weight": 257}, ["weight: 257 is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"weight": -1}, ["weight: -1 is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"weight": True}, ["weight: true is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"weight": 1.5}, ["weight: 1.5 is not a weight; allowed: 0 to 256"]),
        (BACKENDS, {"name": 5, "address": "10.0.0.1"}, ["name: 5 is not a string; allowed: a string, in quotes"]),
        (BACKEND, {"weight": "1"}, ["weight: 1 is not a weight; write 1, without quotes; allowed: 0 to 256"]),
        (BACKEND, {"weight": None}, ["weight: nothing is not a weight; allowed: 0 to 256"]),
        (BACKEND, {"admin": "up"}, ["admin: up is not a state; allowed: enabled, drain, maintenance"]),
        (BACKEND, {"admin": None}, ["admin: nothing is not a state; allowed: enabled, drain, maintenance"]),
        (BACKEND, {"port": 1}, ["port is unknown; allowed: admin, weight, priority"]),
        (
            BACKEND,
            {"admin": 1, "weight": 999, "x\n": 1},
            [
                "admin: 1 is not a state; allowed: enabled, drain, maintenance",
                "weight: 999 is not a weight; allowed: 0 to 256",
                '"x\\n" is unknown; allowed: admin, weight, priority',
            ],
        ),
        (SEVERAL, {"backends": ["dns/ns1"]}, ["nothing is to be changed; allowed: admin, weight, priority"]),
        (SEVERAL, {"admin": "drain"}, ["backends is missing"]),
        (
            SEVERAL,
            {"backends": [], "admin": "drain"},
            ["backends: a list is without names; allowed: one name or several, such as dns/ns1 or dns/*"],
        ),
        (
            SEVERAL,
            {"backends": ["dns/ns1", "ns2"], "admin": "drain"},
            [f"backends: ns2 {NO_KEY}"],
        ),
        (
            SEVERAL,
            {"backends": ["dns/\ud800"], "admin": "drain"},
            [f'backends: "dns/\\ud800" {NO_KEY}'],
        ),
        (
            SEVERAL,
            {"backends": ["d\nns/ns1"], "admin": "drain"},
            [f'backends: "d\\nns/ns1" {NO_KEY}'],
        ),
        (BACKENDS, {"name": "a"}, ["neither address nor srv is given; allowed: one of them"]),
        (BACKENDS, {"address": "10.0.0.1"}, ["name is missing"]),
        (
            BACKENDS,
            {"name": "a", "address": "10.0.0.256"},
            [
                (
                    "address: 10.0.0.256 is not an address; 256 in 10.0.0.256 is not a number from 0 to 255; "
                    "allowed: a host name, or an IPv4 or IPv6 address without port, brackets or leading zeros"
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
                    "allowed: a letter or digit, then letters, digits and _ . -, at most 48 characters"
                )
            ],
        ),
        (
            BACKENDS,
            {"name": "\ud800", "address": "10.0.0.1"},
            [
                (
                    'name: "\\ud800" is not a name of a backend; '
                    "allowed: a letter or digit, then letters, digits and _ . -, at most 48 characters"
                )
            ],
        ),
    ],
)
def test_bad_values(path: str, body: object, problems: list[str]) -> None:
    """422 with all faults: the place, the found value and the allowed values; nothing is changed."""

    async def test() -> None:
        async with serving() as api:
            method = "POST" if path == BACKENDS else "PATCH"
            answer = await api.ask(method, path, json.dumps(body).encode())
            assert (422, {"error": "the body is not valid", "problems": problems}) == (answer.status, answer.json)
            assert api.service.done == []

    run(test())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"weight": 1', "Expecting ',' delimiter"),
        (b'{"weight": 1} {}', "Extra data"),
        (b"{'weight': 1}", "Expecting property name"),
        (b'{"weight": NaN}', "NaN is not a number of JSON; allowed: digits"),
        (b'{"weight": 1, "weight": 2}', "a key occurs twice; allowed: each key once"),
        (b'{"weight": "\xff"}', "invalid start byte"),
        (b'{"\\ud800": 1}', 'the key "\\ud800" is no text; allowed: whole characters'),
        ('{"weight": 1}'.encode("utf-16"), "invalid start byte"),
        (b"[" * 60_000, "recursion"),
        (b'{"weight": ' + b"9" * 5000 + b"}", "limit"),
    ],
)
def test_bad_json(body: bytes, message: str) -> None:
    """400 for a body that is not JSON, or that two parsers may read differently."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask("PATCH", BACKEND, body)
            assert answer.status == 400
            assert answer.error.startswith("the body is not JSON: ")
            assert message in answer.error

    run(test())


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "text/plain"}, "the content type is text/plain; allowed: application/json"),
        ({"Content-Type": ""}, "the content type is application/octet-stream; allowed: application/json"),
        (
            {"Content-Type": "application/x-www-form-urlencoded"},
            "the content type is application/x-www-form-urlencoded; allowed: application/json",
        ),
        ({"Content-Encoding": "gzip"}, "the body has a content encoding; allowed: no encoding"),
    ],
)
def test_other_content(headers: dict[str, str], message: str) -> None:
    """415 for any content type but JSON, which a form of another site can't send."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask("PATCH", BACKEND, {"weight": 1}, headers)
            assert (415, message) == (answer.status, answer.error)
            assert api.service.done == []

    run(test())


def test_the_charset_is_ignored() -> None:
    """JSON is UTF-8, with or without a charset in the content type."""

    async def test() -> None:
        async with serving() as api:
            headers = {"Content-Type": "Application/JSON; charset=utf-8"}
            assert (await api.ask("PATCH", BACKEND, {"weight": 1}, headers)).status == 200

    run(test())


def test_large_body() -> None:
    """413 before the body is read if its length is given, else when it is too long; nothing is changed."""

    async def test() -> None:
        async with serving() as api:
            large = b'{"weight": 1}' + b" " * (64 << 10)
            response = await api.ask("PATCH", BACKEND, large)
            assert (413, "the body is too large; allowed: 64 KiB") == (response.status, response.error)
            chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
            found = await api.ask("PATCH", BACKEND, sent, chunked)
            assert (413, "the body is too large; allowed: 64 KiB") == (found.status, found.error)
            assert api.service.done == []

    run(test())


def test_largest_body() -> None:
    """64 KiB are allowed, and a body may come in chunks."""

    async def test() -> None:
        async with serving() as api:
            body = b'{"weight": 1}'.ljust(64 << 10)
            assert (await api.ask("PATCH", BACKEND, body)).status == 200
            chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            assert (await api.ask("PATCH", BACKEND, sent, chunked)).status == 200

    run(test())


async def _change_in_progress(api: RunningApi) -> tuple[asyncio.Task[Answer], asyncio.Event]:
    """Start a change that waits; return its task, and the event that it waits for."""
    api.service.hold = asyncio.Event()
    asked = asyncio.ensure_future(api.ask("PATCH", BACKEND, {"weight": 9}))
    await api.service.begun.wait()
    return asked, api.service.hold


def test_a_change_is_finished_without_its_client() -> None:
    """A change is finished even if its client disconnects."""

    async def test() -> None:
        async with serving() as api:
            api.service.hold = asyncio.Event()
            streams = await api.connect()
            body = b'{"weight": 9}'
            headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
            streams[1].write(head("PATCH", BACKEND, {**BEARER, **headers}) + body)
            await streams[1].drain()
            await api.service.begun.wait()
            (connection,) = api.connections
            await hang_up(streams)
            await connection.lost.wait()

            api.service.hold.set()
            await api.service.ended.wait()
            assert ["change dns/ns1 None 9"] == api.service.done

    run(test())


def test_stop_waits_for_a_change() -> None:
    """A running request is answered before the server stops, and new requests are refused."""

    async def test() -> None:
        async with serving() as api:
            asked, hold = await _change_in_progress(api)
            stopping = asyncio.ensure_future(api.server.stop())
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await api.connect()
            hold.set()
            assert (await asked).json["weight"] == 9
            await stopping

    run(test())


def test_stop_has_a_time_limit() -> None:
    """A change that never ends does not prevent the server from stopping."""

    async def test() -> None:
        async with serving(limits=Limits(stop_seconds=0.1)) as api:
            asked, hold = await _change_in_progress(api)
            async with asyncio.timeout(30):
                await api.server.stop()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asked
            hold.set()

    run(test())
