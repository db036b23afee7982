"""From what is believed to what is shown: the status documents. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler.membership import Why, select
from nftlb.model import Family
from nftlb.service import BackendStatus, CheckStatus, PoolStatus

from .clock import wall

if TYPE_CHECKING:
    from collections.abc import Collection

    from nftlb.compiler.membership import PoolState
    from nftlb.daemon.counters import Counters
    from nftlb.health import Tracked, TrackedCheck, TrackedPool

_WORST_FIRST = (Why.FALLBACK, Why.PANIC, Why.HEALTHY)


def pool_status(pool: TrackedPool, state: PoolState, counters: Counters, added: Collection[str]) -> PoolStatus:
    """One pool; `state` is what the compiler was told of it, `added` who is not in the file."""
    shares, modes = _shares(pool, state)
    count = counters.of_pool(pool.pool.name)
    backends = tuple(
        _backend(pool.pool.name, tracked, shares.get(name, 0.0), counters, added=name in added)
        for name, tracked in pool.backends.items()
    )
    return PoolStatus.model_construct(
        name=pool.pool.name,
        listen=tuple(map(str, pool.pool.listen)),
        forward=pool.pool.forward,
        balance=pool.pool.balance,
        per=pool.pool.per,
        ready=pool.ready,
        lacking=pool.lacking,
        quorum=pool.pool.quorum,
        healthy=pool.healthy,
        mode=next(mode for mode in _WORST_FIRST if mode in modes),
        since=wall(pool.since),
        packets=count.packets,
        bytes=count.bytes,
        backends=backends,
    )


def backend_status(pool: TrackedPool, name: str, state: PoolState, counters: Counters, *, added: bool) -> BackendStatus:
    """One backend of a pool."""
    shares, _ = _shares(pool, state)
    return _backend(pool.pool.name, pool.backends[name], shares.get(name, 0.0), counters, added=added)


def _shares(pool: TrackedPool, state: PoolState) -> tuple[dict[str, float], set[Why]]:
    """Each backend's part of its family's packets, and how they were chosen."""
    shares: dict[str, float] = {}
    modes = set()
    listening = {one.family for one in pool.pool.listen}
    for family in Family:
        if family not in listening:
            continue
        selection = select(pool.pool, family, state)
        modes.add(selection.why)
        total = sum(weight for _, weight in selection.targets)
        shares |= {target.name: weight / total for target, weight in selection.targets}
    return shares, modes


def _backend(pool: str, tracked: Tracked, share: float, counters: Counters, *, added: bool) -> BackendStatus:
    backend = tracked.backend
    count = counters.of(pool, backend.name)
    return BackendStatus.model_construct(
        name=backend.name,
        address=str(backend.address),
        port=backend.port,
        up=tracked.up,
        admin=tracked.wish,
        agent=tracked.agent_admin,
        weight=tracked.effective_weight,
        share=round(share, 6),
        in_rotation=share > 0,
        since=wall(tracked.since),
        reason=tracked.unreachable or tracked.reason,
        added=added,
        packets=count.packets,
        bytes=count.bytes,
        checks=tuple(map(_check, tracked.checks)),
    )


def _check(check: TrackedCheck) -> CheckStatus:
    last = check.last
    return CheckStatus.model_construct(
        kind=check.health.check.kind,
        up=check.verdict.up,
        passed=None if last is None else last.passed,
        pending=check.verdict.pending,
        needed=check.verdict.needed(check.health),
        reason="" if last is None else last.reason,
        seconds=None if last is None else round(last.seconds, 6),
        at=None if check.at is None else wall(check.at),
    )
