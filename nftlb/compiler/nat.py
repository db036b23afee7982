"""`forward: nat`: conntrack rewrites requests and replies.

Per packet: every backend has a conntrack zone, and a packet's slot chooses the zone. So each backend has its own
conntrack entry for the same client, with its own DNAT. Per flow: one zone holds all connections of the pool, and the
first packet of a connection chooses the backend.

Zones are set in the original direction only. So replies find their entries without a rule, and no zone holds what the
balancer itself exchanges with a backend, for instance health checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Passive, Protocol, SourceKind

from .allocation import FLOWS, HOSTS, TARGETS, FlowZone, flow_protocols, has_flows, has_packets, is_flow, source_of
from .first_packets import add_first_packets
from .outbound import add_outbound
from .pool_rules import PoolRules, ending
from .reply_counts import add_reply_counts
from .selection import targets
from .source_ports import HAIRPINS, MASQUERADED, SOURCES
from .versions import Version, refuse, version
from .watched import watch
from .words import format_endpoint, zone_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import Family, Pool

    from .allocation import Allocation
    from .selection import Selection, Target


class NatForwarding(NamedTuple):
    """`forward: nat` for one pool and family.

    `many`: the configuration has more than `MOST_MAPS` pools. `early`: prerouting rewrites replies of other pools.
    """

    pool: Pool
    family: Family
    allocation: Allocation
    many: bool
    early: bool

    def entry(self, protocol: Protocol) -> str:
        """Return the name of the entry chain: connections and single packets have different chains."""
        return f"flow/{self.pool.name}" if is_flow(self.pool, protocol) else f"pool/{self.pool.name}"

    def fixed_rules(self) -> PoolRules:
        """Return the zones of backends and flows, and their translations."""
        part = PoolRules()
        if has_packets(self.pool, self.family):
            self._add_packets(part)
        if has_flows(self.pool, self.family):
            self._add_flows(part)
        if self.pool.refusals is not Passive.OFF:
            watch(part, self.pool, self.family, self.allocation)
        if self.pool.has_reply_counts:
            add_reply_counts(part, self.pool, self.family, self.allocation)
        if self.pool.outbound:
            add_outbound(part, self.pool, self.family)
        return part

    def version(self, selection: Selection) -> Version:
        """Return what spreads packets, and what spreads new connections."""
        pool, family, many = self.pool, self.family, self.many
        found = Version()
        if has_packets(pool, family):
            otherwise = refuse(selection, {Protocol.UDP})
            found |= version(f"pool/{pool.name}", pool, family, selection, many=many, otherwise=otherwise)
        if has_flows(pool, family):
            otherwise = refuse(selection, flow_protocols(pool, family))
            name = f"connect/{pool.name}"
            found |= version(name, pool, family, selection, many=many, kind="connection", otherwise=otherwise)
        return found

    def _add_packets(self, part: PoolRules) -> None:
        seen, end = source_of(self.pool, self.family), ending(early=self.early)
        for target, zone in self.allocation.zones_of_targets(self.pool, self.family):
            part.chain(f"backend/{target.owner}", f"counter ct original zone set {zone}{end}")
            key = zone_key(zone)
            if target.port is None:
                part.add(HOSTS, key, target.host, target.owner)
            else:
                part.add(TARGETS, key, f"{target.host} . {target.port}", target.owner)
            _add_source(part, zone, [target], target.owner, seen)
        _translate(part, seen, [Protocol.UDP])

    def _add_flows(self, part: PoolRules) -> None:
        pool, every = self.pool, targets(self.pool, self.family)
        protocols = flow_protocols(pool, self.family)
        zone = self.allocation.zones[FlowZone(pool.name, self.family)]
        part.chain(f"flow/{pool.name}", f"ct original zone set {zone}{ending(early=self.early)}")
        part.add(
            FLOWS, zone_key(zone), f"goto {add_first_packets(part, pool, self.family, self.allocation)}", pool.name
        )
        seen = source_of(pool, self.family)
        _add_source(part, zone, every, pool.name, seen)
        _translate(part, seen, protocols)
        for target in every:
            key = f"{zone} . {target.host}"
            destination = format_endpoint(target.address, target.port)
            if target.port is None:
                part.add("flow-hosts", key, comment=target.owner)
                part.chain(f"connection/{target.owner}", f"dnat to {destination}")
            else:
                part.add("flow-backends", f"{key} . {target.port}", comment=target.owner)
                # There is a rule for each protocol: an anonymous set in each of these chains would make a load ten
                # times as slow.
                rules = (f"meta l4proto {protocol} dnat to {destination}" for protocol in protocols)
                part.chain(f"connection/{target.owner}", *rules)


_SETS = {str(SourceKind.MASQUERADE): MASQUERADED, str(SourceKind.KEEP): HAIRPINS}
"""The sets of the zones whose flows get another source, by the source that backends see; `SOURCES` for an address."""


def _add_source(part: PoolRules, zone: int, every: Iterable[Target], owner: str, seen: str) -> None:
    """Give the flows of a zone the source address that backends see.

    With `keep`, a backend that gets its own packet must not see its own address: its reply would not pass this host,
    and would not come from the service.
    """
    name = _SETS.get(seen, SOURCES)
    if name is MASQUERADED:
        part.add(name, zone_key(zone), comment=owner)
    elif name is HAIRPINS:
        for target in every:
            part.add(name, f"{zone} . {target.host} . {target.host}", comment=target.owner)
    else:
        part.add(name, zone_key(zone), seen, owner)


def _translate(part: PoolRules, seen: str, protocols: Iterable[Protocol]) -> None:
    """Note the protocols of the flows in the set of `_add_source()`, if it has an element."""
    name = _SETS.get(seen, SOURCES)
    if name in part.elements:
        part.translated.setdefault(name, {}).update(dict.fromkeys(protocols))
