"""The rules between several places of a file. No I/O.

A rule yields a `RuleViolation` for each fault. If two places exclude each other, the fault is at the later place, and
the message names the earlier place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

from nftlb.model.kinds import (
    Forward,
    IPAddress,
    Listener,
    Protocol,
    SourceKind,
    family,
    is_link_local,
)

from .pool_rules import RULES, Destination, RuleViolation, ValidParts, ValidPool, Where, most_backends
from .reading import shown_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model.pool import Config, Pool

    from .faults import Path

Owner = TypeVar("Owner")
Taken: TypeAlias = "dict[tuple[IPAddress, str, Protocol], Ranges[tuple[Path, Listener]]]"
"""The listeners by address (the unspecified address, for addresses of this host), interface and protocol."""

LAST_ZONE = 65535
LAST_MARK = 0xFFFFFFFF
RESERVED_TABLES = range(253, 256)  # default, main and local: routes of nftlb there would disconnect the host


class Ranges(Generic[Owner]):
    """Ranges of numbers that do not overlap, each with its owner. A look-up takes logarithmic time."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._rest: list[tuple[int, Owner]] = []

    def overlapping(self, first: int, last: int) -> Owner | None:
        """The owner of a range that overlaps `first` to `last`; None if no range does."""
        before = bisect_right(self._firsts, last) - 1
        if before >= 0 and self._rest[before][0] >= first:
            return self._rest[before][1]
        return None

    def add(self, first: int, last: int, owner: Owner) -> None:
        """Add a range, which must not overlap an earlier range."""
        at = bisect_right(self._firsts, first)
        self._firsts.insert(at, first)
        self._rest.insert(at, (last, owner))


def faults(parts: list[ValidParts], where: Where) -> Iterator[RuleViolation]:
    """Find all violations of the rules.

    Duplicates are searched in all valid parts. The other rules check whole pools only: in a pool with faults they would
    report options that could not be read.
    """
    taken: Taken = defaultdict(Ranges)
    yield from overlapping_listeners(parts, taken, where)
    yield from repeated_backends(parts, where)
    pools = [part for part in parts if isinstance(part, ValidPool)]
    yield from balanced_again(pools, taken, where)
    for part in pools:
        for rule in RULES:
            yield from rule(part, where)
    yield from ambiguous_replies(pools, where)
    yield from ambiguous_requests(pools, where)
    yield from shared_helped_backends(pools, where)
    yield from helped_requests(pools, where)
    yield from serving_collectors(pools, where)


# --- duplicates ------------------------------------------------------------------------------------------------------


def overlapping_listeners(parts: list[ValidParts], taken: Taken, where: Where) -> Iterator[RuleViolation]:
    """Find listeners that overlap, and record all listeners in `taken`."""
    for part in parts:
        for path, listener in part.listeners:
            ranges = taken[listener.address, listener.interface, listener.protocol]
            earlier = ranges.overlapping(listener.first_port, listener.last_port)
            if earlier is None:
                ranges.add(listener.first_port, listener.last_port, (path, listener))
            else:
                other = f"{earlier[1]} of {where(earlier[0])}"
                yield RuleViolation(path, f"{listener} overlaps {other}; allowed: each address, port and protocol once")


def repeated_backends(parts: list[ValidParts], where: Where) -> Iterator[RuleViolation]:
    for part in parts:
        first: dict[tuple[IPAddress, int | None, str | None], Path] = {}
        for server in part.backends:
            # The same link-local address on two interfaces belongs to two hosts.
            device = server.device if server.device is not None and is_link_local(server.address) else None
            earlier = first.setdefault((server.address, server.port, device), server.path)
            if earlier != server.path:
                message = f"{server} is also {where(earlier)}; allowed: each address and port once in a pool"
                yield RuleViolation(server.path, f"{message} (for a larger share, give a backend a higher weight)")


