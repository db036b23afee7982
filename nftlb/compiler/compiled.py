"""From a configuration to its ruleset, in two steps: what stays while the configuration does, and who is in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nftlb.model import Family, Forward
from nftlb.ruleset import Chain, Layers, Ruleset, Table, TableFamily, layers

from . import aliases, ingress, nat, stateless
from .allocation import allocate, is_flow, mark_owner
from .answers import answering
from .connections import flow_endpoints
from .membership import UNTOUCHED, Membership, PoolState, select, targets
from .part import Part
from .routes import Hop, Routes
from .source_ports import is_asked_from, own_questions, own_range
from .tables import ip_table, merge, netdev_table
from .versions import MOST_MAPS
from .words import WORDS, ports, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Config, Pool

    from .allocation import Allocation, Taken
    from .answers import Need
    from .connections import Endpoints


class Compiled:
    """A configuration made ready: `ruleset(membership)` then costs only what changed since it was last asked.

    The same configuration, membership, allocation, routes and answers always give the same ruleset. Raises NftlbError
    when the numbers to allocate run out; nothing else can fail.
    """

    def __init__(
        self,
        config: Config,
        allocation: Allocation | None = None,
        routes: Routes | None = None,
        taken: Taken | None = None,
    ) -> None:
        self.config = config
        self.allocation = allocate(config, allocation, taken)
        self.routes = routes or Routes()
        self._many = len(config.pools) > MOST_MAPS
        self._aliases = aliases.aliases(config)
        self._parts = self._fixed_parts()
        self._answers: tuple[Need, ...] = ()
        self._versions: dict[tuple[str, PoolState], Mapping[TableFamily, Mapping[str, Chain]]] = {}
        # What was asked for last: its tables share all that does not change with those of what is asked for next.
        self._membership = Membership()
        self._tables = self._first_tables()

    def ruleset(self, membership: Membership | None = None) -> Ruleset:
        """The whole ruleset for these states of the backends."""
        membership = membership or Membership()
        changes: dict[TableFamily, dict[str, Chain | None]] = {family: {} for family in self._tables}
        for pool in self._changed(self._membership, membership):
            for family, chains in self._pool_versions(pool, self._membership.of(pool.name)).items():
                changes[family] |= dict.fromkeys(chains)
            for family, chains in self._pool_versions(pool, membership.of(pool.name)).items():
                changes[family] |= chains
        self._tables = {
            family: replace(table, chains=layers(table.chains).changed(changes[family])) if changes[family] else table
            for family, table in self._tables.items()
        }
        self._membership = membership
        return Ruleset(self.config.table, self._tables)

    def keep(self, answers: Iterable[Need]) -> None:
        """From now on, have in the ruleset what these answers of former backends need, and no others."""
        self._answers = tuple(answers)
        self._membership = Membership()
        self._tables = self._first_tables()

    def connections(
        self, membership: Membership | None = None, since: Membership | None = None
    ) -> Mapping[int, Endpoints]:
        """For each zone of flows, the endpoints whose connections may stay; those with any other are to be cut.

        With `since`, only the zones that some endpoint has left since then.
        """
        membership = membership or Membership()
        pools = self._changed(since, membership)
        now = flow_endpoints(pools, self.allocation, membership)
        if since is None:
            return now
        before = flow_endpoints(pools, self.allocation, since)
        return {zone: endpoints for zone, endpoints in now.items() if before[zone] - endpoints}

    def steered(self) -> Mapping[int, Hop]:
        """Where packets of each mark go; a hop without a device goes where the kernel finds its address."""
        return {
            self.allocation.marks[mark_owner(target)]: Hop(target.via or target.address, target.device or "")
            for pool in self.config.pools
            if pool.forward is Forward.DSR
            for family in Family
            for target in targets(pool, family)
        }

    def _changed(self, before: Membership | None, after: Membership) -> Iterable[Pool]:
        """The pools whose states differ."""
        if before is None:
            return self.config.pools
        names = before.pools.keys() | after.pools.keys()
        pools = [self.config.pool(name) for name in names if before.of(name) != after.of(name)]
        return [pool for pool in pools if pool is not None]

    def _first_tables(self) -> dict[TableFamily, Table]:
        """The tables while every backend is as configured."""
        tables = self._fixed_tables()
        chains = {family: dict(table.chains) for family, table in tables.items()}
        for pool in self.config.pools:
            for family, versions in self._pool_versions(pool, UNTOUCHED).items():
                chains[family] |= versions
        return {family: replace(table, chains=Layers(chains[family])) for family, table in tables.items()}

    def _fixed_parts(self) -> dict[Family, Part]:
        """What pools add to the table of each IP family that they listen in."""
        found = {}
        for family in WORDS:
            listening = [pool for pool in self.config.pools if any(one.family == family for one in pool.listen)]
            if listening:
                local = any(pool.forward is not Forward.NAT for pool in listening)
                found[family] = merge(self._fixed_part(pool, family, local=local) for pool in listening)
        return found

    def _fixed_tables(self) -> dict[TableFamily, Table]:
        tables: dict[TableFamily, Table] = {}
        for family, words in WORDS.items():
            parts = [self._parts[family]] if family in self._parts else []
            answers = [need for need in self._answers if need.family is words.table]
            if answers:
                parts.insert(0, answering(answers))  # what the configuration says of the same comes later, and counts
            if parts:
                tables[words.table] = ip_table(
                    self.config.table, words, merge(parts), self.allocation.ports.get(family, {})
                )
        fast = merge(
            ingress.fixed(pool, family, WORDS[family], self.routes)
            for pool in self.config.pools
            for family in Family
            if ingress.possible(pool, family, self.routes)
        )
        if fast.elements:
            interfaces = dict.fromkeys(interface for pool in self.config.pools for interface in pool.ingress)
            tables[TableFamily.NETDEV] = netdev_table(self.config.table, fast, interfaces)
        return tables

    def _fixed_part(self, pool: Pool, family: Family, *, local: bool) -> Part:
        """`local`: whether locally sent packets need maps of their own, since some pool can't take them."""
        words = WORDS[family]
        part = Part()
        for listener in pool.listen:
            if listener.family != family:
                continue
            flow = is_flow(pool, listener.protocol)
            ranged = listener.first_port != listener.last_port
            name = "service-ranges" if ranged else "services"
            key = f"{write(listener.address)} . {listener.protocol} . {ports(listener)}"
            goto = f"goto {nat.entry(pool, flow=flow)}"
            part.add(name, key, goto, pool.name)
            if local and pool.forward is Forward.NAT:
                part.add(f"local-{name}", key, goto, pool.name)
            if pool.forward is Forward.NAT and listener.protocol in self.allocation.ports.get(family, {}):
                own_questions(part, listener, pool.name)
            aliases.add(part, listener, self._aliases.get(listener, {}), pool.name)
            if is_asked_from(pool, listener) and listener.protocol in self.allocation.ports.get(family, {}):
                own_range(part, listener, pool.name)
        if pool.forward is Forward.NAT:
            own = nat.fixed(pool, family, self.allocation)
        else:
            own = stateless.fixed(pool, family, words, self.allocation)
        return merge([part, own])

    def _pool_versions(self, pool: Pool, state: PoolState) -> Mapping[TableFamily, Mapping[str, Chain]]:
        key = (pool.name, state)
        if key not in self._versions:
            # Only the present state of a pool and a few before it are worth remembering.
            if len(self._versions) > 8 * len(self.config.pools) + 64:
                self._versions.clear()
            self._versions[key] = self._compile_versions(pool, state)
        return self._versions[key]

    def _compile_versions(self, pool: Pool, state: PoolState) -> Mapping[TableFamily, Mapping[str, Chain]]:
        found: dict[TableFamily, dict[str, Chain]] = {}
        for family, words in WORDS.items():
            if not any(one.family == family for one in pool.listen):
                continue
            selection = select(pool, family, state)
            mode = nat if pool.forward is Forward.NAT else stateless
            found[words.table] = mode.current(pool, family, selection, many=self._many)
            if ingress.possible(pool, family, self.routes):
                found.setdefault(TableFamily.NETDEV, {}).update(
                    ingress.current(pool, family, selection, many=self._many)
                )
        return found
