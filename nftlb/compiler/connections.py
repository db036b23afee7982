"""Which conntrack entries must go when one ruleset takes over from another. Pure.

A conntrack entry keeps the NAT it was born with, whatever the rules say now. So these have to go:

- those that a new owner finds in its zone: the kernel forgets our tables sooner than its connections;
- those of a zone of flows that nobody owns any more. In a zone that was one backend's they stay: no packet gets there
  any more, but replies that are still under way need them;
- in a zone of flows, those that lead to a backend that must not be used any more;
- in a backend's own zone, all of them if the source is rewritten otherwise than before: a client that keeps sending
  would never see the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Admin, Family

from .allocation import flow_owner, has_flows, is_of_flows
from .membership import BackendState, select, targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Backend, IPAddress, Pool
    from nftlb.ruleset import Ruleset

    from .allocation import Allocation
    from .membership import Membership, PoolState

Endpoints: TypeAlias = "frozenset[tuple[IPAddress, int | None]]"
"""Addresses with a port, or with None for every port of theirs."""

Keep: TypeAlias = "Mapping[int, Endpoints | None]"
"""By zone, the endpoints whose entries stay; None: no entry stays."""


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


def cuts(
    present: Ruleset, previous: Allocation, target: Ruleset, allocation: Allocation, flows: Mapping[int, Endpoints]
) -> Cuts:
    """What to cut on the way from the `present` ruleset to the `target`; `flows` as `flow_endpoints()` gives it."""
    had, has = _owners(previous), _owners(allocation)
    kept = {zone for zone, owner in has.items() if had.get(zone) == owner}
    handed = {zone for zone, owner in had.items() if zone not in kept and (zone in has or is_of_flows(owner))}
    before, after = _sources(present), _sources(target)
    turned = {zone for zone in kept - flows.keys() if before.get(zone) != after.get(zone)}
    return Cuts(
        # A number that changes hands at once has to be cut afterwards: the old rules are still at work.
        before={zone: flows.get(zone) for zone in has.keys() - had.keys()},
        after={**dict.fromkeys(handed | turned), **flows},
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


def _sources(ruleset: Ruleset) -> dict[int, str]:
    """How the source of each zone's packets is rewritten."""
    found: dict[int, str] = {}
    for table in ruleset.tables.values():
        for name in ("masqueraded", "sources"):
            if name in table.sets:
                elements = table.sets[name].elements
                found |= {int(one.key): one.data or name for one in elements if one.key.isdecimal()}
    return found
