"""All pools and what is believed of their backends. The one place where that changes; pure but for being mutable.

Times are seconds of one monotonic clock, given by the caller. Whatever changes something returns what it changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nftlb.compiler import BackendState, Membership
from nftlb.model import Admin, Expect, Udp
from nftlb.service import EventKind

from . import ramp
from .change import Change
from .memory import PoolMemory
from .quorum import has_quorum
from .tracked import Tracked, endpoint, track
from .verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.compiler.membership import PoolState
    from nftlb.model import Config, Pool

    from .result import Result

_UNTOUCHED = BackendState()
_CONFIGURED = "by the configuration"


@dataclass(slots=True)
class TrackedPool:
    """A pool with its backends, in the order of the file.

    `lacking` is what it needs of this host and does not get, in words. `since` is when `ready` last changed.
    """

    pool: Pool
    backends: dict[str, Tracked]
    quorate: bool
    since: float
    lacking: tuple[str, ...] = ()

    @property
    def healthy(self) -> int:
        return sum(one.counts for one in self.backends.values())

    @property
    def ready(self) -> bool:
        """Whether it has its quorum, and this host what it needs."""
        return self.quorate and not self.lacking


class Fleet:
    """What is believed of all backends of a configuration."""

    def __init__(self) -> None:
        self.pools: dict[str, TrackedPool] = {}
        self._states: dict[str, PoolState] = {}
        self._stale: set[str] = set()
        self._rising: set[tuple[str, str]] = set()
        self._memory: dict[str, PoolMemory] = {}
        self._unsaved: set[str] = set()
        self._unreachable: set[tuple[str, str]] = set()
        self._doubtful: Mapping[tuple[str, str], str] = {}

    @classmethod
    def begin(cls, config: Config, memory: Mapping[str, PoolMemory], now: float) -> Fleet:
        """Begin with a configuration and what is remembered, each check as its `initial` has it."""
        fleet = cls()
        for pool in config.pools:
            known = memory.get(pool.name, PoolMemory()).backends
            backends = {one.name: track(one, pool, known.get(one.name), now) for one in pool.backends}
            fleet._put(pool, backends, None, now)
        return fleet

    def following(self, config: Config, now: float) -> tuple[Fleet, list[Change]]:
        """Another fleet, of a new configuration, and what changes with it; this one stays as it is.

        A backend that is still there keeps its state, by its name, address and port. A new one begins as `initial` has
        it and starts slowly.
        """
        fleet, changes = Fleet(), []
        fleet._unreachable, fleet._doubtful = set(self._unreachable), self._doubtful
        for pool in config.pools:
            old = self.pools.get(pool.name)
            known = old.backends if old else {}
            kept = {
                one.name: known[one.name].following(one, pool)
                for one in pool.backends
                if one.name in known and endpoint(known[one.name].backend) == endpoint(one)
            }
            backends = {one.name: kept.get(one.name) or track(one, pool, None, now) for one in pool.backends}
            gone = [tracked for name, tracked in known.items() if name not in kept]
            changes += [_changed(pool.name, tracked, "present", "absent", _CONFIGURED) for tracked in gone]
            changes += fleet._put(pool, backends, old, now)
            for name, tracked in backends.items():
                if name in kept:
                    changes += fleet._settle(pool.name, tracked, _CONFIGURED, now)
                    if tracked.risen is not None:
                        fleet._start_slowly(pool.name, tracked, tracked.risen)
                elif old:
                    fleet._start_slowly(pool.name, tracked, now if tracked.counts else None)
                    changes.append(_changed(pool.name, tracked, "absent", "present", _CONFIGURED))
        return fleet, changes

    # --- what it says ------------------------------------------------------------------------------------------------

    def membership(self, now: float) -> Membership:
        """Who takes part, for the compiler."""
        self._refresh(now)
        return Membership({name: state for name, state in self._states.items() if state})

    def state(self, pool: str, now: float) -> PoolState:
        """Of it that of one pool."""
        self._refresh(now)
        return self._states[pool]

    def next_step(self, now: float) -> float | None:
        """When `membership` changes by the time alone: the next step of a slow start; None: not at all."""
        due = []
        for pool, backend in tuple(self._rising):
            tracked = self.pools[pool].backends[backend]
            risen = tracked.risen or 0.0
            step = ramp.next_step(now - risen, self.pools[pool].pool.slow_start / 1000)
            if step is None:
                self._rising.discard((pool, backend))
                tracked.risen = None
                self._stale.add(pool)
            else:
                due.append(risen + step)
        return min(due, default=None)

    def advance(self) -> None:
        """Have slow starts looked at anew."""
        self._stale |= {pool for pool, _ in self._rising}

    def memory(self) -> dict[str, PoolMemory]:
        """What is to be remembered, by pool. Costs only what changed since it was last asked."""
        for name in self._unsaved:
            backends = {one: tracked.memory() for one, tracked in self.pools[name].backends.items()}
            self._memory[name] = PoolMemory(backends=backends)
        self._unsaved.clear()
        return dict(self._memory)

    # --- what changes it ---------------------------------------------------------------------------------------------

    def take(self, pool: str, backend: str, check: int, result: Result, now: float) -> list[Change]:
        """Hear the result of a check, by its place in the pool's list."""
        tracked = self.pools[pool].backends[backend]
        one = tracked.checks[check]
        if result.passed and one.health.check.silence_passes:
            doubt = tracked.unreachable or self._doubtful.get((pool, backend), "")
            result = replace(result, passed=False, reason=doubt) if doubt else result
        one.last, one.at = result, now
        if (
            result.passed is one.verdict.up
            and not one.verdict.pending
            and result.weight is None
            and result.admin is None
        ):
            if result.passed is tracked.was_up:
                tracked.reason = f"{one.health.check.kind}: {result.reason}"
            return []  # as nearly all do: thousands a second
        decided = result.decides and not result.passed and one.verdict.up
        one.verdict = Verdict(up=False) if decided else judge(one.verdict, passed=result.passed, health=one.health)
        self._unsaved.add(pool)
        changes = self._hear_agent(pool, tracked, result)
        reason = f"{one.health.check.kind}: {result.reason}"
        if decided:
            reason += ", after traffic was refused"
        changes += self._settle(pool, tracked, reason, now)
        if result.passed is tracked.up:
            tracked.reason = reason
        if changes:
            self._stale.add(pool)
        return changes

    def refuse(self, pool: str, backend: str, reason: str, now: float) -> list[Change]:
        """Hear that a backend refused balanced traffic: it is down at once, and its checks bring it back."""
        tracked = self.pools[pool].backends[backend]
        for one in tracked.checks:
            one.verdict = Verdict(up=False)
        self._unsaved.add(pool)
        return self._settle(pool, tracked, f"passive: {reason}", now)

    def reach(self, unreachable: Mapping[tuple[str, str], str], now: float) -> list[Change]:
        """Hear which backends this host can't send to, by pool and name, and why; it can to all others.

        Such a backend is down at once. Afterwards it is what its checks say.
        """
        changes = []
        for place in self._unreachable | unreachable.keys():
            pool, name = place
            tracked = self.pools[pool].backends.get(name) if pool in self.pools else None
            if tracked is not None:
                tracked.unreachable = unreachable.get(place, "")
                changes += self._settle(pool, tracked, tracked.unreachable or "this host can send to it again", now)
        self._unreachable = set(unreachable)
        return changes

    def doubt(self, doubtful: Mapping[tuple[str, str], str]) -> None:
        """Hear which backends have not answered yet whether they are there, and why: their silence passes no check."""
        self._doubtful = doubtful

    def lack(self, lacking: Mapping[str, tuple[str, ...]], now: float) -> None:
        """Hear what pools need of this host and do not get, by their names; all others have everything."""
        for name, pool in self.pools.items():
            before, pool.lacking = pool.ready, lacking.get(name, ())
            if pool.ready is not before:
                pool.since = now

    def hint(self, pool: str, backend: str, reason: str, now: float) -> list[Change]:
        """Hear a hint that a backend refuses balanced traffic.

        To a check that passes while no ICMP error comes, the hint is such an error, and a failure: its own may never
        come. What all other checks find decides.
        """
        tracked = self.pools[pool].backends[backend]
        for one in tracked.checks:
            if isinstance(one.health.check, Udp) and one.health.check.expect is Expect.NO_ICMP_ERROR:
                one.verdict = judge(one.verdict, passed=False, health=one.health)
        return self._settle(pool, tracked, f"udp: {reason}, said to traffic", now)

    def operate(
        self, pool: str, backend: str, now: float, *, admin: Admin | None = None, weight: int | None = None
    ) -> list[Change]:
        """Follow the operator; None leaves things as they are."""
        tracked = self.pools[pool].backends[backend]
        changes = []
        if admin is not None and admin is not tracked.wish:
            old, tracked.admin = tracked.wish, admin
            changes.append(_changed(pool, tracked, f"admin {old}", f"admin {admin}", "by the operator"))
        if weight is not None and weight != tracked.effective_weight:
            before, tracked.weight = tracked.effective_weight, weight
            changes.append(_changed(pool, tracked, f"weight {before}", f"weight {weight}", "by the operator"))
        if changes:
            self._stale.add(pool)
            self._unsaved.add(pool)
            changes += self._settle(pool, tracked, "", now)
        return changes

    # --- how ---------------------------------------------------------------------------------------------------------

    def _put(self, pool: Pool, backends: dict[str, Tracked], old: TrackedPool | None, now: float) -> list[Change]:
        tracked = self.pools[pool.name] = TrackedPool(pool, backends, quorate=False, since=now)
        self._stale.add(pool.name)
        self._unsaved.add(pool.name)
        if old is None:
            tracked.quorate = has_quorum(pool, tracked.healthy, None)
            return []
        tracked.quorate, tracked.since, tracked.lacking = old.quorate, old.since, old.lacking
        return self._settle_quorum(tracked, now)

    def _refresh(self, now: float) -> None:
        for pool in self._stale:
            self._states[pool] = self._state(self.pools[pool], now)
        self._stale.clear()

    def _state(self, pool: TrackedPool, now: float) -> PoolState:
        slow_start = pool.pool.slow_start / 1000
        states = ((name, tracked.state(now, slow_start)) for name, tracked in pool.backends.items())
        return frozenset((name, state) for name, state in states if state != _UNTOUCHED)

    def _hear_agent(self, pool: str, tracked: Tracked, result: Result) -> list[Change]:
        changes = []
        if result.weight is not None and result.weight != tracked.agent_percent:
            old, tracked.agent_percent = tracked.agent_percent, result.weight
            changes.append(_changed(pool, tracked, f"agent {old}%", f"agent {result.weight}%", "by its agent"))
        if result.admin is not None and result.admin is not (tracked.agent_admin or Admin.ENABLED):
            before, tracked.agent_admin = tracked.agent_admin or Admin.ENABLED, result.admin
            changes.append(_changed(pool, tracked, f"agent {before}", f"agent {result.admin}", "by its agent"))
        return changes

    def _settle(self, pool: str, tracked: Tracked, reason: str, now: float) -> list[Change]:
        """Draw the conclusions from whatever was changed about a backend."""
        changes = []
        if tracked.up is not tracked.was_up:
            kind = EventKind.BACKEND_UP if tracked.up else EventKind.BACKEND_DOWN
            changes.append(Change(kind, pool, tracked.backend.name, _word(not tracked.up), _word(tracked.up), reason))
            tracked.was_up, tracked.since, tracked.reason = tracked.up, now, reason
            self._stale.add(pool)
        counts = tracked.counts
        if counts is not tracked.counted:
            tracked.counted = counts
            self._start_slowly(pool, tracked, now if counts else None)
            changes += self._settle_quorum(self.pools[pool], now)
            self._stale.add(pool)
        return changes

    def _start_slowly(self, pool: str, tracked: Tracked, risen: float | None) -> None:
        place = (pool, tracked.backend.name)
        if risen is None or not self.pools[pool].pool.slow_start:
            tracked.risen = None
            self._rising.discard(place)
        else:
            tracked.risen = risen
            self._rising.add(place)

    def _settle_quorum(self, pool: TrackedPool, now: float) -> list[Change]:
        healthy = pool.healthy
        before, ready = pool.ready, has_quorum(pool.pool, healthy, pool.quorate)
        if ready is pool.quorate:
            return []
        pool.quorate = ready
        if pool.ready is not before:
            pool.since = now
        kind = EventKind.QUORUM_UP if ready else EventKind.QUORUM_DOWN
        reason = f"{healthy} of {len(pool.backends)} backends are healthy, the quorum is {pool.pool.quorum}"
        return [Change(kind, pool.pool.name, "", _word(not ready), _word(ready), reason)]


def _changed(pool: str, tracked: Tracked, old: str, new: str, reason: str) -> Change:
    return Change(EventKind.BACKEND_CHANGED, pool, tracked.backend.name, old, new, reason)


def _word(up: bool) -> str:
    return "up" if up else "down"
