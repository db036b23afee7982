"""The ports that new flows leave this host from: never the port of a service, nor an alias of one. Pure.

Rules that look for requests see only a packet's destination. Where a service's address is also an address that this
host sends from, a reply to that address and to the service's port looks like a request: it would take a turn, and might
go to a backend. So a flow whose source is translated leaves from a port at which no service listens, and so does what
this host itself asks from a service's address and port.

`stateless` and `dsr` need that only for a wide range which holds ports that Linux gives to sockets by itself: it meets
this host's own questions at random, health checks and DNS queries among them. For narrower listeners there are aliases
(`aliases.py`), which need no conntrack.

Only the first packet of a flow meets these rules. A flow keeps the port that it began with: where the range changes,
backends get other zones (`allocation.zone_owner`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Family, Forward, Protocol

from .aliases import aliases, is_wide
from .words import BY_ZONE, write
from .words import ports as written

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from nftlb.model import Config, Endpoint, Listener, Pool

    from .part import Part
    from .words import Words

FIRST, LAST = 1024, 0xFFFF
ENOUGH = 4096
"""A narrower range is not used: a backend could have no more clients' sockets at a time than there are ports."""

# The sets that the rules look up: zones whose flows are translated, zones and backends that are their own clients,
# and the services that this host may ask from.
MASQUERADED, SOURCES, HAIRPINS = "masqueraded", "sources", "hairpins"
OWN = "own-udp"
OWN_RANGES = {protocol: f"own-{protocol}-ranges" for protocol in Protocol}

EPHEMERAL = range(32768, 61000)
"""Where Linux picks ports for sockets that name none: the default of net.ipv4.ip_local_port_range."""

_RULE = re.compile(r"\b(udp|tcp|sctp)\b.*:(\d+)-(\d+)$")


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


Ports: TypeAlias = "Mapping[Protocol, PortRange]"
"""The ranges of one family; none where there is no need of one, or no room for one."""


def source_ports(config: Config) -> Mapping[Family, Ports]:
    """The widest range without a listener, wherever one is needed and wide enough."""
    found: dict[Family, dict[Protocol, PortRange]] = {}
    for (family, protocol), gap in gaps(config).items():
        if len(gap) >= ENOUGH:
            found.setdefault(family, {})[protocol] = gap
    return found


def gaps(config: Config) -> Mapping[tuple[Family, Protocol], PortRange]:
    """The widest range without a listener or an alias, for the families and protocols that need a range."""
    needed = _in_need(config)
    taken: dict[tuple[Family, Protocol], list[tuple[int, int]]] = {pair: [] for pair in needed}
    stand_ins = aliases(config) if needed else {}
    for one in (one for pool in config.pools for one in pool.listen if (one.family, one.protocol) in needed):
        of_pair = taken[one.family, one.protocol]
        of_pair.append((one.first_port, one.last_port))
        of_pair += ((alias, alias) for alias in stand_ins.get(one, {}).values())
    return {pair: widest_gap(ranges) for pair, ranges in taken.items()}


def is_asked_from(pool: Pool, listener: Listener) -> bool:
    """Whether this host's own questions leave from ports of the listener, and need conntrack for that."""
    inside = listener.first_port < EPHEMERAL.stop and listener.last_port >= EPHEMERAL.start
    return pool.forward is not Forward.NAT and is_wide(listener) and inside


def _in_need(config: Config) -> Collection[tuple[Family, Protocol]]:
    """The families and protocols whose replies could be taken for requests.

    Where all listeners of a protocol balance connections, conntrack finds the connection of a reply first. Over UDP
    that is not enough: peers ask each other from one and the same port (SIP, IKE), so that both exchanges look alike.
    """
    translated: dict[tuple[Family, Protocol], None] = {}
    untracked: set[tuple[Family, Protocol]] = set()
    asked_from: dict[tuple[Family, Protocol], None] = {}
    for pool in config.pools:
        for one in pool.listen:
            pair = (one.family, one.protocol)
            if pool.forward is Forward.NAT:
                translated[pair] = None
            else:
                untracked.add(pair)
            if pool.hairpin or is_asked_from(pool, one):
                asked_from[pair] = None
    balanced = (pair for pair in translated if pair[1] is Protocol.UDP or pair in untracked)
    return dict.fromkeys((*balanced, *asked_from))


def widest_gap(taken: Iterable[tuple[int, int]]) -> PortRange:
    """The most ports in a row, none of them privileged, that no range takes; the highest such row.

    `taken`: the first and the last port of each range.
    """
    gaps, free = [], FIRST
    for first, last in [*sorted(taken), (LAST + 1, LAST + 1)]:
        gaps.append(PortRange(free, max(first, free) - 1))
        free = max(free, last + 1)
    return max(gaps, key=lambda gap: (len(gap), gap.first))


def asks_from_service(config: Config, source: Endpoint, protocol: Protocol) -> bool:
    """Whether the source is a service's address and port of which `own_questions()` takes care."""
    return protocol is Protocol.UDP and any(
        (one.address, one.protocol) == (source.address, protocol) and one.first_port <= source.port <= one.last_port
        for pool in config.pools
        if pool.forward is Forward.NAT
        for one in pool.listen
    )


def own_questions(part: Part, listener: Listener, owner: str) -> None:
    """Have what this host itself asks from a service's address and port leave from another port.

    Only over UDP: a reply over TCP or SCTP finds its connection, whatever listens at the port that it goes to.
    """
    if listener.protocol is Protocol.UDP:
        if listener.first_port == listener.last_port:
            part.add(OWN, f"{write(listener.address)} . {written(listener)}", comment=owner)
        else:
            own_range(part, listener, owner)


def own_range(part: Part, listener: Listener, owner: str) -> None:
    """Do the same for a range of ports, whatever its protocol."""
    part.add(OWN_RANGES[listener.protocol], f"{write(listener.address)} . {written(listener)}", comment=owner)


def own_rules(words: Words, ports: Ports) -> list[tuple[str, str]]:
    """The set of each rule for this host's own questions, and the rule; `iif 0`: not forwarded."""
    named = [(OWN, Protocol.UDP), *((name, protocol) for protocol, name in OWN_RANGES.items())]
    return [
        (name, f"iif 0 {words.ip} saddr . {protocol} sport @{name} snat to :{ports[protocol]}")
        for name, protocol in named
        if protocol in ports
    ]


def translations(words: Words, part: Part, ports: Ports) -> Iterator[str]:
    """The rules that translate sources: one for each protocol with a range, one for all protocols without."""
    saddr, daddr = f"{words.ip} saddr", f"{words.ip} daddr"
    kinds = (
        (MASQUERADED, f"{BY_ZONE} @{MASQUERADED} masquerade", " to "),
        (SOURCES, f"snat to {BY_ZONE} map @{SOURCES}", ""),
        (HAIRPINS, f"ct original zone . {saddr} . {daddr} @{HAIRPINS} masquerade", " to "),
    )
    for name, rule, to in kinds:
        protocols = part.translated.get(name, {})
        for protocol in protocols:
            if protocol in ports:
                yield f"meta l4proto {protocol} {rule}{to}:{ports[protocol]}"
        if not protocols.keys() <= ports.keys():
            yield rule


def read_ports(rules: Iterable[str]) -> Ports:
    """The ranges that these rules give; the first rule of a protocol counts."""
    found: dict[Protocol, PortRange] = {}
    for rule in rules:
        if match := _RULE.search(rule):
            found.setdefault(Protocol(match[1]), PortRange(int(match[2]), int(match[3])))
    return found
