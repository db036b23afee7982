"""The daemon as its API sees it: `nftlb.service.Service` on top of the controller, with the status of pools."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nftlb.compiler.reply_form import reply_form
from nftlb.compiler.selection import select
from nftlb.explain import Question, as_data, explain_packet
from nftlb.health.absent import is_of
from nftlb.model import BackendKey, DropReason, Family, Forward, NamedBackend, RotationMode, by_pool
from nftlb.service import (
    BackendStatus,
    ChangedBackend,
    CheckStatus,
    ClientStatus,
    CollectorStatus,
    Conflict,
    Consequences,
    GuardStatus,
    History,
    Overview,
    PoolClients,
    PoolStatus,
    Short,
)

from .audit import audited
from .events import now, wall
from .notices import NoticeBoard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence

    from nftlb.compiler.reply_form import Obstacles
    from nftlb.compiler.selection import Selection
    from nftlb.health import BackendHealth, CheckHealth, PoolHealth
    from nftlb.model import Backend, BackendChange, Collector, Endpoint, EventKind, Pool, PoolState, Protocol
    from nftlb.service import Actor, Event, NameStatus, Notices, RulesetChanges
    from nftlb.swap.applier import Accepted

    from .controller import Controller
    from .counters import CounterReader, Counters
    from .events import ActiveFaults, Bus
    from .kernel_thread import KernelThread
    from .reconciler import Wanted
    from .swap_recorder import SwapRecorder


class DaemonService:
    """Implements `nftlb.service.Service`, whose docstrings describe the methods."""

    def __init__(
        self,
        controller: Controller,
        kernel_thread: KernelThread,
        counter_reader: CounterReader,
        *,
        recorder: SwapRecorder,
        bus: Bus,
        faults: ActiveFaults,
    ) -> None:
        self._controller = controller
        self._state = controller.state
        self._reconciler = controller.reconciler
        self._kernel_thread = kernel_thread
        self._counter_reader = counter_reader
        self._recorder = recorder
        self._bus = bus
        self._faults = faults
        self._started = wall()
        self._version = version("nftlb")  # read from the disk, so only once
        # One thread for what readers ask for: reloads and checks use the threads of the event loop, and must not wait.
        self._thread = ThreadPoolExecutor(1, "insight")
        self._notices = NoticeBoard(lambda: self._state.config, self._thread)

    async def overview(self) -> Overview:
        return Overview.of(
            host=socket.gethostname(),
            version=self._version,
            pid=os.getpid(),
            started=self._started,
            ready=self.ready(),
            config=self._controller.config_status(),
            kernel=self._recorder.status(self._reconciler),
            faults=self._faults.all(),
        )

    async def pools(self) -> AsyncIterator[PoolStatus]:
        await self._counter_reader.refresh()
        membership = self._state.health.membership(now())
        # A reload may replace the pools while this generator waits.
        for pool, added in [(pool, self._state.added(pool)) for pool in self._state.health.pools.values()]:
            yield pool_status(
                pool,
                membership.of(pool.pool.name),
                self._counter_reader.counters,
                added,
                self._obstacles,
                self._state.names.status(pool),
            )
            await asyncio.sleep(0)  # ten thousand backends take a while, in which checks have to begin

    async def pool(self, name: str) -> PoolStatus:
        self._state.find(name)
        await self._counter_reader.refresh()
        pool = self._state.find(name)
        state = self._state.health.state(name, now())
        counters, names = self._counter_reader.counters, self._state.names.status(pool)
        return pool_status(pool, state, counters, self._state.added(pool), self._obstacles, names)

    async def clients(self, pool: str, most: int) -> PoolClients:
        found = self._state.find(pool).pool
        if found.guard is None or not found.guard.clients:
            raise Conflict(f"pool {pool} does not count clients; set `clients: true` in its guard")
        counts = await self._kernel_thread.read(lambda applier: applier.sources(found, most))
        clients = (
            ClientStatus(
                source=client.source,
                packets=client.arrived.packets,
                bytes=client.arrived.bytes,
                dropped=client.dropped.packets,
                banned=None if client.banned is None else round(client.banned, 1),
            )
            for client in counts.most
        )
        return PoolClients(pool=pool, known=counts.known, clients=tuple(clients))

    @property
    def _obstacles(self) -> Obstacles:
        """What the compiler got about this host for the rules in the kernel."""
        accepted = self._kernel_thread.accepted
        return {} if accepted is None else accepted.compiled.obstacles

    def short(self) -> list[Short]:
        pools = self._state.health.pools.items()
        # The values that were reported last: to compute ten thousand backends again would delay checks.
        counted = [
            (name, pool, sum(backend.counted for backend in pool.backends.values()))
            for name, pool in pools
            if not pool.ready
        ]
        return [Short(name, pool.lacking, healthy, pool.pool.quorum) for name, pool, healthy in counted]

    def ready(self, pool: str | None = None) -> bool:
        if pool is not None:
            return self._state.find(pool).ready and self._reconciler.serving
        return self._reconciler.serving and all(state.ready for state in self._state.health.pools.values())

    async def ruleset(self) -> str:
        return await self._kernel_thread.text()

    async def ruleset_changes(self) -> RulesetChanges:
        return await self._recorder.changes.changes()

    async def explain(
        self, client: Endpoint, service: Endpoint, transport: Protocol, payload: bytes | None
    ) -> dict[str, Any]:
        wanted, accepted = self._state.wanted(), self._kernel_thread.accepted
        question = Question(client, service, transport, payload)
        # With ten thousand backends this takes a second, in which checks have to begin.
        return await asyncio.get_running_loop().run_in_executor(self._thread, _explain, wanted, accepted, question)

    async def notices(self) -> Notices:
        return await self._notices.notices()

    def history(
        self, *, pool: str | None, backend: str | None, kind: EventKind | None, before: int | None, limit: int
    ) -> History:
        found = self._bus.history.find(pool=pool, backend=backend, kind=kind, before=before, limit=limit)
        return History(events=found)

    async def preview_change(self, pool: str, backend: str, change: BackendChange) -> Consequences:
        return Consequences(consequences=self._controller.preview_change([BackendKey(pool, backend)], change))

    async def preview_change_backends(self, backends: Sequence[BackendKey], change: BackendChange) -> Consequences:
        return Consequences(consequences=self._controller.preview_change(self._controller.meant(backends), change))

    async def preview_add(self, pool: str, backend: Backend | NamedBackend) -> Consequences:
        return Consequences(consequences=await self._controller.preview_add(pool, backend))

    async def preview_remove(self, pool: str, backend: str) -> Consequences:
        return Consequences(consequences=await self._controller.preview_remove(pool, backend))

    async def change(self, pool: str, backend: str, change: BackendChange, by: Actor) -> BackendStatus | NameStatus:
        keys = [BackendKey(pool, backend)]
        with audited(self._bus, by, str(change), keys):
            await self._controller.change(keys, change)
        for status in (await self._still_present(keys)).values():
            return status
        if (found := self._state.health.pools.get(pool)) is not None:
            for named, name in zip(found.pool.named, self._state.names.status(found), strict=True):
                if is_of(named, backend):
                    return name
        raise Conflict(f"{backend} was changed, and is no backend of {pool} any more: a reload removed it")

    async def change_backends(
        self, backends: Sequence[BackendKey], change: BackendChange, by: Actor
    ) -> list[ChangedBackend]:
        keys = list(backends)
        with audited(self._bus, by, str(change), keys):
            keys[:] = self._controller.meant(keys)  # the event names each backend, unless the request is refused here
            await self._controller.change(keys, change)
        changed = await self._still_present(keys)
        return [ChangedBackend.of(**dict(changed[key]), pool=key.pool) for key in keys if key in changed]

    async def _still_present(self, keys: Iterable[BackendKey]) -> dict[BackendKey, BackendStatus]:
        """The status of each of these backends that its pool still has.

        While the kernel gets a change, an answer of DNS or a reload may remove backends, or whole pools.
        """
        found: dict[BackendKey, BackendStatus] = {}
        for pool, names in by_pool(keys).items():
            pools = self._state.health.pools
            if present := [name for name in names if pool in pools and name in pools[pool].backends]:
                found |= {BackendKey(pool, status.name): status for status in self._backends(pool, present)}
            await asyncio.sleep(0)  # as in `pools`
        return found

    async def add(self, pool: str, backend: Backend | NamedBackend, by: Actor) -> BackendStatus | NameStatus:
        with audited(self._bus, by, "add", [BackendKey(pool, backend.name)]):
            await self._controller.add(pool, backend)
        if isinstance(backend, NamedBackend):
            names = self._state.names.status(self._state.find(pool))
            return next(status for status in names if status.name == backend.name)
        (status,) = self._backends(pool, [backend.name])
        return status

    async def remove(self, pool: str, backend: str, by: Actor) -> None:
        with audited(self._bus, by, "remove", [BackendKey(pool, backend)]):
            await self._controller.remove(pool, backend)

    async def preview_reload(self) -> Consequences:
        return Consequences(consequences=await self._controller.preview_reload())

    async def reload(self, by: Actor) -> None:
        with audited(self._bus, by, "reload"):
            await self._controller.reload()

    def events(self, after: int | None = None) -> AsyncIterator[Event]:
        return self._bus.events(after)

    def _backends(self, pool: str, names: Iterable[str]) -> list[BackendStatus]:
        """The status of each of these backends of a pool. Raises UnknownPool, UnknownBackend."""
        for name in names:
            self._state.find(pool, name)
        found, state = self._state.find(pool), self._state.health.state(pool, now())
        return backend_statuses(found, names, state, self._counter_reader.counters, self._state.added(found))


def _explain(wanted: Wanted, accepted: Accepted | None, question: Question) -> dict[str, Any]:
    """Explain a packet, with the numbers and routes of the rules in the kernel if these are of this configuration."""
    known = None if accepted is None or accepted.compiled.config != wanted.config else accepted.compiled
    allocation, routes = (None, None) if known is None else (known.allocation, known.routes)
    return as_data(explain_packet(wanted.config, question, wanted.membership, routes, allocation))


# --- the status of pools and backends ---------------------------------------------------------------------------------

_WORST_FIRST = (RotationMode.FALLBACK, RotationMode.PANIC, RotationMode.HEALTHY)


def pool_status(
    pool: PoolHealth,
    state: PoolState,
    counters: Counters,
    added: Collection[str],
    obstacles: Obstacles,
    names: tuple[NameStatus, ...] = (),
) -> PoolStatus:
    """The status of a pool. `state`: the state that the compiler got. `added`: the backends not in the file.

    `obstacles`: what the compiler got about this host. `names`: those whose addresses come from DNS.
    """
    selections = _selections(pool, state)
    modes = {selection.mode for selection in selections}
    count = counters.of_pool(pool.pool.name)
    return PoolStatus.of(
        name=pool.pool.name,
        listen=tuple(map(str, pool.pool.listen)),
        forward=pool.pool.forward,
        balance=pool.pool.balance,
        per=pool.pool.per,
        labels=dict(pool.pool.labels),
        replies=tuple(_replies(pool.pool, obstacles)),
        ready=pool.ready,
        lacking=pool.lacking,
        quorum=pool.pool.quorum,
        healthy=pool.healthy,
        mode=next(mode for mode in _WORST_FIRST if mode in modes),
        priority=_priority(selections),
        min_healthy=str(pool.pool.min_healthy),
        preempts_at=None if pool.preempts_at is None else wall(pool.preempts_at),
        since=wall(pool.since),
        packets=count.packets,
        bytes=count.bytes,
        guard=_guard(pool.pool, counters),
        backends=tuple(_backends(pool, pool.backends, selections, counters, added)),
        collectors=tuple(
            _collector(pool.pool.name, collector, pool.collectors[collector.name], counters)
            for collector in pool.pool.mirror
        ),
        names=names,
    )


def _collector(pool: str, collector: Collector, tracked: BackendHealth, counters: Counters) -> CollectorStatus:
    count = counters.of_collector(pool, collector.name)
    return CollectorStatus.of(
        name=collector.name,
        address=str(collector.address),
        port=collector.port,
        one_in=collector.one_in,
        up=tracked.up,
        since=wall(tracked.since),
        reason=tracked.reason,
        packets=count.packets,
        bytes=count.bytes,
        checks=tuple(map(_check, tracked.checks)),
    )


def _guard(pool: Pool, counters: Counters) -> GuardStatus | None:
    if pool.guard is None:
        return None
    return GuardStatus(**{str(reason): counters.dropped(pool.name, reason).packets for reason in DropReason})


def _replies(pool: Pool, obstacles: Obstacles) -> Iterator[str]:
    """The hook in which the replies of a `stateless` pool are rewritten, for each family."""
    if pool.forward is Forward.STATELESS:
        for family in pool.families:
            yield f"{family}: {reply_form(pool, family, obstacles)}"


def backend_statuses(
    pool: PoolHealth, names: Iterable[str], state: PoolState, counters: Counters, added: Collection[str]
) -> list[BackendStatus]:
    """The status of some backends of a pool. The arguments are those of `pool_status`."""
    return _backends(pool, names, _selections(pool, state), counters, added)


def _selections(pool: PoolHealth, state: PoolState) -> list[Selection]:
    """The targets of each family in which the pool listens."""
    return [select(pool.pool, family, state) for family in Family if family in pool.pool.families]


def _priority(selections: Iterable[Selection]) -> int | None:
    """The priority to show: the worst that serves instead of the lowest of its family; else the lowest."""
    serving = [(found.priority, min(found.priorities, default=0)) for found in selections]
    known = [(priority, lowest) for priority, lowest in serving if priority is not None]
    if len(known) < len(serving):
        return None
    instead = [priority for priority, lowest in known if priority != lowest]
    return max(instead) if instead else min(priority for priority, _ in known)


def _shares(selections: Iterable[Selection]) -> dict[str, float]:
    """The share of each backend in the packets of its family."""
    shares: dict[str, float] = {}
    for selection in selections:
        total = sum(weight for _, weight in selection.targets)
        shares |= {target.name: weight / total for target, weight in selection.targets}
    return shares


def _backends(
    pool: PoolHealth, names: Iterable[str], selections: list[Selection], counters: Counters, added: Collection[str]
) -> list[BackendStatus]:
    shares = _shares(selections)
    return [
        _backend(pool.pool, pool.backends[name], shares.get(name, 0.0), counters, added=name in added) for name in names
    ]


def _backend(pool: Pool, tracked: BackendHealth, share: float, counters: Counters, *, added: bool) -> BackendStatus:
    backend = tracked.backend
    count, replies = counters.of(pool.name, backend.name), counters.replies(pool.name, backend.name)
    return BackendStatus.of(
        name=backend.name,
        address=str(backend.address),
        port=backend.port,
        up=tracked.up,
        admin=tracked.requested_admin,
        admin_since=tracked.admin_since,
        agent=tracked.agent_admin,
        labels=pool.labels_of(backend),
        priority=tracked.effective_priority,
        weight=tracked.effective_weight,
        share=round(share, 6),
        in_rotation=share > 0,
        standby=tracked.counts and not share,
        since=wall(tracked.since),
        reason=tracked.outage or tracked.reason,
        added=added,
        packets=count.packets,
        bytes=count.bytes,
        copies=counters.of_templates(pool.name, backend.name).packets if pool.templates else None,
        requests=None if replies is None else replies.requests,
        replies=None if replies is None else replies.replies,
        answered=None if replies is None or replies.share is None else round(replies.share, 3),
        checks=tuple(map(_check, tracked.checks)),
    )


def _check(check: CheckHealth) -> CheckStatus:
    last = check.last
    return CheckStatus.of(
        kind=check.health.check.kind,
        up=check.state.up,
        passed=None if last is None else last.passed,
        pending=check.state.pending,
        needed=check.state.needed(check.health),
        reason="" if last is None else last.reason,
        seconds=None if last is None else round(last.seconds, 6),
        at=None if check.at is None else wall(check.at),
    )
