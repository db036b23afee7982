"""The states of backends at one moment: what health decides, the compiler compiles, and the API shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .kinds import Admin


EVERY_BACKEND = "*"
"""In place of the name of a backend in a request: all backends that the pool has when the change is made."""


class BackendKey(NamedTuple):
    """A backend as nft's comments, counters and messages name it: `POOL/BACKEND`."""

    pool: str
    backend: str

    def __str__(self) -> str:
        return f"{self.pool}/{self.backend}"

    @classmethod
    def parse(cls, text: str) -> BackendKey:
        """Parse `POOL/BACKEND`. Without a slash, the pool is empty."""
        pool, _, backend = text.rpartition("/")
        return cls(pool, backend)


def by_pool(keys: Iterable[BackendKey]) -> dict[str, list[str]]:
    """The names of the backends of each pool, in the order given."""
    pools: dict[str, list[str]] = {}
    for pool, backend in keys:
        pools.setdefault(pool, []).append(backend)
    return pools


WHOLE = 100
"""The whole weight of a backend, in per cent."""


@dataclass(frozen=True, slots=True)
class BackendState:
    """The state of one backend. `admin`, `weight` and `priority` are None where the configuration's values hold.

    `percent` is the part of the weight that counts now. `panic` and `min_healthy` are compared with whole weights.
    `waiting`: the priority of the backend has enough healthy backends again, but waits before it takes packets back.
    """

    up: bool = True
    admin: Admin | None = None
    weight: int | None = None
    percent: int = WHOLE
    priority: int | None = None
    waiting: bool = False


class BackendChange(NamedTuple):
    """What an operator sets of a backend at run time; None leaves a value as it is."""

    admin: Admin | None = None
    weight: int | None = None
    priority: int | None = None

    def __str__(self) -> str:
        """The change in words: `drain, weight 3`."""
        words = (
            None if self.admin is None else str(self.admin),
            None if self.weight is None else f"weight {self.weight}",
            None if self.priority is None else f"priority {self.priority}",
        )
        return ", ".join(word for word in words if word is not None) or "nothing"


PoolState: TypeAlias = "frozenset[tuple[str, BackendState]]"
"""The names and states of a pool's backends that are not in the default state. Hashable, to be a key of caches."""
UNTOUCHED: PoolState = frozenset()
"""The state of a pool whose backends are all up, as configured."""


@dataclass(frozen=True)
class Membership:
    """The states of all pools, by name. In a pool that is not named, all backends are up, as configured."""

    pools: Mapping[str, PoolState] = field(default_factory=dict)

    @classmethod
    def with_down(cls, down: Iterable[tuple[str, str]]) -> Membership:
        """Return a membership in which every backend is up except these pairs of pool and backend."""
        pools: dict[str, set[tuple[str, BackendState]]] = {}
        for pool, backend in down:
            pools.setdefault(pool, set()).add((backend, BackendState(up=False)))
        return cls({pool: frozenset(states) for pool, states in pools.items()})

    def of(self, pool: str) -> PoolState:
        """Return the state of one pool."""
        return self.pools.get(pool, UNTOUCHED)
