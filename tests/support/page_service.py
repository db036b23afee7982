"""A simulated daemon behind a real HTTP server in a thread, for tests of the page. The test lets its traffic pass."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, Any

from fake_service import NOON, FakeService, a_backend, a_check, a_pool, an_overview
from servers.processes import await_that
from web_server import one_token, serving

from nftlb.model import Admin, Endpoint, EventKind, Forward
from nftlb.service import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from playwright.sync_api import Page, Route

    from nftlb.service import BackendStatus, Overview, PoolStatus
    from nftlb.web import Tokens


@dataclass
class Traffic(FakeService):
    """A service whose backends get packets when `advance` is called."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Packets per second by POOL/BACKEND; other backends get 1,000 in proportion to their share."""
    started: datetime = NOON
    dice: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - the same data each time

    async def overview(self) -> Overview:
        ready = all(pool.ready for pool in self.shown.values())
        return an_overview(ready=ready, faults=self.faults, started=self.started)

    def advance(self, seconds: float) -> None:
        """Let the traffic of some seconds pass."""
        for pool in list(self.shown.values()):
            backends = tuple(self._later(pool, backend, seconds) for backend in pool.backends)
            packets, size = (sum(getattr(backend, name) for backend in backends) for name in ("packets", "bytes"))
            self.shown[pool.name] = pool.model_copy(update={"backends": backends, "packets": packets, "bytes": size})

    def _later(self, pool: PoolStatus, backend: BackendStatus, seconds: float) -> BackendStatus:
        rate = self.rates.get(f"{pool.name}/{backend.name}", 1000 * backend.share * len(pool.backends))
        packets = int(rate * seconds * self.dice.uniform(0.85, 1.15)) if backend.in_rotation else 0
        checks = tuple(
            check.model_copy(update={"seconds": self.dice.uniform(0.0008, 0.0019)}) if check.passed else check
            for check in backend.checks
        )
        counters = {"packets": backend.packets + packets, "bytes": backend.bytes + 120 * packets}
        return backend.model_copy(update={**counters, "checks": checks})

    def change_backend(self, pool: str, name: str, **values: Any) -> None:
        """Change the status of a backend; shares stay as they are."""
        old = self.shown[pool]
        changed = [one.model_copy(update=values) if one.name == name else one for one in old.backends]
        self.put(
            old.model_copy(update={"backends": tuple(changed), "healthy": sum(one.in_rotation for one in changed)})
        )


@dataclass(frozen=True)
class Served:
    """A running server with its service."""

    url: str
    service: Traffic
    loop: asyncio.AbstractEventLoop

    def emit(self, event: Event) -> None:
        """Keep an event, with an id, and send the event to all listeners."""
        self.loop.call_soon_threadsafe(lambda: self.service.emit(self.service.kept.add(event)))

    @contextmanager
    def reloaded(self) -> Iterator[None]:
        """Inside `with`, the test loads the open page again. After `with`, the new document receives events.

        A response to the browser shows less: it may be for the document before.
        """
        await_that(lambda: bool(self.service.listeners), "the stream of the open page")
        before = [*self.service.listeners]
        yield
        await_that(lambda: any(one not in before for one in self.service.listeners), "the stream of the loaded page")


