"""A simulated service for tests of the HTTP API, with realistic names and values and without a kernel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nftlb.config import write_backend
from nftlb.daemon.history import EventHistory
from nftlb.model import (
    EVERY_BACKEND,
    Admin,
    Backend,
    BackendChange,
    BackendKey,
    Balance,
    Endpoint,
    EventKind,
    Forward,
    NamedBackend,
    Per,
    Protocol,
)
from nftlb.service import (
    Actor,
    BackendStatus,
    ChangedBackend,
    CheckStatus,
    ClientStatus,
    CollectorStatus,
    ConfigStatus,
    Conflict,
    Consequences,
    Event,
    Fault,
    GuardStatus,
    History,
    KernelStatus,
    NameStatus,
    Notice,
    Notices,
    Overview,
    PoolClients,
    PoolStatus,
    RulesetChange,
    RulesetChanges,
    Short,
    UnknownBackend,
    UnknownPool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def a_check(**changes: Any) -> CheckStatus:
    usual = {"kind": "dns", "up": True, "passed": True, "pending": 0, "needed": 3, "reason": "noerror in 1.2 ms"}
    return CheckStatus(**{**usual, "seconds": 0.0012, "at": NOON, **changes})


def a_backend(name: str, **changes: Any) -> BackendStatus:
    usual = {
        "name": name,
        "address": "10.0.0.11",
        "port": 5353,
        "up": True,
        "admin": Admin.ENABLED,
        "admin_since": None,
        "agent": None,
        "labels": {},
        "priority": 1,
        "weight": 1,
        "share": 0.5,
        "in_rotation": True,
        "standby": False,
        "since": NOON,
        "reason": "noerror in 1.2 ms",
        "added": False,
        "packets": 0,
        "bytes": 0,
        "copies": None,
        "requests": None,
        "replies": None,
        "answered": None,
        "checks": (a_check(),),
    }
    return BackendStatus(**{**usual, **changes})


def a_collector(name: str, **changes: Any) -> CollectorStatus:
    usual = {"name": name, "address": "10.0.9.9", "port": 9995, "one_in": 1, "up": True, "since": NOON, "reason": ""}
    return CollectorStatus(**{**usual, "packets": 0, "bytes": 0, "checks": (), **changes})


def a_name(name: str, lookup: str, **changes: Any) -> NameStatus:
    usual = {"backends": (), "answered": None, "expires": None, "trouble": "", "left_out": ()}
    return NameStatus(name=name, lookup=lookup, **{**usual, **changes})


def a_pool(name: str, *backends: BackendStatus, **changes: Any) -> PoolStatus:
    healthy = sum(backend.up for backend in backends)
    usual = {
        "name": name,
        "listen": ("192.0.2.53:53/udp",),
        "forward": Forward.NAT,
        "balance": Balance.ROUND_ROBIN,
        "per": Per.PACKET,
        "ready": healthy > 0,
        "quorum": 1,
        "healthy": healthy,
        "mode": "healthy" if healthy else "fallback",
        "priority": 1 if healthy else None,
        "min_healthy": "1",
        "preempts_at": None,
        "since": NOON,
        "packets": sum(backend.packets for backend in backends),
        "bytes": sum(backend.bytes for backend in backends),
        "backends": backends,
    }
    return PoolStatus(**{**usual, **changes})


def an_overview(**changes: Any) -> Overview:
    usual = {
        "host": "lb1",
        "version": "0.1.0",
        "pid": 4711,
        "started": NOON,
        "ready": True,
        "config": ConfigStatus(file="/etc/nftlb.yaml", success=True, loaded=NOON, attempted=NOON, problems=()),
        "kernel": KernelStatus(synced=True, error="", swaps=7, failures=0, restored=0, last_swap=NOON),
        "faults": (),
    }
    return Overview(**{**usual, **changes})


@dataclass
class FakeService:
    """A service with the pools of a test. Each change and each read of the pools raises `error`, if it is set."""

    shown: dict[str, PoolStatus] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    losses: tuple[str, ...] = ()
    """What a reload would lead to."""
    error: Exception | None = None
    hold: asyncio.Event | None = None
    """Changes wait until this event is set."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a change begins, and when it no longer waits."""
    done: list[str] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    """Who asked for each change."""
    kept: EventHistory = field(default_factory=EventHistory)
    listeners: list[asyncio.Queue[Event | None]] = field(default_factory=list)

    def put(self, *pools: PoolStatus) -> None:
        self.shown |= {pool.name: pool for pool in pools}

    def emit(self, event: Event | None) -> None:
        """Send an event to all subscribers; None ends their streams."""
        for listener in self.listeners:
            listener.put_nowait(event)

    async def overview(self) -> Overview:
        return an_overview(ready=self.ready(), faults=self.faults)

    async def pools(self) -> AsyncIterator[PoolStatus]:
        if self.error:
            raise self.error
        for pool in self.shown.values():
            yield pool

    def short(self) -> list[Short]:
        pools = [pool for pool in self.shown.values() if not pool.ready]
        return [Short(pool.name, pool.lacking, pool.healthy, pool.quorum) for pool in pools]

    async def pool(self, name: str) -> PoolStatus:
        if name not in self.shown:
            raise UnknownPool(f"no pool is named {name}; there are: {', '.join(self.shown)}")
        return self.shown[name]

    def ready(self, pool: str | None = None) -> bool:
        if pool is None:
            return all(pool.ready for pool in self.shown.values())
        if pool not in self.shown:
            raise UnknownPool(f"no pool is named {pool}")
        return self.shown[pool].ready

    async def clients(self, pool: str, most: int) -> PoolClients:
        if (await self.pool(pool)).guard is None:
            raise Conflict(f"pool {pool} does not count clients")
        sources = (("198.51.100.7", 900, 54000, 300, 12.5), ("2001:db8:7::/64", 20, 1200, 0, None))
        fields = ("source", "packets", "bytes", "dropped", "banned")
        found = tuple(ClientStatus(**dict(zip(fields, values, strict=True))) for values in sources)
        return PoolClients(pool=pool, known=len(found), clients=found[:most])

    async def ruleset(self) -> str:
        return "table ip nftlb {\n}\n"

    async def ruleset_changes(self) -> RulesetChanges:
        lines = ("@@ table ip nftlb: chain dns @@", "- numgen inc mod 2", "+ numgen inc mod 1")
        change = RulesetChange(at=NOON, reason="dns/ns1: down, was up: timeout", events=(5,), lines=lines, cut=False)
        return RulesetChanges(changes=(change,))

    async def explain(
        self, client: Endpoint, service: Endpoint, transport: Protocol, payload: bytes | None
    ) -> dict[str, Any]:
        found = {"client": str(client), "service": str(service), "protocol": str(transport)}
        return {**found, "payload": None if payload is None else payload.hex()}

    async def notices(self) -> Notices:
        message = "this host does not forward IPv4 packets"
        fix = ("sysctl -w net.ipv4.ip_forward=1",)
        return Notices(at=NOON, findings=(Notice(subject="forwarding", severity="error", message=message, fix=fix),))

    def history(
        self, *, pool: str | None, backend: str | None, kind: EventKind | None, before: int | None, limit: int
    ) -> History:
        found = self.kept.find(pool=pool, backend=backend, kind=kind, before=before, limit=limit)
        return History(events=found)

    async def preview_change(self, pool: str, backend: str, change: BackendChange) -> Consequences:
        await self._backend(pool, backend)
        return Consequences(consequences=(f"{pool}/{backend}: {change}",))

    async def meant(self, backends: Sequence[BackendKey]) -> list[BackendKey]:
        found = []
        for key in backends:
            every = [backend.name for backend in (await self.pool(key.pool)).backends]
            found += [BackendKey(key.pool, name) for name in (every if key.backend == EVERY_BACKEND else [key.backend])]
        return found

    async def preview_change_backends(self, backends: Sequence[BackendKey], change: BackendChange) -> Consequences:
        previews = [await self.preview_change(*backend, change) for backend in await self.meant(backends)]
        return Consequences(consequences=tuple(line for preview in previews for line in preview.consequences))

    async def preview_add(self, pool: str, backend: Backend | NamedBackend) -> Consequences:
        await self.pool(pool)
        return Consequences(consequences=(f"{pool}/{backend.name}: add",))

    async def preview_remove(self, pool: str, backend: str) -> Consequences:
        await self._backend(pool, backend)
        return Consequences(consequences=(f"{pool}/{backend}: remove",))

    async def change(self, pool: str, backend: str, change: BackendChange, by: Actor) -> BackendStatus:
        self.actors.append(by)
        await self._work(f"change {pool}/{backend} {change.admin} {change.weight}")
        changed: dict[str, Any] = change._asdict()
        old = await self._backend(pool, backend)
        new = old.model_copy(update={key: value for key, value in changed.items() if value is not None})
        self._set(pool, [new if shown is old else shown for shown in self.shown[pool].backends])
        return new

    async def change_backends(
        self, backends: Sequence[BackendKey], change: BackendChange, by: Actor
    ) -> list[ChangedBackend]:
        meant = await self.meant(backends)
        for backend in meant:
            await self._backend(*backend)
        return [ChangedBackend(**dict(await self.change(*backend, change, by)), pool=backend.pool) for backend in meant]

    async def add(self, pool: str, backend: Backend | NamedBackend, by: Actor) -> BackendStatus | NameStatus:
        self.actors.append(by)
        name = backend.name
        await self._work(f"add {pool}/{name} {write_backend(backend)}")
        if any(shown.name == name for shown in (await self.pool(pool)).backends):
            raise Conflict(f"{pool} has a backend {name} already")
        if isinstance(backend, NamedBackend):
            return a_name(name, str(backend.lookup))
        shown = {"port": backend.port, "weight": backend.weight, "admin": backend.admin, "labels": dict(backend.labels)}
        new = a_backend(name, **shown, address=str(backend.address), added=True)
        self._set(pool, [*self.shown[pool].backends, new])
        return new

    async def remove(self, pool: str, backend: str, by: Actor) -> None:
        self.actors.append(by)
        await self._work(f"remove {pool}/{backend}")
        old = await self._backend(pool, backend)
        if len(self.shown[pool].backends) == 1:
            raise Conflict(f"{backend} is the last backend of {pool}")
        self._set(pool, [shown for shown in self.shown[pool].backends if shown is not old])

    async def preview_reload(self) -> Consequences:
        return Consequences(consequences=self.losses)

    async def reload(self, by: Actor) -> None:
        self.actors.append(by)
        await self._work("reload")

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        for kept in () if after is None else self.kept.after(after):
            queue.put_nowait(kept)
        self.listeners.append(queue)
        try:
            while event := await queue.get():
                yield event
        finally:
            self.listeners.remove(queue)

    async def _work(self, what: str) -> None:
        self.begun.set()
        if self.hold:
            await self.hold.wait()
        self.done.append(what)
        self.ended.set()
        if self.error:
            raise self.error

    async def _backend(self, pool: str, name: str) -> BackendStatus:
        for backend in (await self.pool(pool)).backends:
            if backend.name == name:
                return backend
        raise UnknownBackend(f"{pool} has no backend {name}")

    def _set(self, pool: str, backends: list[BackendStatus]) -> None:
        self.put(self.shown[pool].model_copy(update={"backends": tuple(backends)}))


def two_pools() -> FakeService:
    """Return a service with a healthy pool, and a pool without its quorum."""
    service = FakeService()
    service.put(
        a_pool(
            "dns",
            a_backend("ns1", packets=3, bytes=300),
            a_backend("ns2", packets=4, bytes=400),
            guard=GuardStatus(rate=1, banned=2, denied=0, full=0),
        ),
        a_pool("syslog", a_backend("log1", up=False, in_rotation=False, share=0, reason="timeout after 1 s")),
    )
    return service
