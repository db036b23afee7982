"""A daemon that balances nothing: the service that the HTTP API is tested with. Its names and values are real ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nftlb.errors import ConfigError, Problem
from nftlb.model import Admin, Balance, Forward, Per
from nftlb.model.reading import Unfit, read_address
from nftlb.service import (
    BackendStatus,
    CheckStatus,
    ConfigStatus,
    Conflict,
    Event,
    Fault,
    KernelStatus,
    Overview,
    PoolStatus,
    Short,
    UnknownBackend,
    UnknownPool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def a_check(**told: Any) -> CheckStatus:
    usual = {"kind": "dns", "up": True, "passed": True, "pending": 0, "needed": 3, "reason": "noerror in 1.2 ms"}
    return CheckStatus(**{**usual, "seconds": 0.0012, "at": NOON, **told})


def a_backend(name: str, **told: Any) -> BackendStatus:
    usual = {
        "name": name,
        "address": "10.0.0.11",
        "port": 5353,
        "up": True,
        "admin": Admin.ENABLED,
        "agent": None,
        "weight": 1,
        "share": 0.5,
        "in_rotation": True,
        "since": NOON,
        "reason": "noerror in 1.2 ms",
        "added": False,
        "packets": 0,
        "bytes": 0,
        "checks": (a_check(),),
    }
    return BackendStatus(**{**usual, **told})


def a_pool(name: str, *backends: BackendStatus, **told: Any) -> PoolStatus:
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
        "since": NOON,
        "packets": sum(backend.packets for backend in backends),
        "bytes": sum(backend.bytes for backend in backends),
        "backends": backends,
    }
    return PoolStatus(**{**usual, **told})


def an_overview(**told: Any) -> Overview:
    usual = {
        "version": "0.1.0",
        "pid": 4711,
        "started": NOON,
        "ready": True,
        "config": ConfigStatus(file="/etc/nftlb.yaml", success=True, loaded=NOON, attempted=NOON, problems=()),
        "kernel": KernelStatus(synced=True, error="", swaps=7, failures=0, restored=0, last_swap=NOON),
        "faults": (),
    }
    return Overview(**{**usual, **told})


@dataclass
class FakeService:
    """Pools as they are told to it; `error`, if set, is what every change comes to, and every look at the state."""

    shown: dict[str, PoolStatus] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    error: Exception | None = None
    hold: asyncio.Event | None = None
    """Changes wait for it."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a change begins, and when its wait is over."""
    done: list[str] = field(default_factory=list)
    listeners: list[asyncio.Queue[Event | None]] = field(default_factory=list)

    def put(self, *pools: PoolStatus) -> None:
        self.shown |= {pool.name: pool for pool in pools}

    def tell(self, event: Event | None) -> None:
        """Have an event happen; None ends the stream of events."""
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
            return all(one.ready for one in self.shown.values())
        if pool not in self.shown:
            raise UnknownPool(f"no pool is named {pool}")
        return self.shown[pool].ready

    async def ruleset(self) -> str:
        return "table ip nftlb {\n}\n"

    async def change(
        self, pool: str, backend: str, *, admin: Admin | None = None, weight: int | None = None
    ) -> BackendStatus:
        await self._work(f"change {pool}/{backend} {admin} {weight}")
        changed: dict[str, Any] = {"admin": admin, "weight": weight}
        old = await self._backend(pool, backend)
        new = old.model_copy(update={key: value for key, value in changed.items() if value is not None})
        self._set(pool, [new if one is old else one for one in self.shown[pool].backends])
        return new

    async def add(self, pool: str, name: str, written: Any) -> BackendStatus:
        await self._work(f"add {pool}/{name} {written}")
        if any(one.name == name for one in (await self.pool(pool)).backends):
            raise Conflict(f"{pool} has a backend {name} already")
        try:
            address = read_address(written["address"])
        except Unfit as unfit:
            raise ConfigError([Problem("", 0, 0, "address", str(unfit))]) from None
        shown = {key: value for key, value in written.items() if key in BackendStatus.model_fields}
        new = a_backend(name, **{**shown, "address": str(address), "added": True})
        self._set(pool, [*self.shown[pool].backends, new])
        return new

    async def remove(self, pool: str, backend: str) -> None:
        await self._work(f"remove {pool}/{backend}")
        old = await self._backend(pool, backend)
        if len(self.shown[pool].backends) == 1:
            raise Conflict(f"{backend} is the last backend of {pool}")
        self._set(pool, [one for one in self.shown[pool].backends if one is not old])

    async def reload(self) -> None:
        await self._work("reload")

    async def events(self) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
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
    """Make a service with a pool that is well, and one without its quorum."""
    service = FakeService()
    service.put(
        a_pool("dns", a_backend("ns1", packets=3, bytes=300), a_backend("ns2", packets=4, bytes=400)),
        a_pool("syslog", a_backend("log1", up=False, in_rotation=False, share=0, reason="timeout after 1 s")),
    )
    return service
