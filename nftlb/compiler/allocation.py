"""Allocates conntrack zones and firewall marks to their owners, and ports to new flows. Pure.

A conntrack entry keeps the NAT of its first packet. So a zone belongs to the same backend as long as the kernel has our
tables. The allocation is read back from these tables, and is the previous allocation of the next compilation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from nftlb.errors import NftlbError
from nftlb.model import BackendKey, Encap, Family, Forward, Per, Protocol, SourceKind
from nftlb.model.kinds import family as family_of
from nftlb.model.kinds import is_link_local

from .selection import targets
from .source_ports import MASQUERADED, SOURCES, PortRange, read_ports, source_ports
from .words import WORDS, format_address

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.model import Config, Pool
    from nftlb.ruleset import Listing, Set, TableFamily

    from .selection import Target
    from .source_ports import Ports

LAST_ZONE = 0xFFFF
LAST_MARK = 0xFFFFFFFF

# The names of the sets and the chain that record an allocation, and from which it is read back.
TARGETS, HOSTS, FLOWS = "targets", "hosts", "flows"
POSTROUTING = "postrouting"

_Owner = TypeVar("_Owner")
_ZONE = re.compile(r"^counter ct original zone set ([0-9]+)")
_MARK = re.compile(r'meta mark set 0x([0-9a-f]+) (?:accept )?comment "([^"]*)"')


class BackendZone(NamedTuple):
    """The owner of a backend's zone. The owner includes all values on which the zone's conntrack entries depend.

    A backend that moves, or that shall see another source, gets another zone: the entries of a client that never pauses
    would keep the old addresses. `address` and `source` are spelled as nft prints them; `source` may also be `keep` or
    `masquerade`. `ports` is the range that translated UDP sources get their ports from, if there is one.
    """

    backend: BackendKey
    address: str
    port: int | None
    source: str
    ports: PortRange | None


class FlowZone(NamedTuple):
    """The owner of the zone of all flows that a pool balances in one family."""

    pool: str
    family: Family


ZoneOwner: TypeAlias = BackendZone | FlowZone


# An allocation and its use ask for the owners of each pool. The results are deleted together with the pool.
_OWNERS: WeakKeyDictionary[Pool, dict[tuple[Family, PortRange | None], list[BackendZone]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Allocation:
    """The numbers of owners: zones by `ZoneOwner`, and marks by the next hop that they route to (`mark_owner()`).

    `ports`, by family, are the ranges that new flows get their source ports from.
    """

    zones: Mapping[ZoneOwner, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)
    ports: Mapping[Family, Ports] = field(default_factory=dict)

    def zone(self, pool: Pool, target: Target) -> int:
        """Return the zone of the packets that a pool sends to one of its targets; 0 if there is none."""
        family = family_of(target.address)
        owners = dict(zip(targets(pool, family), zone_owners(pool, family, self.ports), strict=True))
        return self.zones.get(owners[target], 0)

    def zones_of_targets(self, pool: Pool, family: Family) -> list[tuple[Target, int]]:
        """Return each target that a pool can have in a family, with the zone of the packets that it gets."""
        zones = map(self.zones.__getitem__, zone_owners(pool, family, self.ports))
        return list(zip(targets(pool, family), zones, strict=True))


class ForeignNumbers(NamedTuple):
    """The numbers of other daemons in this network namespace. The tables of each daemon have a different name."""

    zones: frozenset[int] = frozenset()
    marks: frozenset[int] = frozenset()

    @classmethod
    def by(cls, others: Iterable[Allocation]) -> ForeignNumbers:
        """Collect the numbers of these allocations."""
        found = list(others)
        return cls(
            frozenset(zone for allocation in found for zone in allocation.zones.values()),
            frozenset(mark for allocation in found for mark in allocation.marks.values()),
        )


def zone_owners(pool: Pool, family: Family, ports: Mapping[Family, Ports]) -> list[BackendZone]:
    """Return the owner of the zone of the packets that a pool sends to each of its targets in a family.

    `ports` as in `Allocation`.
    """
    udp = ports.get(family, {}).get(Protocol.UDP)
    known = _OWNERS.setdefault(pool, {})
    if (family, udp) not in known:
        source = source_of(pool, family)
        known[family, udp] = [
            BackendZone(BackendKey(target.pool, target.name), target.host, target.port, source, udp)
            for target in targets(pool, family)
        ]
    return known[family, udp]


def source_of(pool: Pool, family: Family) -> str:
    """Return the source that a backend of a `nat` pool sees: `keep`, `masquerade` or an address.

    The result is `masquerade` if the file gives no address in that family, which only a sorry server may belong to.
    """
    if pool.source is SourceKind.KEEP:
        return str(SourceKind.KEEP)
    given = pool.source_address(family)
    return str(SourceKind.MASQUERADE) if given is None else format_address(given)


def mark_owner(target: Target) -> str:
    """Return the next hop of a target as text. A link-local address is followed by its interface.

    A tunnel to an address has another mark than the address as a neighbour.
    """
    if target.encap is not Encap.NONE:
        return f"{target.encap} {target.host}"
    hop = target.via or target.address
    return f"{format_address(hop)}%{target.device}" if is_link_local(hop) else format_address(hop)


def has_flows(pool: Pool, family: Family) -> bool:
    """Whether the pool balances connections in the family."""
    return any(is_flow(pool, listener.protocol) and listener.family is family for listener in pool.listen)


def flow_protocols(pool: Pool, family: Family) -> list[Protocol]:
    """Return the protocols of the family whose connections the pool balances, without duplicates."""
    found = [
        listener.protocol for listener in pool.listen if is_flow(pool, listener.protocol) and listener.family is family
    ]
    return list(dict.fromkeys(found))


def has_packets(pool: Pool, family: Family) -> bool:
    """Whether the pool balances single packets in the family."""
    return any(not is_flow(pool, listener.protocol) and listener.family is family for listener in pool.listen)


def is_flow(pool: Pool, protocol: Protocol) -> bool:
    """Whether the pool balances connections of the protocol, and not single packets."""
    return pool.forward is Forward.NAT and (protocol is not Protocol.UDP or pool.per is Per.FLOW)


def allocate(config: Config, previous: Allocation | None = None, taken: ForeignNumbers | None = None) -> Allocation:
    """Give every owner in the configuration a number. Owners keep their previous numbers.

    Numbers that are `taken` are left out: another daemon of this network namespace has them in its tables. So are the
    marks that checks are configured to leave with: routing rules would send these checks to the backend of that mark.
    Raises NftlbError if there are too few numbers.
    """
    previous, taken = previous or Allocation(), taken or ForeignNumbers()
    ports = source_ports(config)
    of_checks = {health.mark for pool in config.pools for health in pool.health if health.mark is not None}
    owners: list[ZoneOwner] = []
    mark_owners: list[str] = []
    for pool in config.pools:
        if pool.forward is Forward.NAT:
            for family in pool.families:
                if has_packets(pool, family):
                    owners += zone_owners(pool, family, ports)
                if has_flows(pool, family):
                    owners.append(FlowZone(pool.name, family))
        elif pool.forward is Forward.DSR:
            mark_owners += [mark_owner(target) for family in Family for target in targets(pool, family)]
    return Allocation(
        _number(owners, previous.zones, range(config.zones.first, LAST_ZONE + 1), "conntrack zones", taken.zones),
        _number(
            mark_owners, previous.marks, range(config.marks.first, LAST_MARK + 1), "marks", taken.marks | of_checks
        ),
        ports,
    )


def _number(
    owners: Iterable[_Owner], previous: Mapping[_Owner, int], allowed: range, what: str, others: Collection[int] = ()
) -> dict[_Owner, int]:
    """Return a number for each owner: its previous number, or else the lowest free number.

    If no number is free, owners get the previous numbers of owners that are gone. No owner gets a number in `others`.
    """
    wanted = dict.fromkeys(owners)
    kept = {
        owner: had
        for owner in (wanted if previous else ())
        if (had := previous.get(owner, -1)) in allowed and had not in others
    }
    taken, retired = {*others, *kept.values()}, set(previous.values())
    fresh = (number for number in allowed if number not in taken and number not in retired)
    used = (number for number in dict.fromkeys(previous.values()) if number not in taken and number in allowed)
    numbers = [(kept.get(owner) if kept else None) or next(fresh, None) or next(used, None) for owner in wanted]
    if None in numbers:
        raise NftlbError(
            f"{len(wanted)} {what} are needed, but {allowed.start} to {allowed.stop - 1} are too few: "
            f"use fewer backends, or a lower `first` under `{what.rpartition(' ')[2]}`"
        )
    return {owner: number for owner, number in zip(wanted, numbers, strict=True) if number is not None}


def read_back(listings: Mapping[TableFamily, Listing]) -> Allocation:
    """Return the allocation that the kernel's tables were compiled with.

    For some time after a change of the source ports, the tables have a backend's former zone beside the present zone,
    which is in the chain of the backend. The former zone is returned with source ports that no configuration has, so
    that no other owner gets the number.
    """
    zones: dict[ZoneOwner, int] = {}
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
        rules = [rule for chain in table.chains.values() for rule in chain.rules]
        present = {int(match[1]) for rule in rules if (match := _ZONE.match(rule))}
        for name in (TARGETS, HOSTS):
            for number, endpoint, comment in _elements(table.sets.get(name)):
                address, _, port = endpoint.partition(" . ")
                owner = BackendZone(
                    BackendKey.parse(comment),
                    address,
                    int(port) if port else None,
                    sources.get(number, str(SourceKind.KEEP)),
                    ports.get(family, {}).get(Protocol.UDP),
                )
                other = zones.get(owner)
                kept, former = (other, number) if other is not None and other in present else (number, other)
                zones[owner] = kept
                if former is not None:
                    zones[owner._replace(ports=PortRange(former, former))] = former
        zones |= {FlowZone(pool, family): zone for zone, _, pool in _elements(table.sets.get(FLOWS))}
        marks |= {mark[2]: int(mark[1], 16) for rule in rules if (mark := _MARK.search(rule))}
    return Allocation(zones, marks, ports)


def _elements(set_: Set | None) -> list[tuple[int, str, str]]:
    """Return zone, data and comment of each element. The zone is the last part of the key, or the whole key."""
    if set_ is None:
        return []
    keyed = ((element.key.rpartition(" . ")[2], element) for element in set_.elements)
    return [(int(zone), element.data, element.comment) for zone, element in keyed if zone.isdecimal()]
