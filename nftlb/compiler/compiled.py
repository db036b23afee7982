"""From a configuration to its ruleset, in two steps: rules that stay, and chains that depend on backends' states."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from nftlb.model import UNTOUCHED, Family, Forward, Membership
from nftlb.ruleset import Chain, Ruleset, Set, SharedMapping, Table, TableFamily

from . import aliases
from .allocation import allocate, mark_owner
from .connections import flow_endpoints
from .copies import add_copies, copies_version, entry_of_copies, has_copies
from .doors import drawing
from .guard import add_guard
from .in_flight import reply_rules
from .ingress import IngressForwarding, has_fast_path
from .nat import NatForwarding
from .pool_rules import PoolRules, merge_pools
from .reply_form import early_families, reply_form
from .routes import Routes, steering_hop
from .selection import select, targets
from .services import LOCAL_SERVICES, SERVICES, by_fields
from .source_ports import is_asked_from, own_questions, own_range
from .stateless import StatelessForwarding
from .tables import ip_table, netdev_table
from .versions import MOST_MAPS, Version
from .words import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nftlb.model import Config, Listener, Pool, PoolState, Protocol

    from .allocation import Allocation, ForeignNumbers
    from .connections import Endpoints
    from .doors import Drawn
    from .in_flight import Need
    from .pool_rules import Forwarding
    from .reply_form import Obstacles
    from .routes import Hop


class Compiled:
    """A compiled configuration. The object is immutable, except for its caches.

    The cost of `ruleset(membership)` depends only on the difference from the membership of the call before. The same
    configuration, membership, allocation, routes, obstacles and replies always give the same ruleset. The constructor
    raises NftlbError if there are too few zones or marks. No other error is possible.
    """

    def __init__(
        self,
        config: Config,
        allocation: Allocation | None = None,
        routes: Routes | None = None,
        taken: ForeignNumbers | None = None,
        obstacles: Obstacles | None = None,
    ) -> None:
        """`allocation` is the previous one; numbers that are `taken` belong to other daemons of this host.

        `obstacles`: why replies can't be rewritten in prerouting on this host.
        """
        self.config = config
        self.allocation = allocate(config, allocation, taken)
        self.routes = routes or Routes()
        self.obstacles = obstacles or {}
        self._early = early_families(config, self.obstacles)
        self._many = len(config.pools) > MOST_MAPS
        self._aliases = aliases.aliases(config)
        self._parts = self._fixed_parts()
        self._drawn: dict[TableFamily, Mapping[str, Drawn]] = {}
        self._looked_up: frozenset[str] = frozenset()
        self._replies: tuple[Need, ...] = ()
        self._versions: dict[tuple[str, PoolState], Mapping[TableFamily, Version]] = {}
        # The tables of the last membership. The next tables share all unchanged objects with these tables.
        self._membership = Membership()
        self._tables = self._first_tables()

    def with_replies(self, replies: Iterable[Need]) -> Compiled:
        """Return a copy whose ruleset also has what these in-flight replies of former backends need, and no others."""
        copied: Compiled = copy(self)
        copied._replies = tuple(replies)
        copied._membership = Membership()
        copied._tables = copied._first_tables()
        return copied

    def ruleset(self, membership: Membership | None = None) -> Ruleset:
        """Return the whole ruleset for these states of the backends."""
        membership = membership or Membership()
        chains: dict[TableFamily, dict[str, Chain | None]] = {family: {} for family in self._tables}
        sets: dict[TableFamily, dict[str, Set | None]] = {family: {} for family in self._tables}
        for pool in self._changed(self._membership, membership):
            for family, version in self._pool_versions(pool, self._membership.of(pool.name)).items():
                chains[family] |= dict.fromkeys(version.chains)
                sets[family] |= dict.fromkeys(version.sets)
            for family, version in self._pool_versions(pool, membership.of(pool.name)).items():
                chains[family] |= self._with_doors(family, version)
                sets[family] |= version.sets
        self._tables = {
            family: replace(
                table,
                chains=SharedMapping.of(table.chains).with_changes(chains[family]),
                sets=SharedMapping.of(table.sets).with_changes(sets[family]),
            )
            if chains[family]
            else table
            for family, table in self._tables.items()
        }
        self._membership = membership
        return Ruleset(self.config.table, self._tables)

    def connections(
        self, membership: Membership | None = None, since: Membership | None = None
    ) -> Mapping[int, Endpoints]:
        """Return, by zone of flows, the endpoints whose connections may stay. All others have to be deleted.

        With `since`, return only the zones that have lost an endpoint since that membership.
        """
        membership = membership or Membership()
        pools = self._changed(since, membership)
        now = flow_endpoints(pools, self.allocation, membership)
        if since is None:
            return now
        before = flow_endpoints(pools, self.allocation, since)
        return {zone: endpoints for zone, endpoints in now.items() if before[zone] - endpoints}

    def steered(self) -> Mapping[int, Hop]:
        """Return the hop for packets of each mark, as `steering_hop()` does."""
        return {
            self.allocation.marks[mark_owner(target)]: steering_hop(target)
            for pool in self.config.pools
            if pool.forward is Forward.DSR
            for family in Family
            for target in targets(pool, family)
        }

    def _changed(self, before: Membership | None, after: Membership) -> Iterable[Pool]:
        """Return the pools whose states differ; all pools if there is no state before."""
        if before is None:
            return self.config.pools
        names = before.pools.keys() | after.pools.keys()
        pools = [self.config.pool(name) for name in names if before.of(name) != after.of(name)]
        return [pool for pool in pools if pool is not None]

    def _first_tables(self) -> dict[TableFamily, Table]:
        """Return the tables for the default state of all backends."""
        tables = self._fixed_tables()
        chains: dict[TableFamily, dict[str, Chain | None]] = {
            family: dict(table.chains) for family, table in tables.items()
        }
        sets = {family: dict(table.sets) for family, table in tables.items()}
        for pool in self.config.pools:
            for family, version in self._pool_versions(pool, UNTOUCHED).items():
                chains[family] |= self._with_doors(family, version)
                sets[family] |= version.sets
        return {
            family: replace(
                table,
                chains=SharedMapping({name: chain for name, chain in chains[family].items() if chain is not None}),
                sets=SharedMapping(sets[family]),
            )
            for family, table in tables.items()
        }

    def _with_doors(self, family: TableFamily, version: Version) -> Mapping[str, Chain | None]:
        """Return the chains of a version with the doors that draw its slots; None for a chain that is not needed."""
        found: dict[str, Chain | None] = {**version.chains}
        drawn = self._drawn[family]
        for name in version.chains:
            if name in drawn:
                found |= drawn[name].chains(name, version.bodies.get(name))
        return found

    def _fixed_parts(self) -> dict[Family, PoolRules]:
        """Return what the pools add to the table of each IP family in which they listen."""
        found = {}
        for family in WORDS:
            listening = [pool for pool in self.config.pools if family in pool.families]
            if listening:
                local = any(pool.forward is not Forward.NAT for pool in listening)
                found[family] = merge_pools(
                    part for pool in listening for part in self._fixed_part(pool, family, local=local)
                )
        return found

    def _fixed_tables(self) -> dict[TableFamily, Table]:
        """Return the tables without the chains that depend on states of backends."""
        tables: dict[TableFamily, Table] = {}
        self._drawn = {}
        for family, words in WORDS.items():
            parts = [self._parts[family]] if family in self._parts else []
            replies = [need for need in self._replies if need.family is words.table]
            if replies:
                parts.insert(0, reply_rules(replies))  # the configuration's rules come later, so that they count
            if parts:
                ports = self.allocation.ports.get(family, {})
                part = merge_pools(parts) if replies else parts[0]
                table, entrances = ip_table(self.config.table, words, part, ports, many=self._many)
                tables[words.table], self._drawn[words.table] = table, drawing(entrances, table.chains)
        fast = merge_pools(
            self._fast_path(pool, family).fixed_rules()
            for pool in self.config.pools
            for family in Family
            if has_fast_path(pool, family, self.routes)
        )
        if fast.services:
            interfaces = dict.fromkeys(interface for pool in self.config.pools for interface in pool.ingress)
            table, entrances = netdev_table(self.config.table, fast, interfaces)
            tables[TableFamily.NETDEV], self._drawn[TableFamily.NETDEV] = table, drawing(entrances, table.chains)
            self._looked_up = frozenset().union(*(entrance.in_maps for entrance in entrances))
        return tables

    def _fixed_part(self, pool: Pool, family: Family, *, local: bool) -> tuple[PoolRules, PoolRules]:
        """Return what a pool adds to the table of a family: for its listeners, then for its targets.

        `local` says whether packets of this host itself need separate maps, because some pool can't forward these
        packets.
        """
        part = PoolRules()
        forwarding = self._ordinary(pool, family)
        protocols: dict[str, dict[Protocol, None]] = {}

        def entry(listener: Listener) -> str:
            return entry_of_copies(pool, listener) if has_copies(pool) else forwarding.entry(listener.protocol)

        for listener in pool.bound:
            if listener.family == family:
                protocols.setdefault(entry(listener), {})[listener.protocol] = None
        # A packet that a guard drops is not copied.
        first = {chain: add_guard(part, pool, family, chain, carried) for chain, carried in protocols.items()}
        for listener in pool.bound:
            if listener.family != family:
                continue
            service = by_fields(listener, first[entry(listener)], pool.name)
            for hook in (SERVICES, LOCAL_SERVICES) if local and pool.forward is Forward.NAT else (SERVICES,):
                part.add_service(hook, service)
            if pool.forward is Forward.NAT and listener.protocol in self.allocation.ports.get(family, {}):
                own_questions(part, listener, pool.name)
            aliases.add_aliases(part, listener, self._aliases.get(listener, {}), pool.name)
            if is_asked_from(pool, listener) and listener.protocol in self.allocation.ports.get(family, {}):
                own_range(part, listener, pool.name)
        if has_copies(pool):
            add_copies(part, pool, family)
        return part, forwarding.fixed_rules()

    def _ordinary(self, pool: Pool, family: Family) -> NatForwarding | StatelessForwarding:
        """Return how the ordinary chains forward a pool's packets."""
        early = family in self._early
        if pool.forward is not Forward.NAT:
            replies = reply_form(pool, family, self.obstacles)
            return StatelessForwarding(pool, family, self.allocation, self._many, replies, early)
        return NatForwarding(pool, family, self.allocation, self._many, early)

    def _fast_path(self, pool: Pool, family: Family) -> Forwarding:
        return IngressForwarding(pool, family, self.routes, self._many, self._looked_up)

    def _pool_versions(self, pool: Pool, state: PoolState) -> Mapping[TableFamily, Version]:
        key = (pool.name, state)
        if key not in self._versions:
            # Only a pool's present state and a few earlier states are worth their memory.
            if len(self._versions) > 8 * len(self.config.pools) + 64:
                self._versions.clear()
            self._versions[key] = self._compile_versions(pool, state)
        return self._versions[key]

    def _compile_versions(self, pool: Pool, state: PoolState) -> Mapping[TableFamily, Version]:
        found: dict[TableFamily, Version] = {}
        for family in pool.families:
            selection = select(pool, family, state)
            if has_copies(pool):
                ordinary = self._ordinary(pool, family)
                found[WORDS[family].table] = copies_version(pool, family, ordinary, state, selection)
            for table, forwarding in self._forwardings(pool, family):
                found[table] = found.get(table, Version()) | forwarding.version(selection)
        return found

    def _forwardings(self, pool: Pool, family: Family) -> Iterator[tuple[TableFamily, Forwarding]]:
        """Yield the ways to forward a pool's packets in a family, each with its table."""
        yield WORDS[family].table, self._ordinary(pool, family)
        if has_fast_path(pool, family, self.routes):
            yield TableFamily.NETDEV, self._fast_path(pool, family)
