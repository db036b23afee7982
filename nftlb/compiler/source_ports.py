"""The ports that new flows leave this host from: never the port of a service, and never an alias. Pure.

Rules find requests only by the destination of a packet. If this host also sends from a service's address, a reply to
that address and to the service's port looks like a request: it would take a slot, and might go to a backend. So a flow
whose source is translated leaves from a port at which no service listens. The same is done to flows that this host
itself begins from a service's address and port.

`stateless` and `dsr` need this only for a wide range that includes ports which Linux gives to sockets by itself: any
request of this host may then have a port of the range, also health checks and DNS queries. Narrower listeners have
aliases (`aliases.py`), which need no conntrack.

Only the first packet of a flow passes these rules, and a flow keeps its first port. So if the range changes, backends
get other zones (`allocation.BackendZone`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Family, Forward, Protocol

from .aliases import aliases, is_wide
from .words import BY_ZONE, format_address
from .words import ports as written

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from nftlb.model import Config, Endpoint, Listener, Pool

    from .pool_rules import PoolRules
    from .words import Words

FIRST, LAST = 1024, 0xFFFF
ENOUGH = 4096
"""The least number of ports of a range, which is also the most clients' sockets of a backend's port at a time."""

# The sets that the rules look up: zones whose flows are translated, zones with backends that are their own clients, and
# services that this host itself may send requests from.
MASQUERADED, SOURCES, HAIRPINS = "masqueraded", "sources", "hairpins"
OWN = "own-udp"
OWN_RANGES = {protocol: f"own-{protocol}-ranges" for protocol in Protocol}

EPHEMERAL = range(32768, 61000)
"""The ports that Linux gives to sockets: the default of net.ipv4.ip_local_port_range."""

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
"""The ranges of one family. A protocol has no range if it needs none, or if there is no room for a range."""


def source_ports(config: Config) -> Mapping[Family, Ports]:
    """Return the widest range without a listener, if a range is needed and it is wide enough."""
    found: dict[Family, dict[Protocol, PortRange]] = {}
    for (family, protocol), gap in gaps(config).items():
        if len(gap) >= ENOUGH:
            found.setdefault(family, {})[protocol] = gap
    return found


def gaps(config: Config) -> Mapping[tuple[Family, Protocol], PortRange]:
    """Return the widest range without listener or alias, for the families and protocols that need a range."""
    needed = _in_need(config)
    taken: dict[tuple[Family, Protocol], list[tuple[int, int]]] = {pair: [] for pair in needed}
    stand_ins = aliases(config) if needed else {}
    for listener in (listener for pool in config.pools for listener in pool.listen):
        if (pair := (listener.family, listener.protocol)) in needed:
            taken[pair].append((listener.first_port, listener.last_port))
            taken[pair] += ((alias, alias) for alias in stand_ins.get(listener, {}).values())
    return {pair: widest_gap(ranges) for pair, ranges in taken.items()}


def is_asked_from(pool: Pool, listener: Listener) -> bool:
    """Whether this host's own requests may leave from ports of the listener, and need conntrack for that."""
    inside = listener.first_port < EPHEMERAL.stop and listener.last_port >= EPHEMERAL.start
    return pool.forward is not Forward.NAT and is_wide(listener) and inside


def _in_need(config: Config) -> Collection[tuple[Family, Protocol]]:
    """Return the families and protocols in which a reply could look like a request.

    If all listeners of a protocol balance connections, conntrack finds the connection of a reply first. For UDP that is
    not enough: some peers send requests to each other from one port (SIP, IKE), and both flows look the same.
    """
    translated: dict[tuple[Family, Protocol], None] = {}
    untracked: set[tuple[Family, Protocol]] = set()
    asked_from: dict[tuple[Family, Protocol], None] = {}
    for pool in config.pools:
        for listener in pool.listen:
            pair = (listener.family, listener.protocol)
            if pool.forward is Forward.NAT:
                translated[pair] = None
            else:
                untracked.add(pair)
            if pool.hairpin or is_asked_from(pool, listener):
                asked_from[pair] = None
    balanced = (pair for pair in translated if pair[1] is Protocol.UDP or pair in untracked)
    return dict.fromkeys((*balanced, *asked_from))


def widest_gap(taken: Iterable[tuple[int, int]]) -> PortRange:
    """Return the widest range of unprivileged ports outside all ranges in `taken`; of equal ranges, the highest.

    `taken` has the first and last port of each range.
    """
    gaps, free = [], FIRST
    for first, last in [*sorted(taken), (LAST + 1, LAST + 1)]:
        gaps.append(PortRange(free, max(first, free) - 1))
        free = max(free, last + 1)
    return max(gaps, key=lambda gap: (len(gap), gap.first))


def asks_from_service(config: Config, source: Endpoint, protocol: Protocol) -> bool:
    """Whether the source is a service's address and port for which `own_questions()` adds an element."""
    return protocol is Protocol.UDP and any(
        (listener.address, listener.protocol) == (source.address, protocol)
        and listener.first_port <= source.port <= listener.last_port
        for pool in config.pools
        if pool.forward is Forward.NAT
        for listener in pool.listen
    )


def own_questions(part: PoolRules, listener: Listener, owner: str) -> None:
    """Add the element by which requests of this host from a service's address and port leave from another port.

    UDP alone needs that: a reply over TCP or SCTP finds its connection, whatever listens at its port.
    """
    if listener.protocol is Protocol.UDP:
        if listener.first_port == listener.last_port:
            part.add(OWN, f"{format_address(listener.address)} . {written(listener)}", comment=owner)
        else:
            own_range(part, listener, owner)


def own_range(part: PoolRules, listener: Listener, owner: str) -> None:
    """Add the same element for a range of ports, of any protocol."""
    part.add(OWN_RANGES[listener.protocol], f"{format_address(listener.address)} . {written(listener)}", comment=owner)


def own_rules(words: Words, ports: Ports) -> list[tuple[str, str]]:
    """Return the set and the text of each rule for requests of this host. `iif 0`: not forwarded."""
    named = [(OWN, Protocol.UDP), *((name, protocol) for protocol, name in OWN_RANGES.items())]
    return [
        (name, f"iif 0 {words.ip} saddr . {protocol} sport @{name} snat to :{ports[protocol]}")
        for name, protocol in named
        if protocol in ports
    ]


def translations(words: Words, part: PoolRules, ports: Ports) -> Iterator[str]:
    """Yield the rules that translate sources: one for each protocol with a range, one for all other protocols."""
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
    """Return the ranges in these rules; the first rule of a protocol counts."""
    found: dict[Protocol, PortRange] = {}
    for rule in rules:
        if match := _RULE.search(rule):
            found.setdefault(Protocol(match[1]), PortRange(int(match[2]), int(match[3])))
    return found
