"""The state of all pools and backends, and the only place that changes it. No I/O.

Times are seconds of one monotonic clock, given by the caller. Methods that change states return the changes to report.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nftlb.model import Admin, BackendChange, BackendState, EventKind, Expect, Membership, Udp

from .absent import changed, memories, still_absent
from .backend_health import BackendHealth, FileValues, backend_endpoint, initial_health, next_slow_start_step
from .check_health import CheckState, apply_outcome
from .memory import PoolMemory
from .pool_health import Change, PoolHealth, has_quorum
from .precedence import Precedence, settle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from nftlb.model import Backend, Config, Pool, PoolState

    from .check_health import CheckResult

_DEFAULT = BackendState()
_CONFIGURED = "by the configuration"


class PoolStates:
    """The states of all pools, backends and collectors of one configuration."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolHealth] = {}
        self._states: dict[str, PoolState] = {}
        self._stale: set[str] = set()
        self._rising: set[tuple[str, str]] = set()
        self._preempting: set[str] = set()
        self._next_step: float | None = None
        self._memory: dict[str, PoolMemory] = {}
        self._unsaved: set[str] = set()
        self._unreachable: set[tuple[str, str]] = set()
        self._silent: set[tuple[str, str]] = set()
        self._unconfirmed: Mapping[tuple[str, str], str] = {}

    @classmethod
    def begin(
        cls, config: Config, memory: Mapping[str, PoolMemory], now: float, at: datetime | None = None
    ) -> PoolStates:
        """The first states of a configuration with a saved state: each check starts as its `initial` says.

        `at`: the time of day, for the wishes for absent addresses; None: they are kept as if the addresses left now.
        """
        states = cls()
        for pool in config.pools:
            remembered = memory.get(pool.name, PoolMemory())
            known = remembered.backends
            entries = _srv_entries(pool)
            backends = {
                backend.name: initial_health(
                    backend, pool.health, known.get(backend.name), now, entries.get(backend.name)
                )
                for backend in pool.backends
            }
            collectors = {
                collector.name: initial_health(collector.server, collector.health, known.get(collector.name), now)
                for collector in pool.mirror
            }
            states._add(pool, backends, collectors, None, now)
            served = {family: Precedence(priority) for family, priority in remembered.serving.items()}
            states.pools[pool.name].precedence = served
            states.pools[pool.name].absent = still_absent(pool, {}, known, now, at)
            states._settle_priorities(states.pools[pool.name], now)
        return states

    def with_config(self, config: Config, now: float) -> tuple[PoolStates, list[Change]]:
        """Return the states for a new configuration and the changes to report. This object does not change.

        A backend with the same name, address and port keeps its state. A new backend starts as `initial` says, with a
        slow start. An address that DNS has again gets back what the operator had set.
        """
        states, changes = PoolStates(), []
        states._unreachable, states._unconfirmed = set(self._unreachable), self._unconfirmed
        states._silent = set(self._silent)
        for pool in config.pools:
            old = self.pools.get(pool.name)
            known = old.backends if old else {}
            entries = _srv_entries(pool)
            kept = {
                backend.name: known[backend.name].with_config(backend, pool.health, entries.get(backend.name))
                for backend in pool.backends
                if backend.name in known and backend_endpoint(known[backend.name].backend) == backend_endpoint(backend)
            }
            absent = old.absent if old else {}
            returned = {name: found.wishes for name, found in absent.items() if found.until > now}
            backends = {
                backend.name: kept.get(backend.name)
                or initial_health(backend, pool.health, returned.get(backend.name), now, entries.get(backend.name))
                for backend in pool.backends
            }
            gone = [tracked for name, tracked in known.items() if name not in kept]
            for tracked in gone:
                reason = _reason(tracked.backend, old.pool if old else None, pool)
                changes.append(_changed(pool.name, tracked, "present", "absent", reason))
            collectors = _continued_collectors(pool, old.collectors if old else {}, now)
            changes += states._add(pool, backends, collectors, old, now)
            made = {name for named in old.pool.named for name in named.backends} if old else set()
            left = {tracked.backend.name: tracked.memory() for tracked in gone if tracked.backend.name in made}
            states.pools[pool.name].absent = still_absent(pool, absent, left, now)
            for collector in collectors.values():
                changes += states._settle_health(pool.name, collector, _CONFIGURED, now)
            changes += states._settle(pool.name, [(tracked, _CONFIGURED) for tracked in kept.values()], now)
            for name, tracked in backends.items():
                if name in kept:
                    if tracked.risen is not None:
                        states._start_slowly(pool.name, tracked, tracked.risen)
                elif old:
                    states._start_slowly(pool.name, tracked, now if tracked.counts else None)
                    reason = _reason(tracked.backend, pool, old.pool) + _still_wished(tracked)
                    changes.append(_changed(pool.name, tracked, "absent", "present", reason))
            changes += states._settle_priorities(states.pools[pool.name], now)
        return states, changes

    # --- reading -----------------------------------------------------------------------------------------------------

    def membership(self, now: float) -> Membership:
        """The states of all backends, in the form that the compiler takes."""
        self._refresh(now)
        return Membership({name: state for name, state in self._states.items() if state})

    def state(self, pool: str, now: float) -> PoolState:
        """The states of the backends of one pool, in the form that the compiler takes."""
        self._refresh(now)
        return self._states[pool]

    def next_step(self, now: float) -> float | None:
        """The time at which `membership` changes without a call: the next step of a slow start. None: never."""
        self._mark_rising(now)
        due = []
        for pool, backend in tuple(self._rising):
            tracked = self.pools[pool].backends[backend]
            risen = tracked.risen or 0.0
            step = next_slow_start_step(now - risen, self.pools[pool].pool.slow_start / 1000)
            if step is None:
                self._rising.discard((pool, backend))
                tracked.risen = None
                self._stale.add(pool)
            else:
                due.append(risen + step)
        self._next_step = min(due, default=None)
        return self._next_step

    def memory(self, now: float, at: datetime) -> dict[str, PoolMemory]:
        """The state to save, by pool name. `at`: the time of day.

        Only pools that changed since the last call, or have absent addresses, cost time.
        """
        for name in self._unsaved | {name for name, pool in self.pools.items() if pool.absent}:
            backends = {checked: tracked.memory() for checked, tracked in self.pools[name].checked.items()}
            backends |= memories(self.pools[name].absent, now, at)
            serving = {
                family: precedence.serving
                for family, precedence in self.pools[name].precedence.items()
                if precedence.serving is not None
            }
            self._memory[name] = PoolMemory(backends=backends, serving=serving)
        self._unsaved.clear()
        return dict(self._memory)

    # --- changing ----------------------------------------------------------------------------------------------------

    def record_result(self, pool: str, backend: str, check: int, result: CheckResult, now: float) -> list[Change]:
        """Record the result of a check of a backend or collector; `check` is its index in the list of checks."""
        tracked = self.pools[pool].tracked(backend)
        tracked_check = tracked.checks[check]
        state = tracked_check.state
        if result.passed and tracked_check.health.check.silence_passes:
            doubt = tracked.unreachable or self._unconfirmed.get((pool, backend), "")
            result = replace(result, passed=False, reason=doubt) if doubt else result
        tracked_check.last, tracked_check.at = result, now
        if result.passed is state.up and not state.pending and result.weight is None and result.admin is None:
            if result.passed is tracked.was_up:
                tracked.reason = f"{tracked_check.health.check.kind}: {result.reason}"
            return []  # the common case: thousands of results per second change nothing
        decided = result.decides and not result.passed and state.up
        tracked_check.state = (
            CheckState(up=False) if decided else apply_outcome(state, passed=result.passed, health=tracked_check.health)
        )
        self._unsaved.add(pool)
        changes = self._record_agent(pool, tracked, result)
        reason = f"{tracked_check.health.check.kind}: {result.reason}"
        if decided:
            reason += ", after traffic was refused"
        changes += self._settle(pool, [(tracked, reason)], now)
        if result.passed is tracked.up:
            tracked.reason = reason
        if changes:
            self._stale.add(pool)
        return changes

    def record_refusal(self, pool: str, backend: str, reason: str, now: float) -> list[Change]:
        """Take a backend down at once that refused balanced traffic. Its checks bring it back."""
        tracked = self.pools[pool].backends[backend]
        for tracked_check in tracked.checks:
            tracked_check.state = CheckState(up=False)
        self._unsaved.add(pool)
        return self._settle(pool, [(tracked, f"passive: {reason}")], now)

    def set_unreachable(self, unreachable: Mapping[tuple[str, str], str], now: float) -> list[Change]:
        """Record the backends that this host can't send to: (pool, backend) to the reason.

        These backends are down at once; the state of all others follows from their checks again.
        """
        before, self._unreachable = self._unreachable, set(unreachable)
        known = self._tracked(before | unreachable.keys())
        for pool, tracked in known:
            tracked.unreachable = unreachable.get((pool, tracked.backend.name), "")
        return self._settle_outages(known, "this host can send to it again", now)

    def set_silent(self, silent: Mapping[tuple[str, str], str], now: float) -> list[Change]:
        """Record the backends that get packets and send no replies: (pool, backend) to the reason.

        These backends are down at once; the state of all others follows from their checks again.
        """
        before, self._silent = self._silent, set(silent)
        known = self._tracked(before | silent.keys())
        for pool, tracked in known:
            tracked.silent = silent.get((pool, tracked.backend.name), "")
        return self._settle_outages(known, "passive: its probation is over", now)

    def set_unconfirmed(self, unconfirmed: Mapping[tuple[str, str], str]) -> None:
        """Record the backends whose neighbour has not answered yet: (pool, backend) to the reason.

        While the neighbour has not answered, the checks of these backends that pass by silence fail.
        """
        self._unconfirmed = unconfirmed

    def set_lacking(self, lacking: Mapping[str, tuple[str, ...]], now: float) -> None:
        """Record what pools need from this host and the host does not have, by pool name. Other pools lack nothing."""
        for name, pool in self.pools.items():
            before, pool.lacking = pool.ready, lacking.get(name, ())
            if pool.ready is not before:
                pool.since = now

    def record_hint(self, pool: str, backend: str, reason: str, now: float) -> list[Change]:
        """Record an ICMP error that suggests that a backend refuses balanced traffic.

        A check that passes as long as no ICMP error arrives fails by this error, because its own probe may never get
        one. The results of all other checks decide about the backend.
        """
        tracked = self.pools[pool].backends[backend]
        for tracked_check in tracked.checks:
            if (
                isinstance(tracked_check.health.check, Udp)
                and tracked_check.health.check.expect is Expect.NO_ICMP_ERROR
            ):
                tracked_check.state = apply_outcome(tracked_check.state, passed=False, health=tracked_check.health)
        return self._settle(pool, [(tracked, f"udp: {reason}, in reply to traffic")], now)

    def set_by_operator(
        self,
        pool: str,
        backends: Iterable[str],
        change: BackendChange,
        now: float,
        at: datetime | None = None,
    ) -> list[Change]:
        """Set what the operator wants of some backends of a pool. `at`: the time of day, for the status.

        Absent addresses may be among them for which wishes are kept. The order of `backends` decides only about the
        order of the changes to report.
        """
        of, names = self.pools[pool], list(backends)
        if of.absent:
            of.absent = changed(of.absent, names, change, at)
        several = [of.backends[name] for name in names if name in of.backends]
        changes = [each for tracked in several for each in _set_by_operator(pool, tracked, change, at)]
        self._unsaved.add(pool)
        if changes:
            self._stale.add(pool)
            changes += self._settle(pool, [(tracked, "") for tracked in several], now)
            changes += self._settle_priorities(of, now)  # for new weights and priorities
        return changes

    def next_preemption(self) -> float | None:
        """The time at which `preempt` has something to do, if no backend changes before. None: never."""
        return min((at for name in self._preempting if (at := self.pools[name].preempts_at) is not None), default=None)

    def preempt(self, now: float) -> list[Change]:
        """Let the priorities take over whose `preempt_delay` has passed."""
        return [change for name in tuple(self._preempting) for change in self._settle_priorities(self.pools[name], now)]

    # --- internals ---------------------------------------------------------------------------------------------------

    def _tracked(self, names: Iterable[tuple[str, str]]) -> list[tuple[str, BackendHealth]]:
        """Return each of these backends that is present, with the name of its pool."""
        present = ((pool, self.pools[pool].backends.get(name)) for pool, name in names if pool in self.pools)
        return [(pool, tracked) for pool, tracked in present if tracked is not None]

    def _settle_outages(self, known: list[tuple[str, BackendHealth]], over: str, now: float) -> list[Change]:
        """Derive the changes of backends whose outages have changed. `over`: the reason of the end of an outage.

        The quorum and the priorities of a pool follow from all its backends, so all must have their new state.
        """
        by_pool: dict[str, list[tuple[BackendHealth, str]]] = {}
        for pool, tracked in known:
            by_pool.setdefault(pool, []).append((tracked, tracked.outage or over))
        return [change for pool, several in by_pool.items() for change in self._settle(pool, several, now)]

    def _add(
        self,
        pool: Pool,
        backends: dict[str, BackendHealth],
        collectors: dict[str, BackendHealth],
        old: PoolHealth | None,
        now: float,
    ) -> list[Change]:
        tracked = self.pools[pool.name] = PoolHealth(pool, backends, collectors, quorate=False, since=now)
        self._stale.add(pool.name)
        self._unsaved.add(pool.name)
        if old is None:
            tracked.quorate = has_quorum(pool, tracked.healthy, None)
            return []
        tracked.quorate, tracked.since, tracked.lacking = old.quorate, old.since, old.lacking
        tracked.precedence = old.precedence
        return self._settle_quorum(tracked, now)

    def _mark_rising(self, now: float) -> None:
        """Mark pools with a slow start as stale if its next step is due."""
        if self._next_step is not None and now >= self._next_step:
            self._stale |= {pool for pool, _ in self._rising}
            self._next_step = None

    def _refresh(self, now: float) -> None:
        self._mark_rising(now)
        for pool in self._stale:
            self._states[pool] = self._state(self.pools[pool], now)
        self._stale.clear()

    def _state(self, pool: PoolHealth, now: float) -> PoolState:
        slow_start = pool.pool.slow_start / 1000
        states = ((name, tracked.state(now, slow_start)) for name, tracked in pool.checked.items())
        marked = ((name, _mark_waiting(pool, name, state)) for name, state in states)
        return frozenset((name, state) for name, state in marked if state != _DEFAULT)

    def _record_agent(self, pool: str, tracked: BackendHealth, result: CheckResult) -> list[Change]:
        changes = []
        if result.weight is not None and result.weight != tracked.agent_percent:
            old, tracked.agent_percent = tracked.agent_percent, result.weight
            changes.append(_changed(pool, tracked, f"agent {old}%", f"agent {result.weight}%", "by its agent"))
        if result.admin is not None and result.admin is not (tracked.agent_admin or Admin.ENABLED):
            before, tracked.agent_admin = tracked.agent_admin or Admin.ENABLED, result.admin
            changes.append(_changed(pool, tracked, f"agent {before}", f"agent {result.admin}", "by its agent"))
        return changes

    def _settle(self, pool: str, several: Iterable[tuple[BackendHealth, str]], now: float) -> list[Change]:
        """Derive the changes to report after something about backends of a pool has changed, each for a reason.

        The quorum and the priorities are derived once, from the new states of all these backends.
        """
        changes, counted = [], False
        for tracked, reason in several:
            changes += self._settle_health(pool, tracked, reason, now)
            counts = tracked.counts
            if tracked.backend.name not in self.pools[pool].collectors and counts is not tracked.counted:
                tracked.counted = counts
                self._start_slowly(pool, tracked, now if counts else None)
                counted = True
        if counted:
            self._stale.add(pool)
            changes += self._settle_quorum(self.pools[pool], now)
            changes += self._settle_priorities(self.pools[pool], now)
        return changes

    def _settle_health(self, pool: str, tracked: BackendHealth, reason: str, now: float) -> list[Change]:
        """Derive the change to report if a backend or collector came up or went down."""
        if tracked.up is tracked.was_up:
            return []
        up, down = EventKind.BACKEND_UP, EventKind.BACKEND_DOWN
        if tracked.backend.name in self.pools[pool].collectors:
            up, down = EventKind.COLLECTOR_UP, EventKind.COLLECTOR_DOWN
        tracked.was_up, tracked.since, tracked.reason = tracked.up, now, reason
        self._stale.add(pool)
        kind = up if tracked.up else down
        return [Change(kind, pool, tracked.backend.name, _word(not tracked.up), _word(tracked.up), reason)]

    def _start_slowly(self, pool: str, tracked: BackendHealth, risen: float | None) -> None:
        place = (pool, tracked.backend.name)
        if risen is None or not self.pools[pool].pool.slow_start:
            tracked.risen = None
            self._rising.discard(place)
        else:
            tracked.risen = risen
            self._rising.add(place)

    def _settle_quorum(self, pool: PoolHealth, now: float) -> list[Change]:
        healthy = pool.healthy
        before, ready = pool.ready, has_quorum(pool.pool, healthy, pool.quorate)
        if ready is pool.quorate:
            return []
        pool.quorate = ready
        if pool.ready is not before:
            pool.since = now
        kind = EventKind.QUORUM_UP if ready else EventKind.QUORUM_DOWN
        reason = f"{healthy} of {len(pool.backends)} backends are usable, the quorum is {pool.pool.quorum}"
        return [Change(kind, pool.pool.name, "", _word(not ready), _word(ready), reason)]

    def _settle_priorities(self, pool: PoolHealth, now: float) -> list[Change]:
        """Derive which priority of each family serves, where the backends of a family have several priorities."""
        several = pool.families_with_priorities()
        if not several and not pool.precedence:
            return []
        changes = []
        state = self._state(pool, now)
        before, pool.precedence = pool.precedence, {}
        for family in several:
            old = before.get(family, Precedence())
            new, reason = settle(pool.pool, family, state, old, now)
            pool.precedence[family] = new
            if family in before and str(new) != str(old):  # priorities that are new are no change
                about = f"{family}: {reason}" if len(several) > 1 else reason
                changes.append(Change(EventKind.PRIORITY_CHANGED, pool.pool.name, "", str(old), str(new), about))
        if pool.precedence != before:
            self._stale.add(pool.pool.name)
            self._unsaved.add(pool.pool.name)
        if pool.preempts_at is None:
            self._preempting.discard(pool.pool.name)
        else:
            self._preempting.add(pool.pool.name)
        return changes


