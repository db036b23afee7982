"""The rules that span more than one place of a file. No I/O.

A rule yields `Fault`s: the path at fault, and what is wrong there. Of two places that exclude each other the later one
is at fault, and names the earlier.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, TypeAlias

from nftlb.config.foreign_tables import program_of
from nftlb.config.forwarded import unforwarded_addresses
from nftlb.config.parts import Fault, Part, Where, Whole
from nftlb.config.ranges import Ranges
from nftlb.config.replies import ambiguous_replies
from nftlb.model.kinds import (
    Balance,
    Family,
    Forward,
    IPAddress,
    Listener,
    Per,
    Protocol,
    SourceKind,
    family,
    is_link_local,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.config.places import Path
    from nftlb.model.pool import Config, Pool

Taken: TypeAlias = "dict[tuple[IPAddress, Protocol], Ranges[tuple[Path, Listener]]]"

LAST_ZONE = 65535
LAST_MARK = 0xFFFFFFFF
RESERVED_TABLES = range(253, 256)  # default, main and local: our routes there would take the host off the network


def faults(parts: list[Part], where: Where) -> Iterator[Fault]:
    """Find what the rules forbid.

    What is there twice is looked for in all that is valid. The other rules look at whole pools only: in the rest they
    would blame what merely could not be read.
    """
    taken: Taken = defaultdict(Ranges)
    yield from overlapping_listeners(parts, taken, where)
    yield from repeated_backends(parts, where)
    wholes = [part for part in parts if isinstance(part, Whole)]
    yield from balanced_again(wholes, taken, where)
    for part in wholes:
        for rule in RULES:
            yield from rule(part, where)
    yield from ambiguous_replies(wholes, where)


# --- what is there twice ---------------------------------------------------------------------------------------------


def overlapping_listeners(parts: list[Part], taken: Taken, where: Where) -> Iterator[Fault]:
    """Note in `taken` who listens to what."""
    for part in parts:
        for path, listener in part.listeners:
            ranges = taken[listener.address, listener.protocol]
            earlier = ranges.overlapping(listener.first_port, listener.last_port)
            if earlier is None:
                ranges.add(listener.first_port, listener.last_port, (path, listener))
            else:
                other = f"{earlier[1]} of {where(earlier[0])}"
                yield Fault(path, f"{listener} overlaps {other}; allowed: each address, port and protocol once")


def repeated_backends(parts: list[Part], where: Where) -> Iterator[Fault]:
    for part in parts:
        first: dict[tuple[IPAddress, int | None, str | None], Path] = {}
        for server in part.backends:
            # The same link-local address on two interfaces belongs to two hosts.
            device = server.device if is_link_local(server.address) else None
            earlier = first.setdefault((server.address, server.port, device), server.path)
            if earlier != server.path:
                message = f"{server} is also {where(earlier)}; allowed: each address and port once in a pool"
                yield Fault(server.path, f"{message} (a weight gives one backend more)")


def balanced_again(wholes: list[Whole], taken: Taken, where: Where) -> Iterator[Fault]:
    """Packets are balanced once, health checks like all that leaves this host: those would find well what gets none."""
    for part in wholes:
        for server in part.servers:
            for own in (one for _, one in part.listeners if one.family is family(server.address)):
                ranges = taken.get((server.address, own.protocol))
                ports = (own.first_port, own.last_port) if server.port is None else (server.port, server.port)
                found = ranges and ranges.overlapping(*ports)
                if found:
                    message = f"{server} is the listener {found[1]} of {where(found[0])}"
                    yield Fault(server.path, f"{message}, and nothing is balanced twice; allowed: a server")
                    break


# --- within a pool ---------------------------------------------------------------------------------------------------


def families(part: Whole, _: Where) -> Iterator[Fault]:
    listening = {listener.family for _, listener in part.listeners}
    words = " and ".join(name(one) for one in sorted(listening))
    for server in part.servers:
        if family(server.address) not in listening:
            message = f"{server} is {name(family(server.address))}, but the pool listens on {words} only"
            yield Fault(server.path, f"{message}; allowed: {words}")
    for backend in part.pool.backends:
        if backend.via is not None and family(backend.via) != backend.family:
            message = f"{backend.via} is no next hop to {backend.address}; allowed: an {name(backend.family)} address"
            yield Fault((*part.path, "backends", backend.name, "via"), message)


def per_packet(part: Whole, _: Where) -> Iterator[Fault]:
    """Refuse `per: packet` where the key has no effect: its author expects packets to be spread one by one."""
    pool = part.pool
    if "per" in part.own and pool.per is Per.PACKET and all(one.protocol is not Protocol.UDP for one in pool.listen):
        message = "per is packet, but the pool has no udp listener, and tcp and sctp are always spread by flow"
        yield Fault((*part.path, "per"), f"{message}; allowed: per: flow, or a udp listener")


def weights(part: Whole, _: Where) -> Iterator[Fault]:
    for one in Family:
        backends = [backend for backend in part.pool.backends if backend.family is one]
        if backends and not any(backend.weight for backend in backends):
            message = f"all {name(one)} backends have weight 0; allowed: at least one above 0"
            yield Fault((*part.path, "backends"), message)


def source(part: Whole, _: Where) -> Iterator[Fault]:
    path = (*part.path, "source")
    if part.pool.forward is not Forward.NAT:
        if "source" in part.given:
            yield Fault(path, f"source is given with forward: {part.pool.forward}; allowed: source with forward: nat")
    elif part.pool.source is SourceKind.ADDRESS:
        sources = {family(address) for address in part.pool.source_addresses}
        backends = {backend.family for backend in part.pool.backends}
        for one in sorted(sources - backends):
            yield Fault(path, f"an {name(one)} address is given, but no backend is {name(one)}; allowed: none of them")
        for one in sorted(backends - sources):
            yield Fault(path, f"no {name(one)} address is given for {name(one)} backends; allowed: one per family")


def ingress(part: Whole, _: Where) -> Iterator[Fault]:
    path = (*part.path, "ingress")
    if part.pool.ingress and part.pool.forward is Forward.NAT:
        yield Fault(path, "interfaces are given with forward: nat; allowed: ingress with forward: stateless or dsr")
    for interface, times in Counter(part.pool.ingress).items():
        if times > 1:
            yield Fault(path, f"{interface} is there {times} times; allowed: each interface once")


def hairpin(part: Whole, _: Where) -> Iterator[Fault]:
    """`nat` needs no telling, and with `dsr` a backend that is a client of the service answers itself."""
    if part.pool.hairpin and part.pool.forward is not Forward.STATELESS:
        message = f"hairpin is on with forward: {part.pool.forward}; allowed: hairpin with forward: stateless"
        yield Fault((*part.path, "hairpin"), message)


def destination_ports(part: Whole, where: Where) -> Iterator[Fault]:
    """Without conntrack nothing remembers the port that a packet had; `dsr` can't even change it."""
    forward = part.pool.forward
    if forward is Forward.NAT:
        return
    unchangeable = {one: _unchangeable_ports(part, one) for one in Family}
    for server in part.servers:
        for path, listener in unchangeable[family(server.address)] if server.port is not None else ():
            message = f"{server} has a port, but {listener} of {where(path)}"
            if listener.first_port != listener.last_port:
                yield Fault(server.path, f"{message} is a range; allowed: no port, with forward: {forward}")
                break
            if listener.first_port != server.port:
                yield Fault(server.path, f"{message} has another, which dsr leaves; allowed: the same port, or none")
                break


