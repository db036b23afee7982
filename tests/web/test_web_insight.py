"""What happened and why: the last events, changes of the rules, the explanation of a packet, notices, and previews."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fake_service import NOON, FakeService, two_pools
from web_server import RunningApi, head, run, serving, until

from nftlb.model import EventKind
from nftlb.service import Event, History, Notices, RulesetChanges
from nftlb.web import Limits

EXPLAIN = "/api/v1/explain"
BACKEND = "/api/v1/pools/dns/backends/ns1"
FIRST = int(NOON.timestamp() * 1000)


def with_events(count: int) -> FakeService:
    """A service that has kept events: every second one is about ns1."""
    service = two_pools()
    for number in range(count):
        at, backend = NOON + timedelta(seconds=number), f"ns{1 + number % 2}"
        service.kept.add(Event(kind=EventKind.BACKEND_DOWN, at=at, pool="dns", backend=backend))
    return service


def test_history() -> None:
    """The newest events come first, a hundred by default; a client reads further back by the last id."""

    async def test() -> None:
        async with serving(with_events(150)) as api:
            first = History.model_validate_json((await api.get("/api/v1/history")).body).events
            assert list(range(149, 49, -1)) == [(event.id - FIRST) // 1000 for event in first]
            path = f"/api/v1/history?before={first[-1].id}&limit=1000"
            rest = History.model_validate_json((await api.get(path)).body).events
            assert list(range(49, -1, -1)) == [(event.id - FIRST) // 1000 for event in rest]
            one = await api.get("/api/v1/history?pool=dns&backend=ns1&kind=backend_down&limit=2")
            assert ["ns1", "ns1"] == [event["backend"] for event in one.json["events"]]
            assert [] == (await api.get("/api/v1/history?kind=swap")).json["events"]
            assert [] == (await api.get("/api/v1/history?pool=%00%F0%9F%98%80")).json["events"]

    run(test())


@pytest.mark.parametrize(
    ("query", "field", "error"),
    [
        ("limit=0", "limit", "limit is not a number of events; allowed: 1 to 1000"),
        ("limit=1001", "limit", "limit is not a number of events; allowed: 1 to 1000"),
        (f"limit={'9' * 5000}", "limit", "limit is not a number of events; allowed: 1 to 1000"),
        ("before=-1", "before", "before is not the id of an event; allowed: 0 to 9007199254740991"),
        ("kind=backend", "kind", "kind: backend is not a kind of event; allowed: backend_up, "),
        ("pol=dns", "pol", "unknown in the query: pol; allowed: pool, backend, kind, limit, before"),
        (f"{'x' * 5000}=1", "x" * 60, f"unknown in the query: {'x' * 57}...; allowed: "),
        ("pool=a&pool=b", "pool", "pool is given more than once; allowed: once"),
    ],
)
def test_bad_queries(query: str, field: str, error: str) -> None:
    """400 with the parameter and what is allowed, also for huge queries."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get(f"/api/v1/history?{query}")
            assert 400 == answer.status
            assert answer.error.startswith(error)
            assert [field] == [fault["path"] for fault in answer.json["faults"]]

    run(test())


def test_a_slow_reader_of_the_history() -> None:
    """Readers that do not read hold one shared body, and are closed after a while; others get their answer."""

    async def test() -> None:
        service = with_events(1000)
        for number in range(1000):
            service.kept.add(Event(kind=EventKind.FAULT, at=NOON, reason="x" * 4000, details={"number": number}))
        async with serving(service, limits=Limits(write_seconds=0.5)) as api:
            slow = [await api.connect() for _ in range(5)]
            for _, writer in slow:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(head("GET", "/api/v1/history?limit=1000", {"Host": "localhost"}))
            assert 1000 == len((await api.get("/api/v1/history?limit=1000")).json["events"])
            await until(lambda: not api.connections)

    run(test())


def test_changes_of_the_rules_and_notices() -> None:
    """Both fit their models; parameters are refused."""

    async def test() -> None:
        async with serving() as api:
            changes = RulesetChanges.model_validate_json((await api.get("/api/v1/ruleset/changes")).body)
            assert await api.service.ruleset_changes() == changes
            notices = Notices.model_validate_json((await api.get("/api/v1/notices")).body)
            assert await api.service.notices() == notices
            for path in ("ruleset/changes", "notices"):
                assert 400 == (await api.get(f"/api/v1/{path}?a=1")).status

    run(test())


def test_explain() -> None:
    """The parameters are read as the command reads them."""

    async def test() -> None:
        async with serving() as api:
            path = f"{EXPLAIN}?source=198.51.100.7:40000&destination=192.0.2.53:53/udp"
            expected = {"client": "198.51.100.7:40000", "service": "192.0.2.53:53", "protocol": "udp"}
            assert {**expected, "payload": None} == (await api.get(path)).json
            assert {**expected, "payload": "00ff"} == (await api.get(f"{path}&payload=00ff")).json
            assert {**expected, "payload": ""} == (await api.get(f"{path}&payload=")).json
            six = f"{EXPLAIN}?source=[2001:db8::7]:1&destination=[2001:db8::53]:53/tcp"
            assert {"service": "[2001:db8::53]:53", "protocol": "tcp"}.items() <= (await api.get(six)).json.items()

    run(test())