def _srv_entries(pool: Pool) -> dict[str, FileValues]:
    """What the file says about the backends whose weight and priority come from SRV records."""
    return {
        backend: FileValues(named.admin, named.weight, named.priority)
        for named in pool.named
        if named.srv
        for backend in named.backends
    }


def _set_by_operator(pool: str, tracked: BackendHealth, change: BackendChange, at: datetime | None) -> list[Change]:
    """Set what the operator wants of one backend, and return these changes alone.

    A weight or a priority that the backend already has is no change, but holds against other SRV records from now on.
    """
    admin, weight, priority = change
    old_weight, old_priority = tracked.effective_weight, tracked.effective_priority
    changes = []
    if admin is not None and admin is not tracked.requested_admin:
        old, tracked.admin, tracked.admin_since = tracked.requested_admin, admin, at
        changes.append(_changed(pool, tracked, f"admin {old}", f"admin {admin}", "by the operator"))
    if weight is not None:
        tracked.weight = weight
        if weight != old_weight:
            changes.append(_changed(pool, tracked, f"weight {old_weight}", f"weight {weight}", "by the operator"))
    if priority is not None:
        tracked.priority = priority
        if priority != old_priority:
            was, now = f"priority {old_priority}", f"priority {priority}"
            changes.append(_changed(pool, tracked, was, now, "by the operator"))
    return changes


