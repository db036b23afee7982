"""From a pool and the states of its backends to the targets that share the pool's packets, with weights. Pure."""

from __future__ import annotations

import math
from functools import lru_cache, reduce
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from nftlb.model import QUIC_CID, WHOLE, Admin, BackendState, Balance, Encap, FallbackKind, rotation_of

from .words import format_address

if TYPE_CHECKING:
    from nftlb.model import Backend, Contender, Endpoint, Family, IPAddress, Pool, PoolState, Rotation, RotationMode

SORRY = "_sorry"
"""The name of a sorry server. No configured backend can have it: their names begin with a letter or a digit."""

MOST_SLOTS = 2048
"""The most slots of a cycle, unless the pool has so many backends that `SLOTS_PER_BACKEND` allows more.

Eight backends of any weights (up to 256) are exact. A pool of 250 backends with weights from 1 to 100 would have 12,600
slots, and its map twice as many elements. A swap sends the whole map to the kernel.
"""
SLOTS_PER_BACKEND = 8
"""The most slots for each backend, for a cycle of more than 256 backends."""


class Target(NamedTuple):
    """A server that packets can be sent to: a backend or a sorry server. With `port` None, packets keep their port.

    `owner` is `POOL/BACKEND`, the target's name in chains, and in the comments of elements and rules. `host` is the
    address as nft prints it.
    """

    pool: str
    name: str
    owner: str
    address: IPAddress
    host: str
    port: int | None
    device: str | None = None
    via: IPAddress | None = None
    server_id: bytes | None = None
    encap: Encap = Encap.NONE


class Selection(NamedTuple):
    """The targets of one family of a pool with their weights.

    `verdict` is `reject` or `drop`: what happens to packets if `targets` is empty. `priority` and `priorities`
    are those of the `Rotation`. `identified` are the targets that get the packets with their server id; others than
    those in `targets` get only these packets.
    """

    targets: tuple[tuple[Target, int], ...]
    mode: RotationMode
    verdict: FallbackKind = FallbackKind.REJECT
    priority: int | None = None
    priorities: frozenset[int] = frozenset()
    identified: tuple[Target, ...] = ()


# The compiler asks for the targets of each pool several times. The results are deleted together with the pool.
_TARGETS: WeakKeyDictionary[Pool, dict[Family, tuple[Target, ...]]] = WeakKeyDictionary()


def targets(pool: Pool, family: Family) -> tuple[Target, ...]:
    """Return all targets that a pool can have in a family: backends in the order of the file, then a sorry server."""
    known = _TARGETS.get(pool)
    if known is None:
        known = _TARGETS[pool] = {}
    if family not in known:
        known[family] = (
            *(
                _target(pool, backend, backend.name, backend.device, backend.via, backend.server_id)
                for backend in _backends(pool, family)
            ),
            *_sorry(pool, family),
        )
    return known[family]


def select(pool: Pool, family: Family, state: PoolState) -> Selection:
    """Return the targets of the backends that get the packets; without any, the sorry server or the verdict."""
    chosen = rotation_of(pool, family, state)
    priorities = (chosen.priority, chosen.priorities, _identified(pool, family, state, chosen))
    if chosen.backends or pool.fallback.kind is FallbackKind.ALL:
        return Selection(_shared(pool, family, chosen.backends), chosen.mode, FallbackKind.REJECT, *priorities)
    if pool.fallback.kind is FallbackKind.SORRY:
        last = tuple((target, 1) for target in _sorry(pool, family))
        return Selection(last, chosen.mode, FallbackKind.REJECT, *priorities)
    return Selection((), chosen.mode, pool.fallback.kind, *priorities)


def may_finish(backend: Backend, state: BackendState) -> bool:
    """Whether a backend keeps its connections, also if it gets no new ones."""
    return state.up and (state.admin or backend.admin) is not Admin.MAINTENANCE


def _identified(pool: Pool, family: Family, state: PoolState, chosen: Rotation) -> tuple[Target, ...]:
    """Return the targets that get the packets with their server id: connections stay there."""
    if pool.balance is not Balance.HASH or pool.key != QUIC_CID:
        return ()
    states = dict(state)
    kept = {contender.backend.name for contender in chosen.backends}
    kept |= {backend.name for backend in pool.backends if may_finish(backend, states.get(backend.name, BackendState()))}
    return tuple(target for target in targets(pool, family) if target.server_id is not None and target.name in kept)


@lru_cache(maxsize=4096)
def weights_of_parts(weights: tuple[int, ...], percents: tuple[int, ...], most: float) -> tuple[int, ...]:
    """Return whole numbers in the proportion of weight times per cent, with a sum of some `most` slots at the most.

    A backend has a part of its weight while it starts slowly, or when its agent asks for less. A part above 0 gives a
    number above 0. The numbers are exact if their sum, without their common factor, is up to `most`. If all parts are
    whole too, the result is `weights` unchanged, so that the ruleset does not change. Otherwise each number is rounded:
    if the sum of n numbers is N, the share s of a backend is wrong by less than (1 + n * s) / N.
    """
    exact = tuple(weight * percent for weight, percent in zip(weights, percents, strict=True))
    total = sum(exact)
    divisor = reduce(math.gcd, exact, 0) or 1
    if total // divisor <= most:
        whole = all(percent == WHOLE for percent in percents)
        return weights if whole else tuple(part // divisor for part in exact)
    return tuple(max(1, round(part * most / total)) if part else 0 for part in exact)


def most_slots(pool: Pool, backends: int) -> float:
    """Return the slots of the longest cycle. A hash table has its own number of slots, so its weights stay exact."""
    return math.inf if pool.balance is Balance.HASH else max(MOST_SLOTS, SLOTS_PER_BACKEND * backends)


_WEIGHT, _PERCENT = attrgetter("weight"), attrgetter("percent")


def _shared(pool: Pool, family: Family, backends: tuple[Contender, ...]) -> tuple[tuple[Target, int], ...]:
    by_name = {target.name: target for target in targets(pool, family)}
    weights = weights_of_parts(
        tuple(map(_WEIGHT, backends)),
        tuple(map(_PERCENT, backends)),
        most_slots(pool, len(backends)),
    )
    return tuple((by_name[contender.backend.name], weight) for contender, weight in zip(backends, weights, strict=True))


def _backends(pool: Pool, family: Family) -> list[Backend]:
    return [backend for backend in pool.backends if backend.family is family]


def _target(
    pool: Pool,
    server: Backend | Endpoint,
    name: str,
    device: str | None = None,
    via: IPAddress | None = None,
    server_id: bytes | None = None,
) -> Target:
    owner, host = f"{pool.name}/{name}", format_address(server.address)  # the owner is the text of a `BackendKey`
    return Target(pool.name, name, owner, server.address, host, server.port, device, via, server_id, pool.encap)


def _sorry(pool: Pool, family: Family) -> tuple[Target, ...]:
    return tuple(_target(pool, endpoint, SORRY) for endpoint in pool.fallback.sorry if endpoint.family == family)