def balanced_again(pools: list[ValidPool], taken: Taken, where: Where) -> Iterator[RuleViolation]:
    """Refuse a listener as a server.

    A packet is balanced only once. But health checks leave this host and are balanced as well, so they would succeed
    for a server that receives no traffic.
    """
    listening = {address for address, interface, _ in taken if not interface}
    for part in pools:
        for server in (*part.servers, *part.collectors):
            if server.address not in listening:
                continue
            for own in (listener for _, listener in part.listeners if listener.family is family(server.address)):
                ranges = taken.get((server.address, "", own.protocol))
                ports = (own.first_port, own.last_port) if server.port is None else (server.port, server.port)
                found = ranges and ranges.overlapping(*ports)
                if found:
                    message = f"{server} is the listener {found[1]} of {where(found[0])}"
                    yield RuleViolation(
                        server.path, f"{message}, and a packet is balanced only once; allowed: the address of a server"
                    )
                    break


# --- replies ----------------------------------------------------------------------------------------------------------
#
# Without conntrack, only the source of a reply (address, port and protocol) says which listener the reply belongs to.


class ReplyRange(NamedTuple):
    """Replies from a range of ports of a server, and their new source: an address, and a shift of the port."""

    first: int
    last: int
    address: IPAddress
    shift: int
    server: Destination
    listening: Path

    def leads_elsewhere(self, other: ReplyRange) -> bool:
        return (self.address, self.shift) != (other.address, other.shift)


Replies: TypeAlias = "dict[tuple[IPAddress, Protocol], Ranges[ReplyRange]]"


def ambiguous_replies(pools: list[ValidPool], where: Where) -> Iterator[RuleViolation]:
    """Find replies that would belong to two listeners, and replies of nat that stateless would rewrite."""
    replies: Replies = defaultdict(Ranges)
    for part in pools:
        if part.pool.forward is Forward.STATELESS:
            yield from _stateless_replies(part, replies, where)
    order = {part.path: index for index, part in enumerate(pools)}
    for part in pools if replies else ():
        if part.pool.forward is Forward.NAT:
            yield from _nat_replies(part, replies, order, where)


def shared_helped_backends(pools: list[ValidPool], where: Where) -> Iterator[RuleViolation]:
    """Find servers of two pools with a helper: the server's packets can be looked up for one pool only."""
    taken: dict[IPAddress, ValidPool] = {}
    for part in pools:
        for server in part.servers if part.pool.helper else ():
            first = taken.setdefault(server.address, part)
            if first is not part:
                message = f"{server.address} is a server of {where(first.path)} too, and both pools have a helper"
                yield RuleViolation(server.path, f"{message}; needed: one pool with the listeners of both")


def helped_requests(pools: list[ValidPool], where: Where) -> Iterator[RuleViolation]:
    """Find servers with `outbound` in one pool and a helper in another, or the same.

    With `source: keep`, the helper's pool tracks everything that its servers send, and `outbound` would find nothing.
    """
    helped = {
        server.address: part
        for part in pools
        if part.pool.helper and part.pool.source is SourceKind.KEEP
        for server in part.servers
    }
    for part in pools if helped else ():
        for server in part.backends if part.pool.outbound and part.pool.forward is Forward.NAT else ():
            if server.address in helped:
                other = helped[server.address]
                message = f"{server} is a server of {where(other.path)}, whose helper with source: keep tracks all "
                allowed = "allowed: outbound for other servers, or another source beside the helper"
                yield RuleViolation(server.path, f"{message}requests of the server; {allowed}")