def _continued_collectors(pool: Pool, known: Mapping[str, BackendHealth], now: float) -> dict[str, BackendHealth]:
    """Return the states of collectors under a new configuration. The same server keeps its state."""
    found = {}
    for collector in pool.mirror:
        before, server = known.get(collector.name), collector.server
        if before is not None and backend_endpoint(before.backend) == backend_endpoint(server):
            found[collector.name] = before.with_config(server, collector.health)
        else:
            found[collector.name] = initial_health(server, collector.health, None, now)
    return found


def _mark_waiting(pool: PoolHealth, name: str, state: BackendState) -> BackendState:
    """Mark the state of a healthy backend whose priority waits."""
    tracked = pool.tracked(name)
    family = pool.precedence.get(tracked.backend.family)
    waits = family is not None and tracked.effective_priority in family.waiting and tracked.counts
    return replace(state, waiting=True) if waits else state


def _reason(backend: Backend, present: Pool | None, absent: Pool) -> str:
    """Why a backend is in one of two pools only, which are the same pool at two times."""
    for named in present.named if present else ():
        if backend.name in named.backends and any(named.lookup == other.lookup for other in absent.named):
            return f"by the answer of DNS for {named.lookup}"
    return _CONFIGURED


def _still_wished(tracked: BackendHealth) -> str:
    """What the operator set of a backend before it was absent, as the end of a reason."""
    return "" if tracked.wish == BackendChange() else f"; the operator had set: {tracked.wish}"


def _changed(pool: str, tracked: BackendHealth, old: str, new: str, reason: str) -> Change:
    return Change(EventKind.BACKEND_CHANGED, pool, tracked.backend.name, old, new, reason)


def _word(up: bool) -> str:
    return "up" if up else "down"
