"""The daemon's mind: what is configured, what is believed, and what follows from results and from commands."""

from __future__ import annotations

import asyncio
import logging
import os
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from nftlb.config import amend, parse, read_backend, read_source
from nftlb.errors import ConfigError, NftlbError, Problem
from nftlb.health import Memory, PoolMemory
from nftlb.requirements import summed_up
from nftlb.service import (
    ConfigStatus,
    Conflict,
    Event,
    EventKind,
    Overview,
    Short,
    UnknownBackend,
    UnknownPool,
)

from . import report, systemd
from .clock import now, wall
from .counters import Counters
from .prepared import prepare
from .runtime import overlay, remaining, with_added, with_removed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from nftlb.compiler import Membership
    from nftlb.daemon.announcer import Announcer
    from nftlb.daemon.bus import Bus
    from nftlb.daemon.checker import Place
    from nftlb.daemon.chronicle import Chronicle
    from nftlb.daemon.faults import Faults
    from nftlb.daemon.hands import Hands
    from nftlb.daemon.keeper import Keeper
    from nftlb.daemon.reconciler import Reconciler
    from nftlb.health import Change, Fleet, Result, TrackedPool
    from nftlb.metrics import Metrics
    from nftlb.model import Admin, Config
    from nftlb.requirements import Lack
    from nftlb.service import BackendStatus, PoolStatus

_log = logging.getLogger(__name__)

_COPY = "configuration"

_COUNTERS_AGE = 1.0
"""Seconds that counters may be old: reading them costs the kernel a listing of our tables."""
_COUNTERS_PATIENCE = 2.0
"""Seconds that a status waits for them; while the kernel is at work on something long, it shows older ones."""
_FAR, _COMPARED = 3, 50
"""A misspelt name is compared with so many others at most, whose lengths differ by no more than that."""