@contextmanager
def served(service: Traffic, tokens: Tokens = one_token) -> Iterator[Served]:
    """Serve the page in a thread: Playwright's event loop runs in the thread of the test."""
    found: list[Served] = []
    ready, ends = Flag(), Flag()

    async def serve() -> None:
        async with serving(service, tokens=tokens) as api:
            bound = api.server.bound
            assert isinstance(bound, Endpoint)
            found.append(Served(f"http://127.0.0.1:{bound.port}/", service, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(ends.wait)

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        ends.set()
        thread.join()


def many_pools(pools: int = 200, backends: int = 10) -> Traffic:
    """A large installation in which all is well."""
    service = Traffic()
    for number in range(pools):
        members = [
            a_backend(f"b{one}", address=f"10.{number}.0.{one + 1}", share=1 / backends, packets=1000, bytes=120000)
            for one in range(backends)
        ]
        service.put(a_pool(f"pool-{number:03}", *members, listen=(f"192.0.2.{number}:53/udp",)))
    return service


def showcase(now: datetime = NOON, kind: type[Traffic] = Traffic) -> Traffic:
    """Pools in the states that operators see: healthy, without a backend, drained, and not ready."""
    service = kind(
        started=now - timedelta(days=12),
        rates={
            "dns/ns1": 21400,
            "dns/ns2": 21350,
            "dns/ns3": 0,
            "dns/ns4": 42700,
            "syslog/log1": 3100,
            "syslog/log2": 0,
        }
        | {f"netflow/flow{number}": 5200 for number in (1, 2, 3)}
        | {"radius/aaa1": 310, "radius/aaa2": 305},
    )
    refused = a_check(up=False, passed=False, reason="no answer within 1s", seconds=1.0)
    lost = now - timedelta(minutes=4)
    down: dict[str, Any] = {"up": False, "in_rotation": False, "share": 0.0, "checks": (refused,), "since": lost}
    well: dict[str, Any] = {"since": now - timedelta(hours=31), "reason": "noerror in 1.1 ms"}
    counted: dict[str, Any] = {**well, "requests": 9, "replies": 9}
    service.put(
        a_pool(
            "dns",
            a_backend("ns1", address="10.0.0.11", share=0.25, answered=0.999, **counted),
            a_backend("ns2", address="10.0.0.12", share=0.25, answered=0.998, **counted),
            a_backend("ns3", address="10.0.0.13", reason="no answer within 1s, 3 times in a row", **down),
            a_backend("ns4", address="10.0.0.14", share=0.5, weight=2, answered=1.0, **counted),
            listen=("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"),
            since=service.started,
        ),
        a_pool(
            "syslog",
            a_backend("log1", address="10.0.1.11", port=514, share=1.0, **well),
            a_backend("log2", address="10.0.1.12", port=514, share=0.0, admin=Admin.DRAIN, in_rotation=False, **well),
            listen=("192.0.2.14:514/udp",),
            healthy=1,
            since=service.started,
        ),
        a_pool(
            "netflow",
            *(a_backend(f"flow{n}", address=f"10.0.2.{n}", port=2055, share=1 / 3, **well) for n in (1, 2, 3)),
            listen=("192.0.2.20:2055/udp",),
            forward=Forward.STATELESS,
            since=service.started,
        ),
        a_pool(
            "radius",
            a_backend("aaa1", address="10.0.3.1", port=1812, share=0.5, **well),
            a_backend("aaa2", address="10.0.3.2", port=1812, share=0.5, **well),
            listen=("192.0.2.12:1812-1813/udp", "eth0:1812/udp", "[::]:1812/udp"),
            since=service.started,
        ),
        a_pool(
            "tftp",
            a_backend("boot1", address="10.0.4.1", port=69, **down, reason="ICMP: port unreachable"),
            listen=("192.0.2.69:69/udp",),
            since=lost,
        ),
    )
    return service


def kept_events(now: datetime = NOON) -> list[dict[str, Any]]:
    """A history as `GET /api/v1/history` gives it, newest first."""
    told: list[tuple[int, dict[str, Any]]] = [
        (4, {"kind": EventKind.SWAP, "details": {"seconds": 0.0021, "changes": 2}}),
        (
            4,
            {"kind": EventKind.BACKEND_DOWN, "pool": "dns", "backend": "ns3", **_DOWN, "reason": "no answer within 1s"},
        ),
        (4, {"kind": EventKind.QUORUM_DOWN, "pool": "tftp", "reason": "0 of 1 backends are usable"}),
        (
            4,
            {"kind": EventKind.BACKEND_DOWN, "pool": "tftp", "backend": "boot1", **_DOWN, "reason": "port unreachable"},
        ),
        (61, {"kind": EventKind.BACKEND_CHANGED, "pool": "syslog", "backend": "log2", "details": _DRAINED}),
        (310, {"kind": EventKind.BACKEND_UP, "pool": "dns", "backend": "ns1", "old": "down", "new": "up"}),
        (311, {"kind": EventKind.BACKEND_DOWN, "pool": "dns", "backend": "ns1", **_DOWN, "reason": "refused"}),
        (2900, {"kind": EventKind.RELOAD, "details": {"pools": 5}}),
    ]
    return [
        {**Event(at=now - timedelta(minutes=minutes), **values).model_dump(mode="json"), "id": len(told) - place}
        for place, (minutes, values) in enumerate(told)
    ]


_DOWN = {"old": "up", "new": "down"}
_DRAINED = {"who": "anna", "from": "192.0.2.200", "what": "drain", "result": "done"}


def kept_changes(now: datetime = NOON) -> dict[str, Any]:
    """Changes of the rules as `GET /api/v1/ruleset/changes` gives them, newest first."""
    lines = [
        "@@ table ip nftlb: map dns @@",
        "- map dns-v7 { 0 : goto ns1, 1 : goto ns4, 2 : goto ns3 }",
        "+ map dns-v8 { 0 : goto ns1, 1 : goto ns4 }",
    ]
    return {
        "changes": [
            {"at": now.isoformat(), "reason": "dns/ns3: down, was up", "events": [7], "lines": lines, "cut": False}
        ]
    }


def notices() -> dict[str, Any]:
    """What `GET /api/v1/notices` gives."""
    fix = "sysctl -w net.netfilter.nf_conntrack_max=1048576"
    found = {"subject": "conntrack", "severity": "warning", "message": "the table has room for 65,536 entries only"}
    well = {"subject": "ip_forward", "severity": "ok", "message": "packets are forwarded", "fix": []}
    return {"at": NOON.isoformat(), "findings": [{**found, "fix": [fix]}, well]}


def explanation() -> dict[str, Any]:
    """What `nftlb explain --json` prints for a packet of the pool dns."""
    client, service = "198.51.100.7:40000", "192.0.2.53:53"

    def candidate(name: str, server: str, weight: int, slots: int, zone: int) -> dict[str, Any]:
        request = {"before": [client, service], "after": ["10.0.0.1:40000", server]}
        reply = {"before": [server, "10.0.0.1:40000"], "after": [service, client]}
        known = {"name": name, "address": server, "weight": weight, "slots": slots, "zone": zone, "mark": None}
        return {**known, "state": "in" if slots else "down", "request": request, "reply": reply}

    members = [
        candidate("ns1", "10.0.0.11:5353", 1, 1, 1),
        candidate("ns2", "10.0.0.12:5353", 1, 1, 2),
        candidate("ns3", "10.0.0.13:5353", 0, 0, 3),
        candidate("ns4", "10.0.0.14:5353", 2, 2, 4),
    ]
    pool = {"pool": "dns", "listener": f"{service}/udp", "forward": "nat", "balance": "round-robin", "per": "packet"}
    asked: dict[str, Any] = {"client": client, "service": service, "protocol": "udp", "reason": None, "near": []}
    nothing = dict.fromkeys(("verdict", "slot", "target", "decided_by"))
    decided = {"why": "healthy", "priority": 1, "fast_path": False, "slots": ["ns1", "ns4", "ns2", "ns4"]}
    remarks = {"replies": "pass the balancer, which gives them the address of the service"}
    return {**asked, **pool, **nothing, **decided, "candidates": members, "remarks": remarks}


def answer(page: Page, path: str, document: object, status: int = 200) -> None:
    """Answer the requests of the page for a path with this document, in place of the daemon."""

    def fulfil(route: Route) -> None:
        route.fulfill(status=status, content_type="application/json", body=json.dumps(document))

    page.route(f"**/{path}*", fulfil)
