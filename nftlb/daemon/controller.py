"""Changes of the wanted state: results of checks, messages from this host, commands of the operator, and reloads."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from nftlb.config import amend, resolve
from nftlb.errors import NftlbError, SystemFault
from nftlb.health import Standing, consequences, consequences_of_reload
from nftlb.kernel.surroundings import addresses_for
from nftlb.model import EVERY_BACKEND, BackendKey, EventKind, by_pool
from nftlb.requirements import faults_of, pool_lines
from nftlb.service import ConfigStatus, Conflict, Event

from . import systemd
from .events import now, wall
from .names import emptied_pools, first_answers, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nftlb.config import Resolution
    from nftlb.health import Change, CheckResult, PoolMemory, PoolStates
    from nftlb.metrics import Metrics
    from nftlb.model import (
        Backend,
        BackendChange,
        Config,
        FoundServer,
        HostAddresses,
        HostLookup,
        Membership,
        NameAnswers,
        NamedBackend,
    )
    from nftlb.requirements import Lack

    from .checker import CheckKey
    from .events import ActiveFaults, Bus
    from .names import LookupState
    from .notifier import Notifier
    from .reconciler import Reconciler
    from .state_saver import StateSaver
    from .wanted_state import FileText, WantedState

_log = logging.getLogger(__name__)

_COPY = "configuration"

TOGETHER = 0.05
"""Seconds for which an answer of DNS waits for other answers, because each change reads all pools again."""


@dataclass
class _WaitingAnswer:
    """An answer that waits for its use. `error`: why it was not used."""

    servers: tuple[FoundServer, ...]
    used: bool = False
    error: NftlbError | None = None


class _NewFile(NamedTuple):
    """The file as a reload uses it: its text, and the configuration with changes at run time, answers and addresses."""

    text: FileText
    declared: Config
    runtime: dict[str, PoolMemory]
    misfits: list[str]
    answers: NameAnswers
    addresses: HostAddresses
    resolution: Resolution


class Controller:
    """Changes `state`, and lets the kernel, the saved state, listeners and followers of the configuration follow.

    `problems` of the file: a line each, if the daemon started with the last good copy of the file.
    """

    def __init__(
        self,
        state: WantedState,
        reconciler: Reconciler,
        saver: StateSaver,
        notifier: Notifier,
        *,
        metrics: Metrics,
        bus: Bus,
        faults: ActiveFaults,
        problems: tuple[str, ...] = (),
    ) -> None:
        self.state = state
        self.reconciler = reconciler
        self._saver = saver
        self._notifier = notifier
        self._metrics = metrics
        self._bus = bus
        self._faults = faults
        self._problems = problems
        self._changing = asyncio.Lock()
        self._followers: list[Callable[[Config], None]] = []
        self._waiting: dict[HostLookup, _WaitingAnswer] = {}
        self._loaded = self._attempted = wall()
        self._lacks: tuple[Lack, ...] = ()
        metrics.follow(state.config)
        self._lacking: set[str] = set()
        self._preemption: asyncio.TimerHandle | None = None
        self._closed = False
        self._await_preemption()
        if state.copy:
            self._report_copy()

    def on_config(self, *followers: Callable[[Config], None]) -> None:
        """Call these functions with every new configuration once the kernel has accepted it."""
        self._followers += followers

    # --- checks and this host ----------------------------------------------------------------------------------------

    def record_result(self, key: CheckKey, result: CheckResult) -> float:
        """Record the result of a check. Return the seconds between the start of this check and of the next."""
        changes = self.state.health.record_result(*key, result, now())
        check = self.state.health.pools[key.pool].tracked(key.backend).checks[key.check]
        passed = result.passed if check.last is None else check.last.passed  # silence may have counted as a failure
        self._metrics.checked(key.pool, key.backend, check.health.check.kind, passed, result.seconds)
        self._follow(changes)
        return check.state.delay(check.health)

    def set_check_fault(self, reason: str) -> None:
        """Record why this machine can't carry out checks; "": it can again."""
        message = f"this machine can't carry out a check, and the state of its backend stays as it is: {reason}"
        self._faults.set("checks", message if reason else "")

    def record_refusal(self, pool: str, backend: str) -> None:
        """Record that a backend refused balanced traffic."""
        if backend in self.state.health.pools[pool].backends:
            self._metrics.refused(pool, backend)
            self._follow(self.state.health.record_refusal(pool, backend, "port unreachable", now()))

    def record_hint(self, pool: str, backend: str) -> bool:
        """Record a sign that a backend refuses balanced traffic. Return whether the backend should be checked now."""
        tracked = self.state.health.pools[pool].backends.get(backend)
        if tracked is None:
            return False
        self._metrics.refused(pool, backend)
        if not tracked.up:
            return False
        self._follow(self.state.health.record_hint(pool, backend, "port unreachable", now()))
        return True

    def set_reachability(
        self, unreachable: Mapping[tuple[str, str], str], unconfirmed: Mapping[tuple[str, str], str]
    ) -> None:
        """Record the backends that this host can't send to, and those whose neighbour has not answered yet."""
        self.state.health.set_unconfirmed(unconfirmed)
        self._follow(self.state.health.set_unreachable(unreachable, now()))

    def set_silent(self, silent: Mapping[tuple[str, str], str]) -> None:
        """Record the backends that get packets and send no replies, each with the reason."""
        self._follow(self.state.health.set_silent(silent, now()))

    async def use_addresses(self, addresses: HostAddresses) -> None:
        """Let listeners for addresses of this host follow a change, after a reload that is going on.

        Raises NftlbError if the kernel refuses, or if a pool would lose its last backend.
        """
        async with self._changing:
            declared, before, answers = self.state.declared, self.state.config, self.state.names.answers
            if addresses == self.state.addresses:
                return
            if not declared.listens_on_host:
                self.state.addresses = addresses
                return
            resolution = await asyncio.to_thread(resolve, declared, answers, addresses, before)
            if resolution.config == before:
                self.state.addresses = addresses
                return
            if reasons := emptied_pools(before, resolution):
                raise SystemFault("; ".join(reasons))
            await self._use_answers(declared, answers, resolution, "this host has other addresses", addresses)
        _log.info("the addresses of this host have changed, and listeners follow")

    def set_lacks(self, lacks: Iterable[Lack]) -> None:
        """Record what pools need from this host and the host does not have."""
        self._lacks = tuple(lacks)
        self._assign_lacks()

    def load_again(self) -> None:
        """Load again soon: this host has changed."""
        self.reconciler.suspect_host()

    # --- DNS ---------------------------------------------------------------------------------------------------------

    async def use_answer(self, lookup: HostLookup, servers: tuple[FoundServer, ...]) -> None:
        """Use the servers that DNS has for a name now. Raises NftlbError; then the answer before stays.

        Answers that arrive together, or during another change, for instance a reload, are used in one change after it.
        """
        mine = self._waiting[lookup] = _WaitingAnswer(servers)
        try:
            await asyncio.sleep(TOGETHER)
            async with self._changing:
                if not mine.used:
                    await self._use_waiting()
        finally:
            if self._waiting.get(lookup) is mine:
                del self._waiting[lookup]
        if mine.error is not None:
            raise mine.error

    async def _use_waiting(self) -> None:
        """Use all waiting answers."""
        batch = dict(self._waiting)
        refused: Mapping[HostLookup, NftlbError]
        try:
            refused = await self._use_together({lookup: answer.servers for lookup, answer in batch.items()})
        except Exception as fault:  # noqa: BLE001 - each answer of the batch would meet the same fault again
            _log.exception("a fault of nftlb itself while it used answers of DNS")
            refused = dict.fromkeys(batch, SystemFault(f"a fault of nftlb itself: {fault!r}"))
        for lookup, answer in batch.items():
            answer.used, answer.error = True, refused.get(lookup)
        if refused.keys() != batch.keys():
            self._saver.touch()

    async def _use_together(self, new: NameAnswers) -> Mapping[HostLookup, NftlbError]:
        """Use answers in one change, without those that take the last backend of a name. Return the refused ones.

        If the kernel refuses, it refuses the whole change. The lookups are repeated at different times.
        """
        state = self.state
        refused: dict[HostLookup, NftlbError] = {}
        while new:
            judged = await asyncio.to_thread(
                judge, state.config, state.declared, state.names.answers, new, state.addresses
            )
            if not judged.emptied:
                break
            refused |= {lookup: SystemFault("; ".join(reasons)) for lookup, reasons in judged.emptied.items()}
            new = {lookup: servers for lookup, servers in new.items() if lookup not in refused}
        if not new:
            return refused
        try:
            names = ", ".join(str(lookup) for lookup in new)
            answers = {**state.names.answers, **new}
            await self._use_answers(state.declared, answers, judged.resolution, f"DNS has other addresses for {names}")
        except NftlbError as error:
            refused |= dict.fromkeys(new, error)
        return refused

    def record_lookup(self, lookup: HostLookup, state: LookupState) -> None:
        """Record how a lookup ended."""
        self.state.names.lookups[lookup] = state
        servers = self.state.names.answers.get(lookup)
        rest = "there is no backend for the name yet"
        if servers:
            rest = f"the last good answer stays: {', '.join(str(server.address) for server in servers)}"
        pools: list[str] = []
        if state.trouble:  # else no search: with thousands of names, a search takes milliseconds
            pools = [pool.name for pool in self.state.config.pools if any(name.lookup == lookup for name in pool.named)]
        self._faults.set(f"name {lookup}", f"{state.trouble}; {rest}" if state.trouble else "", pools)

    def forget_lookup(self, lookup: HostLookup) -> None:
        """Record that no pool has a name any more."""
        self.state.names.lookups.pop(lookup, None)
        self._faults.clear(f"name {lookup}")

    @property
    def answers(self) -> NameAnswers:
        """The last good answers."""
        return self.state.names.answers

    # --- commands ----------------------------------------------------------------------------------------------------

    def meant(self, backends: Iterable[BackendKey]) -> tuple[BackendKey, ...]:
        """The backends that a request means now, each once. UnknownPool; Conflict for all backends of an empty pool.

        DNS may change the backends of a pool at any time, so only the daemon knows them at the moment of a change.
        """
        found: dict[BackendKey, None] = {}
        for key in backends:
            if key.backend != EVERY_BACKEND:
                found[key] = None
                continue
            names = self.state.find(key.pool).backends
            if not names:
                raise Conflict(f"{key.pool} has no backend now")
            found |= dict.fromkeys(BackendKey(key.pool, name) for name in names)
        return tuple(found)

    async def change(self, backends: Sequence[BackendKey], change: BackendChange) -> None:
        """Set what is not None of all these backends at once, and return when it is saved and the kernel has it.

        An absent address may be among the backends if what the operator set of the address is kept.

        Raises Unapplied; UnknownPool and UnknownBackend before anything is changed.
        """
        for backend in backends:
            self.state.find(*backend, absent=True)
        health, moment, time = self.state.health, now(), wall()
        found = by_pool(backends).items()
        self._follow(
            [each for pool, names in found for each in health.set_by_operator(pool, names, change, moment, time)]
        )
        await self._saver.save()
        await self.reconciler.wait_until_applied()

    async def add(self, pool: str, backend: Backend | NamedBackend) -> None:
        """Add a backend. Raises Conflict, ConfigError or, if the kernel refuses, KernelError."""
        async with self._changing:
            await self._use(await self._with_added(pool, backend), f"{pool}/{backend.name} was added")
            self.state.record_added(pool, backend)
        await self._saver.save()

    async def remove(self, pool: str, backend: str) -> None:
        """Remove a backend. Raises Conflict for the last backend of a pool, and KernelError if the kernel refuses."""
        async with self._changing:
            await self._use(await self._without(pool, backend), f"{pool}/{backend} was removed")
            self.state.record_removed(pool, backend)
        await self._saver.save()

    def preview_change(self, backends: Sequence[BackendKey], change: BackendChange) -> tuple[str, ...]:
        """What `change` would lead to. Raises as `change`."""
        pools = {backend.pool: self.state.find(*backend, absent=True).pool for backend in backends}
        states, _ = self.state.health.with_config(replace(self.state.config, pools=tuple(pools.values())), now())
        for pool, names in by_pool(backends).items():
            states.set_by_operator(pool, names, change, now())
        return tuple(sentence for pool in pools for sentence in self._consequences(pool, states))

    async def preview_add(self, pool: str, backend: Backend | NamedBackend) -> tuple[str, ...]:
        """What `add` would lead to. Raises as `add`."""
        return await self._preview(pool, await self._with_added(pool, backend))

    async def preview_remove(self, pool: str, backend: str) -> tuple[str, ...]:
        """What `remove` would lead to. Raises as `remove`."""
        return await self._preview(pool, await self._without(pool, backend))

    async def preview_reload(self) -> tuple[str, ...]:
        """What `reload` would lead to. Raises as `reload`."""
        read = await self._read_file()
        config = read.resolution.config
        states, _ = self.state.health.with_config(config, now())
        health = self.state.health
        before = {name: _standing(health, name) for name in health.pools}
        after = {name: _standing(states, name) for name in states.pools}
        return tuple(consequences_of_reload(before, after, config))

    async def reload(self) -> None:
        """Read the file again and use it. Raises NftlbError; then the old configuration stays."""
        async with self._changing:
            systemd.reloading()
            began = wall()
            try:
                await self._reload()
            except NftlbError as error:
                self._problems = tuple(str(error).splitlines())
                self._metrics.reloaded(success=False)
                fields = {"event": EventKind.RELOAD_FAILED}
                _log.error("not reloaded, the old configuration stays:\n%s", error, extra={"fields": fields})
                self._bus.publish(Event(kind=EventKind.RELOAD_FAILED, at=wall(), reason=str(error)))
                raise
            finally:
                self._attempted = began  # set only at the end: callers wait for a new time here
                systemd.notify("READY=1")
            self._problems, self._loaded = (), began
            self._faults.clear(_COPY)
            self._metrics.reloaded(success=True)
            self._faults.clear("memory")  # the operator was here and has seen it
            _log.info("reloaded %s", self.state.file, extra={"fields": {"event": EventKind.RELOAD}})
            self._bus.publish(Event(kind=EventKind.RELOAD, at=wall(), reason=self.state.file))
        await self._saver.save()

    def config_status(self) -> ConfigStatus:
        """The status of the configuration file."""
        return ConfigStatus(
            file=self.state.file,
            success=not self._problems,
            copy_in_use=self.state.copy or None,
            loaded=self._loaded,
            attempted=self._attempted,
            problems=self._problems,
        )

    # --- internals ---------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        new = await self._read_file()
        reason = f"a reload of {self.state.file}"
        await self._use_answers(new.declared, new.answers, new.resolution, reason, new.addresses)
        self.state.use_file(new.text, new.runtime)
        for misfit in new.misfits:
            _log.warning("%s", misfit)

    async def _read_file(self) -> _NewFile:
        """Read the file again, with the names and addresses of now. Raises NftlbError if it can't be used."""
        text = await asyncio.to_thread(self.state.read_new_file)
        declared, runtime, misfits = self.state.with_runtime(text.base)
        answers = {**self.state.names.answers, **await first_answers(declared, self.state.names.answers)}
        addresses = await asyncio.to_thread(addresses_for, declared)
        resolution = await asyncio.to_thread(resolve, declared, answers, addresses)
        if reasons := emptied_pools(self.state.config, resolution):
            raise SystemFault("\n".join(reasons))
        return _NewFile(text, declared, runtime, misfits, answers, addresses, resolution)

    def _entries(self, pool: str) -> set[str]:
        """The names of the backends of a pool, without those of the answers of DNS. Raises UnknownPool."""
        self.state.find(pool)
        declared = self.state.declared.pool(pool)
        return {entry.name for entry in declared.entries} if declared else set()

    async def _with_added(self, pool: str, backend: Backend | NamedBackend) -> Config:
        """The declared configuration with one more backend. Raises UnknownPool, Conflict, ConfigError."""
        if backend.name in self._entries(pool) | self.state.find(pool).backends.keys():
            raise Conflict(f"{pool} has a backend {backend.name} already; remove it first, or take another name")
        # With ten thousand backends this takes a few tenths of a second, in which checks have to begin.
        return await asyncio.to_thread(amend, self.state.declared, pool, add=[backend])

    async def _without(self, pool: str, backend: str) -> Config:
        """The declared configuration without a backend. Raises UnknownPool, UnknownBackend, Conflict, ConfigError."""
        entries = self._entries(pool)
        if backend not in entries:
            owner = next(named for named in self.state.find(pool, backend).pool.named if backend in named.backends)
            raise Conflict(f"DNS gives {backend} for {owner.lookup}; remove {owner.name}, or drain {backend}")
        if len(entries) == 1:
            raise Conflict(f"{backend} is the last backend of {pool}; drain it instead, or remove the pool")
        return await asyncio.to_thread(amend, self.state.declared, pool, remove=[backend])

    async def _preview(self, pool: str, declared: Config) -> tuple[str, ...]:
        """What the use of another configuration would lead to for one pool."""
        answers = self.state.names.answers
        resolved = (await asyncio.to_thread(resolve, declared, answers, self.state.addresses)).config
        self.state.find(pool)  # a reload may have removed the pool meanwhile
        found = resolved.pool(pool)
        states, _ = self.state.health.with_config(replace(resolved, pools=(found,) if found else ()), now())
        return self._consequences(pool, states)

    def _consequences(self, pool: str, states: PoolStates) -> tuple[str, ...]:
        return consequences(_standing(self.state.health, pool), _standing(states, pool))

    async def _use(self, declared: Config, reason: str) -> None:
        """Use another configuration with the answers of now: see `_use_answers`."""
        answers = self.state.names.answers
        resolution = await asyncio.to_thread(resolve, declared, answers, self.state.addresses, self.state.config)
        await self._use_answers(declared, answers, resolution, reason)

    async def _use_answers(
        self,
        declared: Config,
        answers: NameAnswers,
        resolution: Resolution,
        reason: str,
        addresses: HostAddresses | None = None,
    ) -> None:
        """Load another configuration into the kernel and then use it; or neither, if the kernel refuses.

        `reason` is for the history of the rules. `addresses`: other addresses of this host than now.
        """
        there = self.state.addresses if addresses is None else addresses
        config = resolution.config

        def membership() -> Membership:
            moment = now()
            preview, _ = self.state.health.with_config(config, moment)
            return preview.membership(moment)

        def switch() -> None:
            changes = self.state.use(declared, answers, there, resolution)
            self._metrics.follow(config)
            for follow in self._followers:
                follow(config)
            self._follow(changes)
            self._await_preemption()

        await self.reconciler.change_config(config, membership, switch, reason)

    def _follow(self, changes: Iterable[Change]) -> None:
        """Let the kernel, the saved state and listeners follow changes of health."""
        if changes and not self._closed:
            if self._lacks:
                self._assign_lacks()
            self.reconciler.wake()
            self._saver.touch()
            for change in changes:
                self._metrics.changed(change.pool, change.backend, change.kind)
            self._notifier.report(changes, self.state.config)
            self._await_preemption()

    def close(self) -> None:
        """Report the last changes, and end the wait for the next priority. Then nothing follows changes of health."""
        self._closed = True
        self._notifier.close()
        self._end_wait()

    def _end_wait(self) -> None:
        if self._preemption is not None:
            self._preemption.cancel()

    def _await_preemption(self) -> None:
        """Wait until the next priority takes over, instead of the time that was set before."""
        self._end_wait()
        if self._closed:
            return
        due = self.state.health.next_preemption()
        self._preemption = None if due is None else asyncio.get_running_loop().call_later(due - now(), self._preempt)

    def _preempt(self) -> None:
        self._follow(self.state.health.preempt(now()))
        self._await_preemption()

    def _assign_lacks(self) -> None:
        """Give each pool what it lacks, and set one fault for each thing that lacks."""
        by_pool: dict[str, list[Lack]] = {}
        for lack in self._lacks:
            pool = self.state.health.pools.get(lack.pool)
            backend = pool.backends.get(lack.backend) if pool else None
            # A missing path to a backend that the operator has taken out affects no packet.
            if pool is not None and (not lack.backend or (backend is not None and backend.wanted)):
                by_pool.setdefault(lack.pool, []).append(lack)
        self.state.health.set_lacking({name: pool_lines(lacks) for name, lacks in by_pool.items()}, now())
        found = faults_of(lack for lacks in by_pool.values() for lack in lacks)
        for gone in self._lacking - found.keys():
            self._faults.clear(gone)
        self._lacking = set(found)
        for subject, fault in found.items():
            self._faults.set(subject, fault.message, fault.pools)

    def _report_copy(self) -> None:
        self._metrics.reloaded(success=False)
        file, copy = self.state.file, self.state.copy
        self._faults.set(
            _COPY, f"{file} can't be used, its last good copy {copy} is in use: correct the file and reload"
        )
        for problem in self._problems:
            _log.error("%s", problem)


def _standing(states: PoolStates, pool: str) -> Standing:
    return Standing(states.pools[pool], states.state(pool, now()))