SOURCE = "source=198.51.100.7:40000"
DESTINATION = "destination=192.0.2.53:53/udp"


@pytest.mark.parametrize(
    ("query", "status", "field", "error"),
    [
        ("", 400, "source", "source is missing in the query"),
        (SOURCE, 400, "destination", "destination is missing in the query"),
        (f"{SOURCE}&{DESTINATION}&x=1", 400, "x", "unknown in the query: x; allowed: source, destination, payload"),
        (f"source=here&{DESTINATION}", 422, "source", "source: here is not an address with a port"),
        (f"source=1.2.3.4&{DESTINATION}", 422, "source", "source: 1.2.3.4 is not an address with a port"),
        (f"{SOURCE}&destination=192.0.2.53:53", 422, "destination", "destination: "),
        (
            f"{SOURCE}&destination=192.0.2.53:53-60/udp",
            422,
            "destination",
            "destination: 192.0.2.53:53-60/udp is",
        ),
        *(
            (f"{SOURCE}&destination={place}:53/udp", 422, "destination", f"destination: {place}:53/udp is no single")
            for place in ("*", "eth0", "[::]")
        ),
        (
            f"{SOURCE}&destination=[2001:db8::53]:53/udp",
            422,
            "source",
            "source: 198.51.100.7:40000 and",
        ),
        (f"{SOURCE}&{DESTINATION}&payload=0", 422, "payload", "payload: "),
        (f"{SOURCE}&{DESTINATION}&payload={'z' * 7000}", 422, "payload", "payload: "),
    ],
)
def test_explain_refuses(query: str, status: int, field: str, error: str) -> None:
    """The field that is wrong, what was found and what is allowed."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.get(f"{EXPLAIN}?{query}")
            assert (status, [field]) == (answer.status, [fault["path"] for fault in answer.json["faults"]])
            assert answer.error.startswith(error)
            assert len(answer.body) < 2000

    run(test())


def test_previews() -> None:
    """A preview answers with consequences, asks for no change, and needs the same rights as the change."""

    async def test() -> None:
        async with serving() as api:
            new = {"name": "ns9", "address": "10.0.0.9"}
            for method, path, body, words in (
                ("PATCH", BACKEND, {"admin": "drain", "weight": 3}, "dns/ns1: drain, weight 3"),
                ("DELETE", BACKEND, None, "dns/ns1: remove"),
                ("POST", "/api/v1/pools/dns/backends", new, "dns/ns9: add"),
            ):
                answer = await api.ask(method, f"{path}?preview=true", body)
                assert (200, {"consequences": [words]}) == (answer.status, answer.json)
                assert 401 == (await api.ask(method, f"{path}?preview=true", body, {"Authorization": ""})).status
                wrong = await api.ask(method, f"{path}?preview=yes", body)
                assert (400, "preview is yes; allowed: true, false") == (wrong.status, wrong.error)
                assert 404 == (await api.ask(method, f"{path.replace('dns', 'none')}?preview=true", body)).status
            assert [] == api.service.done
            assert 200 == (await api.ask("PATCH", f"{BACKEND}?preview=false", {"weight": 3})).status
            assert ["change dns/ns1 None 3"] == api.service.done

    run(test())


async def listen(api: RunningApi, query: str = "", last: str = "") -> list[str]:
    """The ids that a listener gets at once, and that of one event that follows."""
    streams = await api.connect()
    streams[1].write(head("GET", f"/api/v1/events{query}", {"Host": "localhost", "Last-Event-ID": last}))
    await streams[0].readuntil(b"retry: 2000\n\n\r\n")
    api.service.emit(Event(id=1, kind=EventKind.SWAP, at=NOON))
    ids: list[str] = []
    while ids[-1:] != ["1"]:
        line = (await streams[0].readline()).decode()
        if line.startswith("id: "):
            ids.append(line.removeprefix("id: ").strip())
    streams[1].close()
    return ids


def test_a_stream_continues() -> None:
    """A stream begins with the kept events after an id, from the query or the header; other headers are ignored."""

    async def test() -> None:
        async with serving(with_events(3)) as api:
            ids = [f"{event.id}" for event in api.service.kept.kept()]
            assert ["1"] == await listen(api)
            assert [*ids[1:], "1"] == await listen(api, f"?after={ids[0]}")
            assert [*ids, "1"] == await listen(api, "?after=0")
            assert [*ids[2:], "1"] == await listen(api, last=ids[1])
            # A browser repeats the header of its last event; the query is that of the first request.
            assert [*ids[2:], "1"] == await listen(api, f"?after={ids[0]}", ids[1])
            for foreign in ("2026-01-02T12:00:00+00:00", "-1", "9" * 50, "²"):
                assert ["1"] == await listen(api, last=foreign)
            assert 400 == (await api.get("/api/v1/events?after=now")).status

    run(test())
