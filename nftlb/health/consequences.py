"""What a change by the operator would lead to, in sentences: who loses service, and what would serve instead. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Admin, FallbackKind, Forward, Per, Protocol, RotationMode, rotation_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from nftlb.model import Config, Family, Listener, Pool, PoolState, Rotation

    from .pool_health import PoolHealth


class Standing(NamedTuple):
    """A pool at one moment: its health, and the states of its backends as the compiler takes them."""

    pool: PoolHealth
    state: PoolState

    def rotation(self, family: Family) -> Rotation:
        """The backends of a family that get the packets."""
        return rotation_of(self.pool.pool, family, self.state)


def consequences(before: Standing, after: Standing) -> tuple[str, ...]:
    """Return a sentence for each loss of service between two standings of the same pool; empty if nothing is lost."""
    families = [family for family in after.pool.pool.families if family in before.pool.pool.families]
    several = len(families) > 1
    found: list[str] = []
    for family in families:
        name = f"the pool {after.pool.pool.name}{f' ({family})' if several else ''}"
        found += _of_rotation(name, before.rotation(family), after.rotation(family), after.pool)
    return (*found, *_of_quorum(before.pool, after.pool), *_of_connections(before.pool, after.pool))


_MOST_NAMED = 5
"""The most names in a sentence."""


def removals(before: Config, after: Config) -> list[str]:
    """Return a sentence for each pool, listener and backend that the configuration `after` does not have."""
    listeners = {listener for pool in after.pools for listener in pool.listen}
    found: list[str] = []
    for pool in before.pools:
        lost = [str(listener) for listener in pool.listen if listener not in listeners]
        new = after.pool(pool.name)
        if new is None:
            packets = f"; packets to {_named(lost)} would not be balanced" if lost else ""
            found.append(f"the pool {pool.name} would be removed{packets}")
        else:
            found += _removed_from(pool, new, lost)
    return found


def _removed_from(pool: Pool, new: Pool, lost: Sequence[str]) -> Iterator[str]:
    if lost:
        yield f"the pool {pool.name} would not listen on {_named(lost)} any more"
    kept = {entry.name for entry in new.backends}
    if gone := [backend.name for backend in pool.backends if backend.name not in kept]:
        yield f"the pool {pool.name} would lose {len(gone)} of its {len(pool.backends)} backends: {_named(gone)}"


def _named(names: Collection[str]) -> str:
    shown = list(names)[:_MOST_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _of_rotation(name: str, before: Rotation, after: Rotation, pool: PoolHealth) -> Iterator[str]:
    if after.mode is not before.mode:
        if after.mode is RotationMode.FALLBACK:
            yield f"{name} would have no usable backend; {_fallback(pool)}"
        elif after.mode is RotationMode.PANIC:
            yield (
                f"{name} would be in panic: less than {pool.pool.panic}% of its weight would be usable, so all "
                "enabled backends would get packets, also those that are down"
            )
    elif after.mode is RotationMode.FALLBACK and before.backends and not after.backends:
        yield f"{name} would have no enabled backend; its packets would be rejected"
    if after.mode is RotationMode.HEALTHY and before.mode is RotationMode.HEALTHY and after.priority != before.priority:
        if after.priority is None:
            yield f"{name} would have no priority with enough backends; all usable backends would share its packets"
        elif before.priority is not None and after.priority > before.priority:
            yield f"{name} would switch to priority {after.priority}, from priority {before.priority}"


def _fallback(pool: PoolHealth) -> str:
    fallback = pool.pool.fallback
    match fallback.kind:
        case FallbackKind.REJECT:
            return "its packets would be rejected"
        case FallbackKind.DROP:
            return "its packets would be dropped"
        case FallbackKind.ALL:
            return "all its enabled backends would get packets, also those that are down"
        case FallbackKind.SORRY:
            return f"its packets would go to the sorry server {' and '.join(map(str, fallback.sorry))}"


def _of_quorum(before: PoolHealth, after: PoolHealth) -> Iterator[str]:
    if before.quorate and not after.quorate:
        yield (
            f"the pool {after.pool.name} would lose its quorum, and would not be ready: {after.healthy} of "
            f"{len(after.backends)} backends would be usable, the quorum is {after.pool.quorum}"
        )


def _of_connections(before: PoolHealth, after: PoolHealth) -> Iterator[str]:
    """The backends whose connections a maintenance or a removal would cut."""
    pool = before.pool
    if pool.forward is not Forward.NAT or (pool.per is Per.PACKET and all(map(_is_udp, pool.listen))):
        return  # packets are balanced one by one
    for name, tracked in before.backends.items():
        new = after.backends.get(name)
        stops = new is None or (
            new.effective_admin is Admin.MAINTENANCE and tracked.effective_admin is not Admin.MAINTENANCE
        )
        if stops and tracked.up:
            yield f"the connections to {pool.name}/{name} would be cut at once; a drain lets them end"


def _is_udp(listener: Listener) -> bool:
    return listener.protocol is Protocol.UDP
