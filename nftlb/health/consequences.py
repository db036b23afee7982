"""What a change by the operator would lead to, in sentences: who loses service, and what would serve instead. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model import Admin, FallbackKind, Forward, Per, Protocol, RotationMode, rotation_of
from nftlb.name_list import names_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from nftlb.model import Config, Family, IPAddress, Listener, PoolState, Rotation

    from .pool_health import PoolHealth

Ports: TypeAlias = "dict[tuple[IPAddress, Protocol, str], list[tuple[int, int]]]"
"""The port ranges of listeners in rising order: by address, protocol, and what else a listener stands for."""


class Standing(NamedTuple):
    """A pool at one moment: its health, and the states of its backends as the compiler takes them."""

    pool: PoolHealth
    state: PoolState

    def rotation(self, family: Family) -> Rotation:
        """The backends of a family that get the packets."""
        return rotation_of(self.pool.pool, family, self.state)


def consequences(before: Standing, after: Standing) -> tuple[str, ...]:
    """Return a sentence for each loss of service between two standings of the same pool; empty if nothing is lost."""
    return (*_of_service(before, after), *_of_connections(before.pool, _cut(before.pool, after.pool)))


MOST_SENTENCES = 100
"""The most sentences about a reload, which may change thousands of pools."""


def consequences_of_reload(before: Mapping[str, Standing], after: Mapping[str, Standing], new: Config) -> list[str]:
    """Return a sentence for each loss of service by the configuration `new`, and for each part that it does not have.

    The standings are by the name of the pool.
    """
    ports = _ports(listener for pool in new.pools for listener in pool.listen)
    gone: list[str] = []
    worse: list[str] = []
    for name, old in before.items():
        lost = [str(part) for listener in old.pool.pool.listen for part in _uncovered(listener, ports)]
        if name not in after:
            gone.append(_of_removal(old.pool, lost))
            continue
        cut = _cut(old.pool, after[name].pool)
        gone += _removed_from(old.pool, after[name].pool, lost, cut)
        worse += _of_service(old, after[name])
        worse += _of_connections(old.pool, [backend for backend in cut if backend in after[name].pool.backends])
    found = gone + worse
    if len(found) > MOST_SENTENCES:
        found[MOST_SENTENCES - 1 :] = [f"and {len(found) - MOST_SENTENCES + 1} more consequences"]
    return found


def _of_service(before: Standing, after: Standing) -> Iterator[str]:
    families = [family for family in after.pool.pool.families if family in before.pool.pool.families]
    several = len(families) > 1
    for family in families:
        name = f"the pool {after.pool.pool.name}{f' ({family})' if several else ''}"
        yield from _of_rotation(name, before.rotation(family), after.rotation(family), after.pool)
    yield from _of_quorum(before.pool, after.pool)


def _of_removal(pool: PoolHealth, lost: Collection[str]) -> str:
    packets = f"; packets to {names_text(lost)} would not be balanced" if lost else ""
    # The entries of UDP stay for in-flight replies.
    protocols = {listener.protocol: None for listener in pool.pool.listen if not _is_udp(listener)}
    cut = ""
    if protocols and pool.pool.forward is Forward.NAT and any(tracked.up for tracked in pool.backends.values()):
        cut = f"; its connections over {' and '.join(map(str, protocols))} would be cut at once"
    return f"the pool {pool.pool.name} would be removed{packets}{cut}"


def _removed_from(old: PoolHealth, new: PoolHealth, lost: Collection[str], cut: Collection[str]) -> Iterator[str]:
    name = old.pool.name
    if lost:
        yield f"the pool {name} would not listen on {names_text(lost)} any more"
    if gone := [backend for backend in old.backends if backend not in new.backends]:
        also = "" if new.backends.keys() >= set(cut) else "; connections to them would be cut at once"
        yield f"the pool {name} would lose {len(gone)} of its {len(old.backends)} backends: {names_text(gone)}{also}"


def _ports(listeners: Iterable[Listener]) -> Ports:
    found: Ports = {}
    for listener in listeners:
        place = (listener.address, listener.protocol, listener.host)
        found.setdefault(place, []).append((listener.first_port, listener.last_port))
    return {place: sorted(ranges) for place, ranges in found.items()}


def _uncovered(listener: Listener, ports: Ports) -> Iterator[Listener]:
    """The parts of a listener whose ports are not among `ports`."""
    begin = listener.first_port
    behind = listener.last_port + 1
    covered = ports.get((listener.address, listener.protocol, listener.host), [])
    for first, last in (*covered, (behind, behind)):
        end = min(first, behind) - 1
        if begin <= end:
            yield replace(listener, first_port=begin, last_port=end)
        begin = max(begin, last + 1)


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


def _cut(before: PoolHealth, after: PoolHealth) -> list[str]:
    """The backends whose connections a maintenance or a removal would cut."""
    pool = before.pool
    if pool.forward is not Forward.NAT or (pool.per is Per.PACKET and all(map(_is_udp, pool.listen))):
        return []  # packets are balanced one by one
    return [name for name, tracked in before.backends.items() if tracked.up and _stops(name, before, after)]


def _stops(name: str, before: PoolHealth, after: PoolHealth) -> bool:
    old, new = before.backends[name], after.backends.get(name)
    return new is None or (new.effective_admin is Admin.MAINTENANCE and old.effective_admin is not Admin.MAINTENANCE)


def _of_connections(pool: PoolHealth, cut: Collection[str]) -> Iterator[str]:
    if cut:
        names = names_text([f"{pool.pool.name}/{name}" for name in cut])
        yield f"the connections to {names} would be cut at once; a drain lets them end"


def _is_udp(listener: Listener) -> bool:
    return listener.protocol is Protocol.UDP