def _unchangeable_ports(part: Whole, of: Family) -> list[tuple[Path, Listener]]:
    """Give a listener for each port or range of ports that reaches the backends as it is: in `dsr` all, else ranges."""
    found: dict[tuple[int, int], tuple[Path, Listener]] = {}
    for path, one in part.listeners:
        if one.family is of and (part.pool.forward is Forward.DSR or one.first_port != one.last_port):
            found.setdefault((one.first_port, one.last_port), (path, one))
    return list(found.values())


def stateless_balance(part: Whole, where: Where) -> Iterator[Fault]:
    """Flows that no conntrack entry remembers only stay together if the balance itself keeps them so."""
    pool = part.pool
    if pool.forward is Forward.NAT or pool.balance is Balance.HASH:
        return
    rest = f"with forward: {pool.forward}, which keeps no record of flows; allowed: balance: hash"
    path = (*part.path, "balance") if "balance" in part.given else part.path
    if pool.per is Per.FLOW:
        yield Fault(path, f"balance is {pool.balance} for per: flow {rest}")
    for listening, listener in part.listeners:
        if listener.protocol is not Protocol.UDP:
            yield Fault(path, f"balance is {pool.balance} for {listener} of {where(listening)} {rest}")
            return


def passive(part: Whole, _: Where) -> Iterator[Fault]:
    pool = part.pool
    if not pool.passive:
        return
    path = (*part.path, "passive")
    if pool.forward is not Forward.NAT:
        yield Fault(path, f"passive is on with forward: {pool.forward}; allowed: passive with forward: nat")
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        yield Fault(path, "passive is on, but the pool has no udp listener; allowed: passive with a udp listener")
    if not pool.health:
        message = "passive is on, but the pool has no health check that would bring a backend back"
        yield Fault(path, f"{message}; allowed: passive with a health check")


