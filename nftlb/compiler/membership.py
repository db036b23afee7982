"""Who takes part: from a pool and the states of its backends to the targets that share its packets. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Admin, FallbackKind

from .shares import WHOLE, shared

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Backend, Family, IPAddress, Pool

SORRY = "_sorry"  # as a backend's name; a configured one begins with a letter or a digit


@dataclass(frozen=True, slots=True)
class BackendState:
    """What is known of a backend beside its configuration; None: as configured.

    Of its weight only `percent` counts for now. Whether there is panic is judged by whole weights.
    """

    up: bool = True
    admin: Admin | None = None
    weight: int | None = None
    percent: int = WHOLE


# The states of a pool's backends that are not in the default state: hashable, so that results can be remembered.
PoolState = frozenset[tuple[str, BackendState]]
UNTOUCHED: PoolState = frozenset()


@dataclass(frozen=True)
class Membership:
    """The states of all pools; a pool that is not named has all its backends up, as configured."""

    pools: Mapping[str, PoolState] = field(default_factory=dict)

    @classmethod
    def with_down(cls, down: Iterable[tuple[str, str]]) -> Membership:
        """Every backend up but these (pool, backend)s."""
        pools: dict[str, set[tuple[str, BackendState]]] = {}
        for pool, backend in down:
            pools.setdefault(pool, set()).add((backend, BackendState(up=False)))
        return cls({pool: frozenset(states) for pool, states in pools.items()})

    def of(self, pool: str) -> PoolState:
        return self.pools.get(pool, UNTOUCHED)


@dataclass(frozen=True, slots=True)
class Target:
    """Where packets can be sent: a backend or a sorry server. `port` None keeps the packet's own."""

    pool: str
    name: str
    address: IPAddress
    port: int | None
    device: str | None = None
    via: IPAddress | None = None

    @property
    def owner(self) -> str:
        """The name that counters, zones and chains go by."""
        return f"{self.pool}/{self.name}"


class Why(StrEnum):
    """How a selection came about."""

    HEALTHY = "healthy"
    PANIC = "panic"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Selection:
    """The targets of one family of a pool with their weights, or, where there are none, what is done instead.

    `verdict` is `reject` or `drop`, and holds where `targets` is empty.
    """

    targets: tuple[tuple[Target, int], ...]
    why: Why
    verdict: FallbackKind = FallbackKind.REJECT


def targets(pool: Pool, family: Family) -> tuple[Target, ...]:
    """Everything of that family that the pool can ever send to, in the order of the file, the sorry server last."""
    backends = [_target(pool, backend) for backend in pool.backends if backend.family == family]
    return (*backends, *_sorry(pool, family))


def select(pool: Pool, family: Family, state: PoolState) -> Selection:
    """Choose: the healthy ones; all of them below the panic threshold; else what `fallback` says."""
    states = dict(state)
    healthy: list[_Candidate] = []
    enabled: list[_Candidate] = []
    for backend in pool.backends:
        if backend.family != family:
            continue
        current = states.get(backend.name, BackendState())
        weight = backend.weight if current.weight is None else current.weight
        if (current.admin or backend.admin) is not Admin.ENABLED or not weight * current.percent:
            continue
        enabled.append(_Candidate(_target(pool, backend), weight, current.percent))
        if current.up:
            healthy.append(enabled[-1])
    if _total(healthy) * 100 < pool.panic * _total(enabled):
        return Selection(_shared(enabled), Why.PANIC)
    if healthy:
        return Selection(_shared(healthy), Why.HEALTHY)
    match pool.fallback.kind:
        case FallbackKind.ALL:
            return Selection(_shared(enabled), Why.FALLBACK)
        case FallbackKind.SORRY:
            return Selection(tuple((target, 1) for target in _sorry(pool, family)), Why.FALLBACK)
        case verdict:
            return Selection((), Why.FALLBACK, verdict)


class _Candidate(NamedTuple):
    target: Target
    weight: int
    percent: int


def _total(candidates: list[_Candidate]) -> int:
    return sum(one.weight for one in candidates)


def _shared(candidates: list[_Candidate]) -> tuple[tuple[Target, int], ...]:
    weights = shared(tuple(one.weight for one in candidates), tuple(one.percent for one in candidates))
    return tuple((one.target, weight) for one, weight in zip(candidates, weights, strict=True))


def _target(pool: Pool, backend: Backend) -> Target:
    return Target(pool.name, backend.name, backend.address, backend.port, backend.device, backend.via)


def _sorry(pool: Pool, family: Family) -> tuple[Target, ...]:
    return tuple(Target(pool.name, SORRY, one.address, one.port) for one in pool.fallback.sorry if one.family == family)
