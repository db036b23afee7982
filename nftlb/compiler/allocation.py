"""Numbers that must not change hands: conntrack zones and firewall marks, and the ports of new flows. Pure.

A conntrack entry keeps the NAT it was born with. So a zone, once given to a backend, stays that backend's for as long
as the kernel knows it; what the kernel holds is read back and passed in here as the previous allocation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.model import Family, Forward, Per, Protocol, SourceKind
from nftlb.model.kinds import family as family_of
from nftlb.model.kinds import is_link_local

from .membership import targets
from .source_ports import MASQUERADED, SOURCES, read_ports, source_ports
from .words import WORDS, write

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.model import Config, Pool
    from nftlb.ruleset import Listing, Set, TableFamily

    from .membership import Target
    from .source_ports import Ports

LAST_ZONE = 0xFFFF
LAST_MARK = 0xFFFFFFFF

# The names of the objects in which an allocation is written down, and from which it is read back.
TARGETS, HOSTS, FLOWS = "targets", "hosts", "flows"
POSTROUTING = "postrouting"

_MARK = re.compile(r'meta mark set 0x([0-9a-f]+) comment "([^"]*)"')


@dataclass(frozen=True)
class Allocation:
    """Who has which number.

    A zone's owner is one backend at one address and port that sees one source, or the flows of one pool: `zone_owner()`
    and `flow_owner()` name them. A mark's owner is the next hop that it routes to. `ports` are where new flows leave
    from, by family.
    """

    zones: Mapping[str, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)
    ports: Mapping[Family, Ports] = field(default_factory=dict)

    def zone(self, pool: Pool, target: Target) -> int:
        """The zone of the packets that a pool sends to one of its targets; 0 if it has none."""
        return self.zones.get(zone_owner(pool, target, self.ports), 0)


@dataclass(frozen=True)
class Taken:
    """The numbers of other daemons in the same network namespace, each of which has a table of another name."""

    zones: frozenset[int] = frozenset()
    marks: frozenset[int] = frozenset()

    @classmethod
    def by(cls, others: Iterable[Allocation]) -> Taken:
        found = list(others)
        return cls(
            frozenset(zone for one in found for zone in one.zones.values()),
            frozenset(mark for one in found for mark in one.marks.values()),
        )


def zone_owner(pool: Pool, target: Target, ports: Mapping[Family, Ports]) -> str:
    """A backend that sees another source gets another zone: a client that never pauses would keep the old source."""
    family = family_of(target.address)
    port = "" if target.port is None else f" {target.port}"
    return _zone_owner(f"{target.owner} {write(target.address)}{port} {source(pool, family)}", ports.get(family, {}))


def _zone_owner(text: str, ports: Ports) -> str:
    return f"{text}:{ports[Protocol.UDP]}" if Protocol.UDP in ports else text


def source(pool: Pool, family: Family) -> str:
    """What a backend of a `nat` pool sees as the source: `keep`, `masquerade` or an address.

    Masqueraded also where the file gives no address: for a family that only a sorry server is of.
    """
    if pool.source is SourceKind.KEEP:
        return str(SourceKind.KEEP)
    given = pool.source_address(family)
    return str(SourceKind.MASQUERADE) if given is None else write(given)


def flow_owner(pool: Pool, family: Family) -> str:
    return f"{pool.name} {family}"


def is_of_flows(owner: str) -> bool:
    """Whether a zone's owner is the flows of a pool, whose name has no slash, and not one backend."""
    return "/" not in owner


def mark_owner(target: Target) -> str:
    """The next hop; a link-local address is one only together with its interface."""
    hop = target.via or target.address
    return f"{write(hop)}%{target.device}" if is_link_local(hop) else write(hop)


def has_flows(pool: Pool, family: Family) -> bool:
    """Whether some listener of that family is balanced by connection."""
    return bool(flow_protocols(pool, family))


def flow_protocols(pool: Pool, family: Family) -> list[Protocol]:
    """The protocols of that family's listeners that are balanced by connection, each once."""
    found = [one.protocol for one in pool.listen if one.family == family and is_flow(pool, one.protocol)]
    return list(dict.fromkeys(found))


def has_packets(pool: Pool, family: Family) -> bool:
    """Whether some listener of that family is balanced packet by packet."""
    return any(one.family == family and not is_flow(pool, one.protocol) for one in pool.listen)


