"""Which conntrack entries have to be deleted when one ruleset replaces another. Pure.

A conntrack entry keeps the NAT of its first packet, whatever the rules say later. So these entries are deleted:

- entries that are in a zone when a new owner gets it: the kernel may have entries after our tables are gone;
- entries of TCP and SCTP in a zone of flows that has no owner any more. Entries of UDP stay, also in a zone that was a
  backend's: no request gets there any more, but in-flight replies need them;
- entries in a zone of flows that lead to a backend that must not be used any more.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model import BackendState, Family

from .allocation import FlowZone, has_flows
from .selection import may_finish, select, targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import IPAddress, Membership, Pool, PoolState

    from .allocation import Allocation, ZoneOwner

Endpoints: TypeAlias = "frozenset[tuple[IPAddress, int | None]]"
"""Addresses, each with a port, or with None for all ports."""


class Stay(Enum):
    """Which entries of a zone stay, whatever endpoint they lead to."""

    NOTHING = auto()
    DATAGRAMS = auto()


Keep: TypeAlias = "Mapping[int, Endpoints | Stay]"
"""By zone, the endpoints whose entries stay, or which entries stay whatever their endpoint."""


class Cuts(NamedTuple):
    """What stays in each zone at the deletion `before` new rules are loaded, and at that `after` old rules are removed.

    New rules need clean zones. Old rules may make entries until they are removed.
    """

    before: Keep
    after: Keep


def flow_endpoints(pools: Iterable[Pool], allocation: Allocation, membership: Membership) -> Mapping[int, Endpoints]:
    """Return the endpoints whose connections may stay, by the zone of each pool's flows."""
    return {
        allocation.zones[FlowZone(pool.name, family)]: _usable(pool, family, membership.of(pool.name))
        for pool in pools
        for family in Family
        if has_flows(pool, family)
    }


def cuts(previous: Allocation, allocation: Allocation, flows: Mapping[int, Endpoints]) -> Cuts:
    """Return what to delete between one allocation and the next; `flows` is the result of `flow_endpoints()`."""
    had, has = _owners(previous), _owners(allocation)
    kept = {zone for zone, owner in has.items() if had.get(zone) == owner}
    orphans = {zone for zone, owner in had.items() if zone not in has and isinstance(owner, FlowZone)}
    # If a zone gets a new owner at once, its entries are deleted afterwards: the old rules are in use until then.
    handed = (had.keys() & has.keys()) - kept
    return Cuts(
        before={zone: flows.get(zone, Stay.NOTHING) for zone in has.keys() - had.keys()},
        after={**dict.fromkeys(orphans, Stay.DATAGRAMS), **dict.fromkeys(handed, Stay.NOTHING), **flows},
    )


def _owners(allocation: Allocation) -> dict[int, ZoneOwner]:
    return {zone: owner for owner, zone in allocation.zones.items()}


def _usable(pool: Pool, family: Family, state: PoolState) -> Endpoints:
    """Return the endpoints that get new connections, and those that may finish their connections."""
    states = dict(state)
    names = {target.name for target, _ in select(pool, family, state).targets}
    names |= {
        backend.name for backend in pool.backends if may_finish(backend, states.get(backend.name, BackendState()))
    }
    return frozenset((target.address, target.port) for target in targets(pool, family) if target.name in names)