class Control:
    """Implements `nftlb.service.Service`. The parts around it are put in place by `nftlb.daemon.operation`."""

    reconciler: Reconciler
    keeper: Keeper
    hurry: Callable[[str, str], None]
    """Has a backend checked at once."""
    source: bytes = b""
    """The text that `base` was read from."""
    copy: str = ""
    """The last good copy of the file, while that is in use in the place of the file."""

    def __init__(
        self,
        file: str,
        base: Config,
        fleet: Fleet,
        config: Config,
        memory: Memory,
        *,
        hands: Hands,
        metrics: Metrics,
        bus: Bus,
        faults: Faults,
        announcer: Announcer,
        chronicle: Chronicle,
    ) -> None:
        self.config = config
        self.fleet = fleet
        self.base = base
        self._file = file
        self._runtime = remaining(base, memory.pools)
        self._hands = hands
        self._metrics = metrics
        self._bus = bus
        self._faults = faults
        self._announcer = announcer
        self._chronicle = chronicle
        self._changing = asyncio.Lock()
        self._followers: list[Callable[[Config], None]] = []
        self._step: asyncio.TimerHandle | None = None
        self._started = self._loaded = self._attempted = wall()
        self._problems: tuple[str, ...] = ()
        self._lacks: tuple[Lack, ...] = ()
        self._lacking: set[str] = set()
        self._counters = Counters()
        self._counted_at = -_COUNTERS_AGE
        self._counting: asyncio.Task[None] | None = None

    def on_config(self, *followers: Callable[[Config], None]) -> None:
        """Have these called with every new configuration, once it is in the kernel."""
        self._followers += followers

    # --- what the other parts ask and tell ---------------------------------------------------------------------------

    def wanted(self) -> tuple[Config, Membership]:
        """What should be in the kernel now. Where time alone changes that, looks at it again by itself."""
        moment = now()
        step = self.fleet.next_step(moment)
        if self._step is not None:
            self._step.cancel()
            self._step = None
        if step is not None:
            self._step = asyncio.get_running_loop().call_later(max(0.0, step - moment), self._take_step)
        return self.config, self.fleet.membership(moment)

    def hear(self, place: Place, result: Result) -> float:
        """Hear the result of a check; return seconds from its start to the next."""
        changes = self.fleet.take(*place, result, now())
        check = self.fleet.pools[place.pool].backends[place.backend].checks[place.check]
        passed = result.passed if check.last is None else check.last.passed  # silence may have counted as a failure
        self._metrics.checked(place.pool, check.health.check.kind, passed, result.seconds)
        self._changed(changes)
        return check.verdict.delay(check.health)

    def unable(self, reason: str) -> None:
        """Hear that this machine can't carry out checks; "": that it can again."""
        if reason:
            self._faults.set("checks", f"a check could not be done, and its backend stays as it is: {reason}")
        else:
            self._faults.clear("checks")

    def refused(self, pool: str, backend: str) -> None:
        """Hear that a backend refused balanced traffic."""
        if backend in self.fleet.pools[pool].backends:
            self._changed(self.fleet.refuse(pool, backend, "port unreachable", now()))

    def reaches(self, unreachable: Mapping[tuple[str, str], str], doubtful: Mapping[tuple[str, str], str]) -> None:
        """Hear which backends this host can't send to, and which have not answered yet whether they are there."""
        self.fleet.doubt(doubtful)
        self._changed(self.fleet.reach(unreachable, now()))

    def lacks(self, lacks: Iterable[Lack]) -> None:
        """Hear what pools need of this host and do not get."""
        self._lacks = tuple(lacks)
        self._weigh_lacks()

    def doubted(self, pool: str, backend: str) -> None:
        """Hear a hint that a backend refuses balanced traffic."""
        tracked = self.fleet.pools[pool].backends.get(backend)
        if tracked is not None and tracked.up:
            self._changed(self.fleet.hint(pool, backend, "port unreachable", now()))
            self.hurry(pool, backend)

    def memory(self) -> Memory:
        """What is to be remembered."""
        pools = self.fleet.memory()
        for name, runtime in self._runtime.items():
            backends = pools.get(name, PoolMemory()).backends
            pools[name] = PoolMemory(backends=backends, added=runtime.added, removed=runtime.removed)
        return Memory(format=1, table=self.config.table, pools=pools)

    def good(self) -> tuple[str, bytes] | None:
        """Give the file, and its text, once the kernel has what it says."""
        return (self._file, self.source) if self.source and self.reconciler.loaded else None

    def without_file(self, copy: str, problems: tuple[str, ...]) -> None:
        """Hear that the file can't be used since the start, and that its last good copy is."""
        self.copy, self._problems = copy, problems
        self._metrics.reloaded(success=False)
        self._faults.set(
            _COPY, f"{self._file} can't be used, its last good copy {copy} is: correct the file, and reload"
        )
        for problem in problems:
            _log.error("%s", problem)

    def ready_for(self) -> Callable[[Memory], bytes | None] | None:
        """Give what makes the next start ready for a memory, once the kernel has what the file says."""
        return partial(prepare, self.base, self.source) if self.source and self.reconciler.loaded else None

    def close(self) -> None:
        if self._step is not None:
            self._step.cancel()
        if self._counting is not None:
            self._counting.cancel()

    # --- Service -----------------------------------------------------------------------------------------------------

    async def overview(self) -> Overview:
        return Overview.model_construct(
            version=version("nftlb"),
            pid=os.getpid(),
            started=self._started,
            ready=self.ready(),
            config=ConfigStatus(
                file=self._file,
                success=not self._problems,
                copy_in_use=self.copy or None,
                loaded=self._loaded,
                attempted=self._attempted,
                problems=self._problems,
            ),
            kernel=self._chronicle.status(self.reconciler),
            faults=self._faults.all(),
        )

    async def pools(self) -> AsyncIterator[PoolStatus]:
        await self._count()
        membership = self.fleet.membership(now())
        # A reload meanwhile puts another fleet in the place of this one.
        for pool, added in [(pool, self._added(pool)) for pool in self.fleet.pools.values()]:
            yield report.pool_status(pool, membership.of(pool.pool.name), self._counters, added)
            await asyncio.sleep(0)  # ten thousand backends take a while, in which checks have to begin

    async def pool(self, name: str) -> PoolStatus:
        self._find(name)
        await self._count()
        pool = self._find(name)
        return report.pool_status(pool, self._state(name), self._counters, self._added(pool))

    def short(self) -> list[Short]:
        pools = self.fleet.pools.items()
        # What was told last: to judge ten thousand backends anew would hold up checks.
        counted = [
            (name, pool, sum(one.counted for one in pool.backends.values())) for name, pool in pools if not pool.ready
        ]
        return [Short(name, pool.lacking, healthy, pool.pool.quorum) for name, pool, healthy in counted]

    def ready(self, pool: str | None = None) -> bool:
        if pool is not None:
            return self._find(pool).ready and self.reconciler.serving
        return self.reconciler.serving and all(one.ready for one in self.fleet.pools.values())

    async def ruleset(self) -> str:
        return await self._hands.text()

    async def change(
        self, pool: str, backend: str, *, admin: Admin | None = None, weight: int | None = None
    ) -> BackendStatus:
        self._find(pool, backend)
        self._changed(self.fleet.operate(pool, backend, now(), admin=admin, weight=weight))
        await self.keeper.save()
        await self.reconciler.follow()
        return await self._backend(pool, backend)

    async def add(self, pool: str, name: str, written: Any) -> BackendStatus:
        async with self._changing:
            if name in self._find(pool).backends:
                raise Conflict(f"{pool} has a backend {name} already; remove it first, or take another name")
            backend = read_backend(pool, name, written)
            config = amend(self.config, pool, add=[backend])
            await self._adopt(config)
            self._runtime[pool] = with_added(
                self._runtime.get(pool, PoolMemory()), backend, written, self.base.pool(pool)
            )
        await self.keeper.save()
        return await self._backend(pool, name)

    async def remove(self, pool: str, backend: str) -> None:
        async with self._changing:
            if len(self._find(pool, backend).backends) == 1:
                raise Conflict(f"{backend} is the last backend of {pool}; drain it instead, or remove the pool")
            await self._adopt(amend(self.config, pool, remove=[backend]))
            self._runtime[pool] = with_removed(self._runtime.get(pool, PoolMemory()), backend, self.base.pool(pool))
        await self.keeper.save()

    async def reload(self) -> None:
        async with self._changing:
            systemd.reloading()
            began = wall()
            try:
                await self._reload()
            except NftlbError as error:
                self._problems = tuple(str(error).splitlines())
                self._metrics.reloaded(success=False)
                _log.error("not reloaded, the old configuration stays:\n%s", error)
                self._bus.publish(Event(kind=EventKind.RELOAD_FAILED, at=wall(), reason=str(error)))
                raise
            finally:
                self._attempted = began  # not before it has ended: who waits for that, waits for another moment here
                systemd.notify("READY=1")
            self._problems, self._loaded, self.copy = (), began, ""
            self._faults.clear(_COPY)
            self._metrics.reloaded(success=True)
            self._faults.clear("memory")  # somebody was here, and has seen it
            _log.info("reloaded %s", self._file)
            self._bus.publish(Event(kind=EventKind.RELOAD, at=wall(), reason=self._file))
        await self.keeper.save()

    def events(self) -> AsyncIterator[Event]:
        return self._bus.events()

    # --- how ---------------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        source, base = await asyncio.to_thread(_read, self._file)
        if base.table != self.config.table:
            message = f"{base.table} is another table than {self.config.table}, which a reload can't leave"
            raise ConfigError([Problem(self._file, 0, 0, "table", f"{message}; needed: a restart")])
        added = {name: PoolMemory(added=one.added) for name, one in self._runtime.items()}
        runtime = remaining(base, added)
        config, misfits = overlay(base, runtime)
        await self._adopt(config)
        self.base, self.source = base, source
        self._runtime = runtime
        for misfit in misfits:
            _log.warning("%s", misfit)

    async def _adopt(self, config: Config) -> None:
        """Have another configuration in the kernel, and then in mind; or neither."""
        moment = now()
        preview, _ = self.fleet.following(config, moment)

        def switch() -> None:
            gone = {pool.name for pool in self.config.pools} - {pool.name for pool in config.pools}
            self.fleet, changes = self.fleet.following(config, now())
            self.config = config
            for pool in gone:
                self._metrics.forget(pool)
            for follow in self._followers:
                follow(config)
            self._changed(changes)

        await self.reconciler.adopt(config, preview.membership(moment), switch)

    def _weigh_lacks(self) -> None:
        """Have each pool know what it lacks, and show each thing that lacks once."""
        by_pool: dict[str, list[str]] = {}
        by_subject: dict[str, list[Lack]] = {}
        for one in self._lacks:
            pool = self.fleet.pools.get(one.pool)
            backend = pool.backends.get(one.backend) if pool else None
            # What leads to a backend that gets nothing by the operator's wish is no loss.
            if pool is not None and (not one.backend or (backend is not None and backend.wanted)):
                by_pool.setdefault(one.pool, []).append(str(one))
                by_subject.setdefault(one.subject, []).append(one)
        self.fleet.lack({name: tuple(dict.fromkeys(lines)) for name, lines in by_pool.items()}, now())
        for gone in self._lacking - by_subject.keys():
            self._faults.clear(gone)
        self._lacking = set(by_subject)
        for subject, same in by_subject.items():
            self._faults.set(subject, summed_up(same))

    def _changed(self, changes: Iterable[Change]) -> None:
        if changes:
            if self._lacks:
                self._weigh_lacks()
            self.reconciler.poke()
            self.keeper.touch()
            self._announcer.tell(changes, self.config)

    def _take_step(self) -> None:
        self._step = None
        self.fleet.advance()
        self.reconciler.poke()

    async def _count(self) -> None:
        """Bring the counters up to date. Whoever comes meanwhile waits for the same reading."""
        if self._counting is None:
            if now() - self._counted_at < _COUNTERS_AGE:
                return
            self._counting = asyncio.create_task(self._read_counters())
        await asyncio.wait([self._counting], timeout=_COUNTERS_PATIENCE)

    async def _read_counters(self) -> None:
        try:
            self._counters.take(await self._hands.counters())
        except NftlbError as error:
            _log.debug("no counters: %s", error)
        finally:
            self._counted_at = now()
            self._counting = None

    async def _backend(self, pool: str, name: str) -> BackendStatus:
        found = self._find(pool, name)
        return report.backend_status(found, name, self._state(pool), self._counters, added=name in self._added(found))

    def _state(self, pool: str) -> Any:
        return self.fleet.state(pool, now())

    def _added(self, pool: TrackedPool) -> set[str]:
        file = self.base.pool(pool.pool.name)
        known = {one.name for one in file.backends} if file else set()
        return pool.backends.keys() - known

    def _find(self, pool: str, backend: str | None = None) -> TrackedPool:
        found = self.fleet.pools.get(pool)
        if found is None:
            raise UnknownPool(f"there is no pool {pool}{_near(pool, self.fleet.pools)}")
        if backend is not None and backend not in found.backends:
            raise UnknownBackend(f"{pool} has no backend {backend}{_near(backend, found.backends)}")
        return found


def _read(file: str) -> tuple[bytes, Config]:
    source = read_source(file)
    return source, parse(source, file)


def _near(name: str, known: Iterable[str]) -> str:
    # Anybody may ask for any name: of ten thousand, all would be compared for half a second.
    alike = (one for one in known if one[:1] == name[:1] and abs(len(one) - len(name)) <= _FAR)
    near = get_close_matches(name, islice(alike, _COMPARED), n=1)
    return f"; did you mean {near[0]}?" if near else ""