def is_flow(pool: Pool, protocol: Protocol) -> bool:
    return pool.forward is Forward.NAT and (protocol is not Protocol.UDP or pool.per is Per.FLOW)


def allocate(config: Config, previous: Allocation | None = None, taken: Taken | None = None) -> Allocation:
    """Number every owner of the configuration; whoever had a number keeps it. NftlbError if there are too few.

    Numbers that are `taken` are given to nobody: another daemon of this network namespace has them for its own tables.
    The marks that checks are told to leave with are nobody's: they would be steered to the backend whose mark it is.
    """
    previous, taken = previous or Allocation(), taken or Taken()
    ports = source_ports(config)
    of_checks = {health.mark for pool in config.pools for health in pool.health if health.mark is not None}
    zone_owners: list[str] = []
    mark_owners: list[str] = []
    for pool in config.pools:
        for family in Family:
            if pool.forward is Forward.NAT:
                if has_packets(pool, family):
                    zone_owners += [zone_owner(pool, target, ports) for target in targets(pool, family)]
                if has_flows(pool, family):
                    zone_owners.append(flow_owner(pool, family))
            elif pool.forward is Forward.DSR:
                mark_owners += [mark_owner(target) for target in targets(pool, family)]
    return Allocation(
        _number(zone_owners, previous.zones, range(config.zones.first, LAST_ZONE + 1), "conntrack zones", taken.zones),
        _number(
            mark_owners, previous.marks, range(config.marks.first, LAST_MARK + 1), "marks", taken.marks | of_checks
        ),
        ports,
    )


def _number(
    owners: Iterable[str], previous: Mapping[str, int], allowed: range, what: str, others: Collection[int] = ()
) -> dict[str, int]:
    """A number for each owner: its previous one, else the lowest one that is free.

    If none is free, the first of `previous` whose owner is gone. The numbers in `others` belong to somebody else.
    """
    wanted = dict.fromkeys(owners)
    numbers = {owner: had for owner in wanted if (had := previous.get(owner, -1)) in allowed and had not in others}
    taken, retired = {*others, *numbers.values()}, set(previous.values())
    fresh = (number for number in allowed if number not in taken and number not in retired)
    used = (number for number in dict.fromkeys(previous.values()) if number not in taken and number in allowed)
    for owner in wanted:
        if owner not in numbers:
            number = next(fresh, None) or next(used, None)
            if number is None:
                raise NftlbError(
                    f"{len(wanted)} {what} are needed, but {allowed.start} to {allowed.stop - 1} are too few"
                )
            numbers[owner] = number
    return {owner: numbers[owner] for owner in wanted}


def read_back(listings: Mapping[TableFamily, Listing]) -> Allocation:
    """The allocation that the kernel's tables were compiled with."""
    zones: dict[str, int] = {}
    marks: dict[str, int] = {}
    ports: dict[Family, Ports] = {}
    for family, words in WORDS.items():
        if words.table not in listings:
            continue
        table = listings[words.table].table
        if POSTROUTING in table.chains and (found := read_ports(table.chains[POSTROUTING].rules)):
            ports[family] = found
        sources = {zone: address for zone, address, _ in _elements(table.sets.get(SOURCES))}
        sources |= {zone: str(SourceKind.MASQUERADE) for zone, _, _ in _elements(table.sets.get(MASQUERADED))}
        for name in (TARGETS, HOSTS):
            for zone, address, owner in _elements(table.sets.get(name)):
                text = f"{owner} {address.replace(' .', '')} {sources.get(zone, SourceKind.KEEP)}"
                zones[_zone_owner(text, ports.get(family, {}))] = zone
        for zone, _, pool in _elements(table.sets.get(FLOWS)):
            zones[f"{pool} {family}"] = zone
        for chain in table.chains.values():
            for rule in chain.rules:
                if mark := _MARK.search(rule):
                    marks[mark[2]] = int(mark[1], 16)
    return Allocation(zones, marks, ports)


def _elements(one: Set | None) -> list[tuple[int, str, str]]:
    """(zone, data, comment) of each element; the zone is the last part of its key, or all of it."""
    if one is None:
        return []
    keyed = ((element.key.rpartition(" . ")[2], element) for element in one.elements)
    return [(int(zone), element.data, element.comment) for zone, element in keyed if zone.isdecimal()]
