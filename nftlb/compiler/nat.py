"""`forward: nat`: conntrack rewrites both ways.

Packet by packet: every backend has a conntrack zone of its own, and a packet's slot picks the zone. So each backend
holds its own conntrack entry for the same client, each with its own DNAT. By flow: one zone holds all connections of
the pool, and the first packet of each picks the backend.

Zones are set in the original direction only: replies then find their entry without a rule, and what the balancer
itself exchanges with a backend is nobody's but its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Passive, Protocol, SourceKind

from .allocation import (
    FLOWS,
    HOSTS,
    TARGETS,
    flow_owner,
    flow_protocols,
    has_flows,
    has_packets,
    source,
)
from .membership import targets
from .part import Part
from .source_ports import HAIRPINS, MASQUERADED, SOURCES
from .versions import refuse, versions
from .watched import watch
from .words import endpoint, write, zone_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import Family, Pool
    from nftlb.ruleset import Chain

    from .allocation import Allocation
    from .membership import Selection, Target


def entry(pool: Pool, *, flow: bool) -> str:
    """The chain that a listener's packets go to."""
    return f"flow/{pool.name}" if flow else f"pool/{pool.name}"


def fixed(pool: Pool, family: Family, allocation: Allocation) -> Part:
    """What does not depend on who is up."""
    part = Part()
    everyone = targets(pool, family)
    if has_packets(pool, family):
        for target in everyone:
            zone = allocation.zone(pool, target)
            part.chain(f"backend/{target.owner}", f"counter ct original zone set {zone}")
            if target.port is None:
                part.add(HOSTS, zone_key(zone), write(target.address), target.owner)
            else:
                part.add(TARGETS, zone_key(zone), f"{write(target.address)} . {target.port}", target.owner)
            _translate(part, zone, source(pool, family), [target], target.owner, [Protocol.UDP])
    if has_flows(pool, family):
        zone = allocation.zones[flow_owner(pool, family)]
        part.chain(entry(pool, flow=True), f"ct original zone set {zone}")
        part.add(FLOWS, zone_key(zone), f"goto connect/{pool.name}", pool.name)
        _translate(part, zone, source(pool, family), everyone, pool.name, flow_protocols(pool, family))
        for target in everyone:
            if target.port is None:
                part.add("flow-hosts", f"{zone} . {write(target.address)}", comment=target.owner)
                part.chain(f"connection/{target.owner}", f"dnat to {write(target.address)}")
            else:
                part.add("flow-backends", f"{zone} . {write(target.address)} . {target.port}", comment=target.owner)
                destination = endpoint(target.address, target.port)
                # A rule a protocol: an anonymous set in each of these chains would make a load ten times as slow.
                rules = (f"meta l4proto {protocol} dnat to {destination}" for protocol in flow_protocols(pool, family))
                part.chain(f"connection/{target.owner}", *rules)
    if pool.refusals is not Passive.OFF:
        watch(part, pool, family, allocation)
    return part


def _translate(
    part: Part, zone: int, seen: str, everyone: Iterable[Target], owner: str, protocols: Iterable[Protocol]
) -> None:
    """Give the flows of a zone the source that backends are to see.

    With `keep`, a backend that gets its own packet must not see itself: the answer would not pass here, and not come
    from the service.
    """
    name = {str(SourceKind.MASQUERADE): MASQUERADED, str(SourceKind.KEEP): HAIRPINS}.get(seen, SOURCES)
    if name is MASQUERADED:
        part.add(name, zone_key(zone), comment=owner)
    elif name is HAIRPINS:
        for target in everyone:
            address = write(target.address)
            part.add(name, f"{zone} . {address} . {address}", comment=target.owner)
    else:
        part.add(name, zone_key(zone), seen, owner)
    if name in part.elements:
        part.translated.setdefault(name, {}).update(dict.fromkeys(protocols))


def current(pool: Pool, family: Family, selection: Selection, *, many: bool) -> dict[str, Chain]:
    """The chains that say who gets a packet now."""
    chains: dict[str, Chain] = {}
    if has_packets(pool, family):
        otherwise = refuse(selection, {Protocol.UDP})
        chains |= versions(entry(pool, flow=False), pool, family, selection, many=many, otherwise=otherwise)
    if has_flows(pool, family):
        otherwise = refuse(selection, flow_protocols(pool, family))
        name = f"connect/{pool.name}"
        chains |= versions(name, pool, family, selection, many=many, kind="connection", otherwise=otherwise)
    return chains
