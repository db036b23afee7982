"""Which conntrack entries must go when one ruleset takes over from another. Pure.

A conntrack entry keeps the NAT it was born with, whatever the rules say now. So these have to go:

- those that a new owner finds in its zone: the kernel forgets our tables sooner than its connections;
- TCP's and SCTP's in a zone of flows that nobody owns any more. UDP's stay there, and in a zone that was one backend's:
  no packet gets there any more, but answers that are still under way need them;
- in a zone of flows, those that lead to a backend that must not be used any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Admin, Family

from .allocation import flow_owner, has_flows, is_of_flows
from .membership import BackendState, select, targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Backend, IPAddress, Pool

    from .allocation import Allocation
    from .membership import Membership, PoolState

Endpoints: TypeAlias = "frozenset[tuple[IPAddress, int | None]]"
"""Addresses with a port, or with None for every port of theirs."""


class Stay(Enum):
    """What stays of a zone, whatever it leads to."""

    NOTHING = auto()
    DATAGRAMS = auto()


Keep: TypeAlias = "Mapping[int, Endpoints | Stay]"
"""By zone, the endpoints whose entries stay, or what stays otherwise."""


@dataclass(frozen=True)
class Cuts:
    """What to cut: `before` the rules that need it, and `after` the rules that might still make such entries."""

    before: Keep
    after: Keep


def flow_endpoints(pools: Iterable[Pool], allocation: Allocation, membership: Membership) -> Mapping[int, Endpoints]:
    """By the zone of each pool's flows, the endpoints whose connections may stay."""
    return {
        allocation.zones[flow_owner(pool, family)]: _usable(pool, family, membership.of(pool.name))
        for pool in pools
        for family in Family
        if has_flows(pool, family)
    }


def cuts(previous: Allocation, allocation: Allocation, flows: Mapping[int, Endpoints]) -> Cuts:
    """What to cut on the way from one allocation to the next; `flows` as `flow_endpoints()` gives it."""
    had, has = _owners(previous), _owners(allocation)
    kept = {zone for zone, owner in has.items() if had.get(zone) == owner}
    orphans = {zone for zone, owner in had.items() if zone not in has and is_of_flows(owner)}
    # A number that changes hands at once has to be cut afterwards: the old rules are still at work.
    handed = (had.keys() & has.keys()) - kept
    return Cuts(
        before={zone: flows.get(zone, Stay.NOTHING) for zone in has.keys() - had.keys()},
        after={**dict.fromkeys(orphans, Stay.DATAGRAMS), **dict.fromkeys(handed, Stay.NOTHING), **flows},
    )


def _owners(allocation: Allocation) -> dict[int, str]:
    return {zone: owner for owner, zone in allocation.zones.items()}


def _usable(pool: Pool, family: Family, state: PoolState) -> Endpoints:
    """The backends that get new connections, and those that may finish the ones they have."""
    states = dict(state)
    names = {target.name for target, _ in select(pool, family, state).targets}
    names |= {one.name for one in pool.backends if _may_finish(one, states.get(one.name, BackendState()))}
    return frozenset((target.address, target.port) for target in targets(pool, family) if target.name in names)


def _may_finish(backend: Backend, state: BackendState) -> bool:
    return state.up and (state.admin or backend.admin) is not Admin.MAINTENANCE