def ambiguous_requests(pools: list[ValidPool], where: Where) -> Iterator[RuleViolation]:
    """Find backends of nat pools with `outbound` whose own requests could leave from several addresses."""
    sources: Replies = defaultdict(Ranges)
    for part in pools:
        for protocol, source in _replies(part) if part.pool.outbound and part.pool.forward is Forward.NAT else ():
            if protocol is not Protocol.UDP or source.server not in part.backends:
                continue
            ranges = sources[source.server.address, protocol]
            earlier = ranges.overlapping(source.first, source.last)
            if earlier is None:
                ranges.add(source.first, source.last, source)
            elif source.leads_elsewhere(earlier):
                message = f"requests of {source.server} could also leave from {earlier.address} of "
                allowed = "allowed: outbound with one address for each port of a backend"
                yield RuleViolation((*part.path, "outbound"), f"{message}{where(earlier.listening)}; {allowed}")
                break


def serving_collectors(pools: list[ValidPool], where: Where) -> Iterator[RuleViolation]:
    """Find collectors that are also servers of a pool: replies of collectors are dropped, those of servers are not.

    With `dsr`, the replies of servers come from another address, and do not pass this host.
    """
    if not any(part.pool.mirror for part in pools):
        return
    serving: dict[IPAddress, list[tuple[range, Path]]] = defaultdict(list)
    for part in pools:
        for server in part.servers if part.pool.forward is not Forward.DSR else ():
            serving[server.address] += [(ports, server.path) for ports in _datagram_ports(part, server)]
    for part in pools:
        for collector in part.collectors:
            paths = [
                path
                for wanted in _datagram_ports(part, collector)
                for ports, path in serving.get(collector.address, ())
                if ports.start < wanted.stop and wanted.start < ports.stop
            ]
            if paths:
                message = f"{collector} is also {where(paths[0])}, and replies of a collector are dropped"
                yield RuleViolation(collector.path, f"{message}; allowed: another port of the server")


def _datagram_ports(part: ValidPool, server: Destination) -> list[range]:
    """Return the ports at which a server gets datagrams."""
    listeners = [
        listener
        for _, listener in part.listeners
        if listener.protocol is Protocol.UDP and listener.family is family(server.address)
    ]
    if server.port is not None:
        return [range(server.port, server.port + 1)] if listeners else []
    return [range(listener.first_port, listener.last_port + 1) for listener in listeners]


def _stateless_replies(part: ValidPool, replies: Replies, where: Where) -> Iterator[RuleViolation]:
    for protocol, reply in _replies(part):
        ranges = replies[reply.server.address, protocol]
        earlier = ranges.overlapping(reply.first, reply.last)
        if earlier is None:
            ranges.add(reply.first, reply.last, reply)
        elif not reply.leads_elsewhere(earlier):
            continue
        elif earlier.server.path == reply.server.path:
            other = f"have the same source as those of {where(earlier.listening)}: both have the same backends"
            yield RuleViolation(reply.listening, f"replies {other}; allowed: one of the two with forward: stateless")
        else:
            other = f"have the same source as those of {where(earlier.server.path)}"
            yield RuleViolation(
                reply.server.path, f"replies {other}; allowed: each server once with forward: stateless"
            )


def _nat_replies(part: ValidPool, replies: Replies, order: dict[Path, int], where: Where) -> Iterator[RuleViolation]:
    shared = {address for address, _ in replies}.intersection(server.address for server in part.servers)
    for protocol, reply in _replies(part) if shared else ():
        ranges = replies.get((reply.server.address, protocol))
        other = ranges.overlapping(reply.first, reply.last) if ranges is not None else None
        if other is not None:
            first, two = sorted((reply.server.path, other.server.path), key=lambda path: order[path[:2]])
            message = f"is also {where(first)}, and stateless would rewrite the replies of nat"
            yield RuleViolation(two, f"{message}; allowed: the same forward in all pools of a server")


def _replies(part: ValidPool) -> Iterator[tuple[Protocol, ReplyRange]]:
    for server in (*part.servers, *_unknown_servers(part)):
        for path, listener in part.listeners:
            if listener.family is not family(server.address):
                continue
            first, last = listener.first_port, listener.last_port
            if server.port is not None:
                first = last = server.port
            shift = listener.first_port - first
            yield listener.protocol, ReplyRange(first, last, listener.address, shift, server, path)


