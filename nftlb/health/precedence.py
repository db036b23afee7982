"""Which priority of a pool serves: a failover happens at once, a return only after `preempt_delay`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from nftlb.model import contenders, is_panic, sufficient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nftlb.model import Contender, Family, Pool, PoolState


@dataclass(frozen=True, slots=True)
class Precedence:
    """The priority that serves in one family of a pool.

    `serving` is None if no priority serves alone: all healthy backends get the packets (`shared`), or there is none.
    `waiting` are the priorities that will take the packets back, each with the time since which it has had enough
    healthy backends.
    """

    serving: int | None = None
    shared: bool = False
    waiting: Mapping[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.serving is not None:
            return str(self.serving)
        return "all" if self.shared else "none"

    def due(self, delay: float) -> float | None:
        """The time at which the first waiting priority takes over; None if none waits. `delay` is in seconds."""
        return min(self.waiting.values()) + delay if self.waiting else None


def follow(
    before: Precedence, enough: Sequence[int], *, healthy: bool, now: float, delay: float, panic: bool = False
) -> Precedence:
    """Return what follows when these priorities have enough healthy backends, the lowest first.

    `healthy`: the family has a healthy backend. `panic`: while no priority serves alone, backends that are down get
    packets too, so no priority waits then. If the priority that served has not enough any more, or if no backend
    served, the lowest with enough serves at once. A lower priority than the serving one first has to have enough for
    `delay` seconds without a break; the same is true for all priorities while all healthy backends share the packets.
    """
    lost = before.serving is not None and before.serving not in enough
    if lost or (before.serving is None and (panic or not before.shared)):
        return Precedence(enough[0]) if enough else Precedence(shared=healthy)
    waiting = {
        priority: before.waiting.get(priority, now)
        for priority in enough
        if before.serving is None or priority < before.serving
    }
    ripe = [priority for priority, since in waiting.items() if now >= since + delay]
    if not ripe:
        return Precedence(before.serving, before.serving is None and healthy, waiting)
    serving = min(ripe)
    return Precedence(serving, waiting={priority: since for priority, since in waiting.items() if priority < serving})


def settle(pool: Pool, family: Family, state: PoolState, before: Precedence, now: float) -> tuple[Precedence, str]:
    """Return what follows in one family from the states of its backends, and the reason in words."""
    all_ = contenders(pool, family, state)
    enough = sufficient(pool, all_)
    healthy = any(backend.healthy for backend in all_)
    panic = is_panic(pool, all_)
    delay = pool.preempt_delay / 1000
    after = follow(before, enough, healthy=healthy, now=now, delay=delay, panic=panic)
    if before.serving is not None and before.serving not in enough:
        reason = _count(pool, all_, before.serving)
    elif after.serving is None:
        reason = "no priority has enough usable backends"
    elif now >= before.waiting.get(after.serving, inf) + delay:
        reason = f"priority {after.serving} has had enough usable backends for {delay:g} s"
    else:
        reason = _count(pool, all_, after.serving)
    return after, reason


def _count(pool: Pool, all_: list[Contender], priority: int) -> str:
    group = [backend for backend in all_ if backend.priority == priority]
    healthy = sum(backend.healthy for backend in group)
    panic = f", panic is {pool.panic}%" if pool.panic else ""
    return (
        f"priority {priority} has {healthy} of {len(group)} backends usable, min_healthy is {pool.min_healthy}{panic}"
    )
