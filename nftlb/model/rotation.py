"""Which backends of a pool get its packets. Health, the compiler and the status share this decision. No I/O.

The backends of the lowest priority with enough healthy backends get the packets. If no priority has enough, all healthy
backends share them; below the panic threshold all enabled backends do; without any, there is the fallback. A priority
that waits does not serve alone yet (`nftlb.health.precedence`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from .kinds import Admin, FallbackKind
from .membership import BackendState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .kinds import Family
    from .membership import PoolState
    from .pool import Backend, Pool


class RotationMode(StrEnum):
    """Which backends get the packets: the healthy backends, all enabled backends in panic, or the fallback."""

    HEALTHY = "healthy"
    PANIC = "panic"
    FALLBACK = "fallback"


class Contender(NamedTuple):
    """A backend with the values that count now: a value set at run time has precedence over the configuration.

    `enabled`: the backend gets packets while it is healthy. `healthy`: the backend is enabled and up.
    """

    backend: Backend
    weight: int
    percent: int
    priority: int
    enabled: bool
    healthy: bool
    waiting: bool


class Rotation(NamedTuple):
    """The backends of one family that get the packets.

    `priority` is the priority that serves; None if no priority serves alone. `priorities` are all
    priorities of the family.
    """

    backends: tuple[Contender, ...]
    mode: RotationMode
    priority: int | None
    priorities: frozenset[int]


def contenders(pool: Pool, family: Family, state: PoolState) -> list[Contender]:
    """Return all backends of a family, in the order of the configuration."""
    states = dict(state)
    return [
        _contender(backend, states.get(backend.name, _AS_CONFIGURED))
        for backend in pool.backends
        if backend.family == family
    ]


def sufficient(pool: Pool, all_: Iterable[Contender]) -> list[int]:
    """Return the priorities with enough healthy backends, the lowest first.

    A priority needs `min_healthy`. If that is a share, backends that are down, drained or in maintenance count as not
    healthy, with their whole weight. A priority also needs the share of `panic` among its enabled backends: a priority
    that would be in panic must not serve while another priority is healthy.
    """
    groups: dict[int, list[Contender]] = {}
    for backend in all_:
        groups.setdefault(backend.priority, []).append(backend)
    return sorted(priority for priority, group in groups.items() if _is_enough(pool, group))


def is_panic(pool: Pool, all_: Iterable[Contender]) -> bool:
    """Whether the healthy share of the weight of the enabled backends is less than `panic`."""
    if not pool.panic:
        return False
    enabled = [backend for backend in all_ if backend.enabled]
    return _weight(backend for backend in enabled if backend.healthy) * 100 < pool.panic * _weight(enabled)


def rotation_of(pool: Pool, family: Family, state: PoolState) -> Rotation:
    """Decide which backends of a family get the packets."""
    all_ = contenders(pool, family, state)
    priorities = frozenset({backend.priority for backend in all_})
    healthy = [backend for backend in all_ if backend.healthy]
    waiting = {backend.priority for backend in healthy if backend.waiting}
    serving = next((priority for priority in sufficient(pool, all_) if priority not in waiting), None)
    if serving is not None:
        serves = tuple(backend for backend in healthy if backend.priority == serving)
        return Rotation(serves, RotationMode.HEALTHY, serving, priorities)
    enabled = [backend for backend in all_ if backend.enabled]
    if is_panic(pool, all_):
        return Rotation(tuple(enabled), RotationMode.PANIC, None, priorities)
    if healthy:
        return Rotation(tuple(healthy), RotationMode.HEALTHY, None, priorities)
    last = tuple(enabled) if pool.fallback.kind is FallbackKind.ALL else ()
    return Rotation(last, RotationMode.FALLBACK, None, priorities)


_AS_CONFIGURED = BackendState()


def _contender(backend: Backend, state: BackendState) -> Contender:
    weight = backend.weight if state.weight is None else state.weight
    enabled = (state.admin or backend.admin) is Admin.ENABLED and weight * state.percent > 0
    return Contender(
        backend=backend,
        weight=weight,
        percent=state.percent,
        priority=backend.priority if state.priority is None else state.priority,
        enabled=enabled,
        healthy=enabled and state.up,
        waiting=state.waiting,
    )


def _is_enough(pool: Pool, group: list[Contender]) -> bool:
    healthy = [backend for backend in group if backend.healthy]
    if not healthy or is_panic(pool, group):
        return False
    if pool.min_healthy.percent:
        return _weight(healthy) * 100 >= pool.min_healthy.amount * _weight(group)
    return len(healthy) >= pool.min_healthy.amount


def _weight(of: Iterable[Contender]) -> int:
    return sum(backend.weight for backend in of)