def quorum(part: Whole, _: Where) -> Iterator[Fault]:
    """Up takes `quorum + hysteresis` healthy backends, down less than `quorum - hysteresis`: both must be possible."""
    count, wanted, beyond = len(part.pool.backends), part.pool.quorum, part.pool.hysteresis
    if wanted > count:
        yield Fault((*part.path, "quorum"), f"{wanted} is more than the pool has backends; allowed: at most {count}")
    elif beyond > min(wanted - 1, count - wanted):
        message = f"{beyond} is too much for a quorum of {wanted} and {count} backends"
        yield Fault((*part.path, "hysteresis"), f"{message}; allowed: at most {min(wanted - 1, count - wanted)}")


def health_ports(part: Whole, _: Where) -> Iterator[Fault]:
    """A backend that keeps the packet's port has one to check only if its listeners agree on it."""
    clear = {one for one in Family if len(_ports(part, one)) == 1}
    unclear = [backend.name for backend in part.pool.backends if backend.port is None and backend.family not in clear]
    for index, health in enumerate(part.pool.health if unclear else ()):
        if health.check.needs_port and health.port is None:
            message = f"no port to check: backend {unclear[0]} keeps the packet's, and that may be several"
            yield Fault((*part.path, "health", index), f"{message}; allowed: a port under health")


def _ports(part: Whole, of: Family) -> set[int]:
    return {port for _, one in part.listeners if one.family is of for port in (one.first_port, one.last_port)}


RULES: tuple[Callable[[Whole, Where], Iterator[Fault]], ...] = (
    families,
    unforwarded_addresses,
    per_packet,
    weights,
    source,
    ingress,
    hairpin,
    destination_ports,
    stateless_balance,
    passive,
    quorum,
    health_ports,
)


# --- names and numbers that are ours ---------------------------------------------------------------------------------


def table_of_others(config: Config) -> Iterator[Fault]:
    """Refuse the names of well-known programs: such a table may come at any time, also when ours is there already."""
    if who := program_of(config.table):
        yield Fault(
            ("table",), f"{config.table} is the name of a table of {who}; allowed: a name of our own, such as nftlb"
        )


def too_many_zones(config: Config) -> Iterator[Fault]:
    """Count what the compiler may need for each nat pool: a zone per server, and two more."""
    needed = sum(2 + _server_count(pool) for pool in config.pools if pool.forward is Forward.NAT)
    first = config.zones.first
    if first + needed - 1 > LAST_ZONE:
        message = f"{needed} conntrack zones are needed from {first} on; allowed: up to {LAST_ZONE}"
        yield Fault(("zones", "first"), message)


def too_many_marks(config: Config) -> Iterator[Fault]:
    needed = sum(_server_count(pool) for pool in config.pools if pool.forward is Forward.DSR)
    first = config.marks.first
    if first + needed - 1 > LAST_MARK:
        yield Fault(("marks", "first"), f"{needed} marks are needed from {first} on; allowed: up to {LAST_MARK}")
    if first < RESERVED_TABLES.stop and first + needed > RESERVED_TABLES.start:
        message = f"{needed} routing tables are needed from {first} on, and 253 to 255 are the kernel's"
        yield Fault(("marks", "first"), f"{message}; allowed: 256 or more")


def _server_count(pool: Pool) -> int:
    return len(pool.backends) + len(pool.fallback.sorry)


def name(one: Family) -> str:
    return {Family.IP: "IPv4", Family.IP6: "IPv6"}[one]