def _unknown_servers(part: ValidPool) -> Iterator[Destination]:
    """A server in each family for each name: its replies may be ambiguous whatever its address is."""
    for index, named in enumerate(part.pool.named):
        for address in (IPv4Address(index), IPv6Address(index)):
            yield Destination((*part.path, "backends", named.name), address, named.port)


# --- the names and numbers of nftlb ----------------------------------------------------------------------------------


_IPTABLES = "iptables, ip6tables, arptables and ebtables"
TABLES = {
    **dict.fromkeys(("filter", "nat", "mangle", "raw", "security", "broute"), _IPTABLES),
    **dict.fromkeys(("firewalld", "firewalld_policy_drop"), "firewalld"),
    **dict.fromkeys(("crowdsec", "crowdsec6"), "crowdsec"),
    **dict.fromkeys(("keepalived", "keepalived_ipvs"), "keepalived"),
    "docker-bridges": "Docker",
    "f2b-table": "fail2ban",
    "fw4": "OpenWrt's firewall",
    "kube-proxy": "Kubernetes",
    "libvirt_network": "libvirt",
    "miniupnpd": "miniupnpd",
    "netavark": "Podman",
    "nixos-fw": "NixOS's firewall",
    "sshguard": "sshguard",
}
"""Names of nftables tables, of any family, and the programs that make them."""
PREFIXES = {"nm-shared-": "NetworkManager", "wg-quick-": "wg-quick"}


def program_of(table: str) -> str:
    """The program that makes a table of that name; empty if no known program does."""
    named = (who for prefix, who in PREFIXES.items() if table.startswith(prefix))
    return TABLES.get(table) or next(named, "")


def table_of_others(config: Config) -> Iterator[RuleViolation]:
    """Refuse table names of well-known programs, which may make their table at any time, also after nftlb."""
    if who := program_of(config.table):
        yield RuleViolation(
            ("table",),
            f"{config.table} is a table of {who}; allowed: a name that no other program uses, such as nftlb",
        )


def impossible_ttl(config: Config) -> Iterator[RuleViolation]:
    shortest, longest = config.resolver.min_ttl, config.resolver.max_ttl
    if shortest > longest:
        message = f"{shown_duration(shortest)} is more than max_ttl, {shown_duration(longest)}; allowed: up to max_ttl"
        yield RuleViolation(("resolver", "min_ttl"), message)


def too_many_zones(config: Config) -> Iterator[RuleViolation]:
    """Count the zones that the compiler may need: for each nat pool, one per server and two more."""
    needed = sum(2 + _server_count(pool) for pool in config.pools if pool.forward is Forward.NAT)
    first = config.zones.first
    if first + needed - 1 > LAST_ZONE:
        message = f"{needed} conntrack zones from {first} on are needed, and the last zone is {LAST_ZONE}"
        message += f"; allowed: {_at_most(LAST_ZONE - needed + 1)}"
        yield RuleViolation(("zones", "first"), message)


def too_many_marks(config: Config) -> Iterator[RuleViolation]:
    needed = sum(_server_count(pool) for pool in config.pools if pool.forward is Forward.DSR)
    first = config.marks.first
    if first + needed - 1 > LAST_MARK:
        yield RuleViolation(
            ("marks", "first"),
            f"{needed} marks from {first} on are needed, and the last mark is {LAST_MARK}; "
            f"allowed: {_at_most(LAST_MARK - needed + 1)}",
        )
    if first < RESERVED_TABLES.stop and first + needed > RESERVED_TABLES.start:
        message = f"{needed} routing tables from {first} on are needed, and 253 to 255 belong to the kernel"
        yield RuleViolation(("marks", "first"), f"{message}; allowed: 256 or more")


def _at_most(number: int) -> str:
    return f"at most {number}" if number > 0 else "fewer backends"


def _server_count(pool: Pool) -> int:
    return most_backends(pool) + len(pool.fallback.sorry)
