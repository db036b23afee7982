"""The rules between the options of one pool, and the form in which rules receive pools. No I/O."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model.checks import Agent
from nftlb.model.hash_keys import ADDRESS_BITS, LONGEST_ID, QUIC_CID
from nftlb.model.kinds import (
    Balance,
    Encap,
    Family,
    Forward,
    IPAddress,
    Listener,
    Per,
    Protocol,
    Replies,
    SourceKind,
    endpoint_text,
    family,
    is_link_local,
    unforwarded,
)
from nftlb.model.names import MOST_ADDRESSES
from nftlb.model.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nftlb.model.pool import Backend

    from .faults import Path

Where: TypeAlias = "Callable[[Path], str]"


LONGEST_NAME = 24
"""The longest name of a backend with a host name: an address and a port follow it in the names of its backends, and the
kernel stores comments of at most 127 bytes."""
_ADDRESS = re.compile(r"[0-9a-f.-]+(?:-[0-9]+)?")


class RuleViolation(NamedTuple):
    """A fault at a path."""

    path: Path
    message: str


class Destination(NamedTuple):
    """A server that packets of a pool reach: a backend or a sorry server. Without a port, a packet keeps its port."""

    path: Path
    address: IPAddress
    port: int | None
    device: str | None = None

    def __str__(self) -> str:
        return str(self.address) if self.port is None else endpoint_text(self.address, self.port)


@dataclass(frozen=True, kw_only=True)
class ValidParts:
    """The valid listeners and backends of a pool. The pool itself may have faults."""

    listeners: tuple[tuple[Path, Listener], ...]
    backends: tuple[Destination, ...]


@dataclass(frozen=True, kw_only=True)
class ValidPool(ValidParts):
    """A pool that is valid on its own.

    `given` has the keys of the pool in the file, with those from `defaults`; `own` has the keys of the pool alone.
    """

    path: Path
    pool: Pool
    given: frozenset[str]
    own: frozenset[str]

    @property
    def collectors(self) -> tuple[Destination, ...]:
        """The servers that get copies."""
        if not self.pool.mirror:
            return ()
        return tuple(
            Destination((*self.path, "mirror", collector.name), collector.address, collector.port)
            for collector in self.pool.mirror
        )

    @property
    def servers(self) -> tuple[Destination, ...]:
        """The backends, and the sorry servers."""
        if not self.pool.fallback.sorry:
            return self.backends
        sorry = (
            Destination((*self.path, "fallback"), endpoint.address, endpoint.port)
            for endpoint in self.pool.fallback.sorry
        )
        return (*self.backends, *sorry)


def valid_pool(pool: Pool, given: Iterable[str], own: Iterable[str]) -> ValidPool:
    path = ("pools", pool.name)
    return ValidPool(
        listeners=tuple(_listeners((*path, "listen"), pool.listen)),
        backends=tuple(
            Destination((*path, "backends", backend.name), backend.address, backend.port, backend.device)
            for backend in pool.backends
        ),
        path=path,
        pool=pool,
        given=frozenset(given),
        own=frozenset(own),
    )


def _listeners(path: Path, listeners: Iterable[Listener]) -> Iterator[tuple[Path, Listener]]:
    """Yield each listener with its place in the file, where one entry may stand for both families."""
    index, before = -1, None
    for listener in listeners:
        # An entry that stands for both families has IPv4 first.
        second = before is not None and before.host and (before, listener) == listener.in_families(Family)
        index += not second
        before = listener
        yield (*path, index), listener


# --- the rules --------------------------------------------------------------------------------------------------------


def families(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    listening = {listener.family for _, listener in part.listeners}
    words = " and ".join(name(member) for member in sorted(listening))
    for server in (*part.servers, *part.collectors):
        if family(server.address) not in listening:
            message = f"{server} is {name(family(server.address))}, but the pool listens on {words} only"
            yield RuleViolation(server.path, f"{message}; allowed: {words}")
    for backend in part.pool.backends:
        if backend.via is not None and family(backend.via) != backend.family:
            message = (
                f"{backend.via} can't be the next hop to {backend.address}; allowed: an {name(backend.family)} address"
            )
            yield RuleViolation((*part.path, "backends", backend.name, "via"), message)


def host_listeners(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse addresses of this host where the mode of the pool can't serve addresses that nobody knows beforehand."""
    pool = part.pool
    for path, listener in {path: listener for path, listener in part.listeners if listener.host}.items():
        if pool.forward is Forward.STATELESS:
            message = f"{listener} may stand for several addresses, and stateless has no record of the address"
            yield RuleViolation(path, f"{message} that a client used; allowed: an address, or forward: nat")
        elif pool.forward is Forward.DSR and not listener.interface:
            message = f"{listener} stands for every address of this host, and dsr backends would need all of them"
            yield RuleViolation(path, f"{message}; allowed: an address, an interface, or forward: nat")
        elif pool.outbound and listener.protocol is Protocol.UDP:
            message = f"outbound is on, and {listener} may stand for several addresses that a request could leave from"
            yield RuleViolation(path, f"{message}; allowed: an address, or no outbound")


def names(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse names that are too long for the addresses behind them, or that an address of another name may get."""
    for named in part.pool.named:
        path = (*part.path, "backends", named.name)
        if len(named.name) > LONGEST_NAME:
            message = f"the name has {len(named.name)} characters, and the addresses of its host follow it"
            yield RuleViolation(path, f"{message}; allowed: at most {LONGEST_NAME} characters")
        others = [("backends", entry.name) for entry in part.pool.entries if entry.name not in named.backends]
        for kind, other in (*others, *(("mirror", collector.name) for collector in part.pool.mirror)):
            own, dash, rest = other.partition(named.name + "-")
            if not own and dash and _ADDRESS.fullmatch(rest):
                message = f"{other} may be the name of an address of {named.name}"
                yield RuleViolation((*part.path, kind, other), f"{message}; allowed: another name")


def per_packet(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse `per: packet` where the key has no effect: the author of the file expects each packet to be balanced."""
    pool = part.pool
    if (
        "per" in part.own
        and pool.per is Per.PACKET
        and all(listener.protocol is not Protocol.UDP for listener in pool.listen)
    ):
        message = "per is packet, but the pool has no udp listener, and tcp and sctp are always balanced by flow"
        yield RuleViolation((*part.path, "per"), f"{message}; allowed: per: flow, or a udp listener")


def session_timeout(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse `session_timeout` where the key has no effect."""
    if part.pool.session_timeout is not None and (reason := without_datagram_flows(part.pool)):
        yield RuleViolation((*part.path, "session_timeout"), f"session_timeout is given {reason}")


def helper(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse `helper` where conntrack can't see the request, or where a request is no different from its answer."""
    pool, path = part.pool, (*part.path, "helper")
    if pool.helper is None:
        return
    if reason := without_datagram_flows(pool):
        yield RuleViolation(path, f"helper is given {reason}")
        return
    for listener in pool.listen:
        if listener.protocol is not Protocol.UDP or listener.first_port != listener.last_port:
            yield RuleViolation(path, f"helper is given for {listener}; allowed: listeners for udp with one port each")
            return


def without_datagram_flows(pool: Pool) -> str:
    """Return why conntrack keeps no flows of UDP for a pool, and what would; empty if it keeps them."""
    needed = "needed: forward: nat, per: flow and a udp listener"
    if pool.forward is not Forward.NAT:
        return f"with forward: {pool.forward}, which keeps no record of flows; {needed}"
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        return f"for a pool without a udp listener, but it concerns flows of udp only; {needed}"
    if pool.per is not Per.FLOW:
        return f"with per: {pool.per}, but a packet that is balanced by itself belongs to no flow; {needed}"
    return ""


def weights(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    if all(backend.weight for backend in part.pool.backends):
        return
    for version in Family:
        backends = [backend for backend in part.pool.backends if backend.family is version]
        by_name = any(named.weight for named in part.pool.named)
        if backends and not by_name and not any(backend.weight for backend in backends):
            message = f"all {name(version)} backends have weight 0; allowed: at least one above 0"
            yield RuleViolation((*part.path, "backends"), message)


def check_source(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    path = (*part.path, "source")
    if part.pool.forward is not Forward.NAT:
        if "source" in part.given:
            yield RuleViolation(
                path, f"source is given with forward: {part.pool.forward}; allowed: source with forward: nat"
            )
    elif part.pool.source is SourceKind.ADDRESS:
        sources = {family(address) for address in part.pool.source_addresses}
        backends = {backend.family for backend in part.pool.backends} | _families_of_names(part)
        for source in sorted(sources - backends):
            yield RuleViolation(
                path,
                f"an {name(source)} address is given, but no backend is {name(source)}; "
                f"allowed: no {name(source)} address",
            )
        for unserved in sorted(backends - sources):
            yield RuleViolation(
                path,
                f"no {name(unserved)} address is given for {name(unserved)} backends; allowed: one address per family",
            )


def _families_of_names(part: ValidPool) -> frozenset[Family]:
    """The families of the addresses that the names of a pool may get."""
    return frozenset(part.pool.families) if part.pool.named else frozenset()


def ingress(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    path = (*part.path, "ingress")
    if part.pool.ingress and part.pool.forward is Forward.NAT:
        yield RuleViolation(
            path, "interfaces are given with forward: nat; allowed: ingress with forward: stateless or dsr"
        )
    for interface, times in Counter(part.pool.ingress).items():
        if times > 1:
            yield RuleViolation(path, f"{interface} occurs {times} times; allowed: each interface once")


def encap(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse a tunnel outside `dsr`, and what a tunnel to the address of a backend can't have."""
    pool = part.pool
    if pool.encap is Encap.NONE:
        return
    if pool.forward is not Forward.DSR:
        message = f"encap is {pool.encap} with forward: {pool.forward}; allowed: encap with forward: dsr"
        yield RuleViolation((*part.path, "encap"), message)
        return
    for backend in pool.entries:
        given = [key for key in ("device", "via") if getattr(backend, key, None) is not None]
        for key in given:
            message = (
                f"{key} is given with encap: {pool.encap}, but this host's routes lead to the other end of a tunnel"
            )
            yield RuleViolation((*part.path, "backends", backend.name, key), f"{message}; allowed: no {key}")
    if pool.templates is not None:
        message = f"templates is given with encap: {pool.encap}, and copies can't be sent into a tunnel"
        yield RuleViolation((*part.path, "templates"), f"{message}; allowed: templates without encap")


def mirror(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse copies where the rules can't make copies, or where collectors can't be distinguished."""
    pool, path = part.pool, (*part.path, "mirror")
    if not pool.mirror:
        return
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        yield RuleViolation(path, "mirror is given, but only datagrams are copied; allowed: mirror with a udp listener")
    if pool.ingress:
        message = "mirror is given with ingress, but the fast path can't make copies"
        yield RuleViolation(path, f"{message}; allowed: mirror without ingress")
    taken = {entry.name for entry in pool.entries}
    seen: dict[tuple[IPAddress, int | None], str] = {}
    for collector, server in zip(pool.mirror, part.collectors, strict=True):
        if collector.name in taken:
            message = f"{collector.name} is also the name of a backend"
            yield RuleViolation(server.path, f"{message}; allowed: a name that no backend of the pool has")
        if (earlier := seen.setdefault((server.address, server.port), collector.name)) != collector.name:
            message = f"{server} is also collector {earlier}"
            yield RuleViolation(server.path, f"{message}; allowed: each address and port once in a pool")
        yield from _collector_port(part, server)
        for index, health in enumerate(collector.health):
            if isinstance(health.check, Agent):
                message = "an agent sets the weight of a backend, and a collector has no weight; allowed: another check"
                yield RuleViolation((*server.path, "health", index), message)


def _collector_port(part: ValidPool, server: Destination) -> Iterator[RuleViolation]:
    """The rules write the port of the service back after each copy, so the rules must know this port."""
    if server.port is None:
        return
    for listener in _datagram_listeners(part.pool, family(server.address)):
        if listener.first_port != listener.last_port:
            message = f"{server} has a port, but {listener} is a range, and a copy keeps the port of its packet"
            yield RuleViolation(server.path, f"{message}; allowed: no port")
            return


def templates(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse `templates` where templates and data would not come from the same source, or need no copies."""
    pool, path = part.pool, (*part.path, "templates")
    if pool.templates is None:
        return
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        message = "templates is given, but only datagrams are copied; allowed: templates with a udp listener"
        yield RuleViolation(path, message)
    if pool.per is Per.FLOW:
        message = "templates is given with per: flow, where a backend gets all datagrams of an exporter"
        yield RuleViolation(path, f"{message}; allowed: templates with per: packet")
    if pool.forward is Forward.NAT and pool.source is not SourceKind.KEEP:
        message = (
            f"templates is given with source: {pool.source}, but collectors find a template by the address of "
            "the exporter, and copies keep this address"
        )
        yield RuleViolation(path, f"{message}; allowed: source: keep, or forward: stateless or dsr")
    if pool.forward is Forward.NAT:
        ranged = [one for one in pool.listen if one.protocol is Protocol.UDP and one.first_port != one.last_port]
        ported = any(named.port is not None or named.srv for named in pool.named)
        if ranged and (ported or any(backend.port is not None for backend in pool.backends)):
            message = f"templates is given for {ranged[0]}, a range, but a copy keeps the port of its packet"
            yield RuleViolation(path, f"{message}; allowed: backends without a port, or one port")


def _datagram_listeners(pool: Pool, version: Family) -> list[Listener]:
    return [one for one in pool.listen if one.protocol is Protocol.UDP and one.family is version]


def hairpin(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """`nat` needs no option for backends that are clients; with `dsr`, a backend that is a client answers itself."""
    if part.pool.hairpin and part.pool.forward is not Forward.STATELESS:
        message = f"hairpin is on with forward: {part.pool.forward}; allowed: hairpin with forward: stateless"
        yield RuleViolation((*part.path, "hairpin"), message)


def replies(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """`nat` leaves replies to conntrack, and with `dsr` they don't pass this host."""
    pool = part.pool
    if pool.replies is Replies.PREROUTING and pool.forward is not Forward.STATELESS:
        message = f"{pool.replies} is given with forward: {pool.forward}; allowed: prerouting with forward: stateless"
        yield RuleViolation((*part.path, "replies"), message)


def destination_ports(part: ValidPool, where: Where) -> Iterator[RuleViolation]:
    """Without conntrack, the original port of a packet is not stored anywhere; `dsr` can't even change a port."""
    forward = part.pool.forward
    if forward is Forward.NAT:
        return
    unchangeable = {version: _unchangeable_ports(part, version) for version in Family}
    servers = [(server.path, str(server), server.port, [family(server.address)]) for server in part.servers]
    servers += [
        ((*part.path, "backends", named.name), f"{named.address}:{named.port}", named.port, [*part.pool.families])
        for named in part.pool.named
    ]
    for place, server, port, versions in servers:
        for path, listener in chain(*(unchangeable[version] for version in versions)) if port is not None else ():
            message = f"{server} has a port, but {listener} of {where(path)}"
            if listener.first_port != listener.last_port:
                yield RuleViolation(place, f"{message} is a range; allowed: no port, with forward: {forward}")
                break
            if listener.first_port != port:
                yield RuleViolation(
                    place,
                    f"{message} has another port, and dsr does not change ports; allowed: the same port, or no port",
                )
                break


def _unchangeable_ports(part: ValidPool, version: Family) -> list[tuple[Path, Listener]]:
    """A listener for each port or range of ports that reaches the backends unchanged: with `dsr` all, else ranges."""
    found: dict[tuple[int, int], tuple[Path, Listener]] = {}
    for path, listener in part.listeners:
        if listener.family is version and (
            part.pool.forward is Forward.DSR or listener.first_port != listener.last_port
        ):
            found.setdefault((listener.first_port, listener.last_port), (path, listener))
    return list(found.values())


def stateless_balance(part: ValidPool, where: Where) -> Iterator[RuleViolation]:
    """Without conntrack entries, only `balance: hash` sends all packets of a flow to the same backend."""
    pool = part.pool
    if pool.forward is Forward.NAT or pool.balance is Balance.HASH:
        return
    rest = f"with forward: {pool.forward}, which keeps no record of flows; allowed: balance: hash"
    path = (*part.path, "balance") if "balance" in part.given else part.path
    if pool.per is Per.FLOW:
        yield RuleViolation(path, f"balance is {pool.balance} for per: flow {rest}")
    for listening, listener in part.listeners:
        if listener.protocol is not Protocol.UDP:
            yield RuleViolation(path, f"balance is {pool.balance} for {listener} of {where(listening)} {rest}")
            return


def hash_key(part: ValidPool, where: Where) -> Iterator[RuleViolation]:
    """Refuse a key where the key has no effect, or where a packet may have no such key."""
    pool, key = part.pool, part.pool.key
    path = (*part.path, "key") if "key" in part.given else part.path
    if pool.balance is not Balance.HASH:
        for name_ in ("key", "seed"):
            if name_ in part.own and getattr(pool, name_) != getattr(Pool, name_):
                message = f"{name_} is given with balance: {pool.balance}, which uses no key"
                yield RuleViolation((*part.path, name_), f"{message}; allowed: {name_} with balance: hash")
        return
    yield from _prefix(part, path, where)
    if not key.places:
        return
    allowed = "allowed: source, source-port, or a part of the address such as source/24"
    if pool.per is Per.FLOW:
        reason = "with per: flow, but all packets of a flow go to the backend of its first packet, whatever their key"
        yield RuleViolation(path, f"key is {key} {reason}; {allowed}, or per: packet")
    for listening, listener in part.listeners:
        if listener.protocol is not Protocol.UDP:
            message = f"key is {key} for {listener} of {where(listening)}, but packets of a connection stay together"
            yield RuleViolation(path, f"{message}; {allowed}, or listeners for udp only")
            return


def _prefix(part: ValidPool, path: Path, where: Where) -> Iterator[RuleViolation]:
    """Check the length of a part of the address against the families of the listeners."""
    key = part.pool.key
    versions = {listener.family for _, listener in part.listeners}
    if len(key.prefixes) == 1 and len(versions) > 1:
        message = f"key is {key}, one length for IPv4 and IPv6"
        yield RuleViolation(path, f"{message}; allowed: a length for each, such as source/24/56")
        return
    for listening, listener in part.listeners:
        most = ADDRESS_BITS[listener.family]
        if key.prefix(listener.family) > most:
            message = f"key is {key}, but {listener} of {where(listening)} has clients with addresses of {most} bits"
            yield RuleViolation(path, f"{message}; allowed: at most {most}")
            return


def server_ids(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """A server id must lead to one backend, and each backend needs one: otherwise its connections would be lost."""
    pool = part.pool
    given = [backend for backend in pool.backends if backend.server_id is not None]
    wanted = pool.balance is Balance.HASH and pool.key == QUIC_CID
    if "quic_lb_config" in part.own and pool.quic_lb_config and not (wanted and given):
        message = "quic_lb_config is given, but the pool has no server ids in connection ids"
        yield RuleViolation(
            (*part.path, "quic_lb_config"), f"{message}; allowed: with key: quic-cid and a server_id for each backend"
        )
    first: dict[tuple[Family, bytes], str] = {}
    for named in pool.named if given else ():
        message = f"{named.name} is a host name and has no server_id, but other backends have one"
        allowed = "a server_id for each backend, with an address, or for none"
        yield RuleViolation((*part.path, "backends", named.name), f"{message}; allowed: {allowed}")
    for backend in pool.backends if given else ():
        path = (*part.path, "backends", backend.name)
        own = backend.server_id
        if own is None:
            message = f"{backend.name} has no server_id, but other backends have one"
            yield RuleViolation(path, f"{message}; allowed: a server_id for each backend, or for none")
        elif not wanted:
            message = "server_id is given, but the pool does not read connection ids"
            yield RuleViolation(
                (*path, "server_id"), f"{message}; allowed: server_id with balance: hash and key: quic-cid"
            )
        elif not 1 <= len(own) <= LONGEST_ID or len(own) != len(given[0].server_id or b""):
            message = f"the length of server_id is {len(own)} bytes"
            allowed = f"1 to {LONGEST_ID} bytes, as many for each backend of the pool"
            yield RuleViolation((*path, "server_id"), f"{message}; allowed: {allowed}")
        elif (other := first.setdefault((backend.family, own), backend.name)) != backend.name:
            message = f"{own.hex()} is also the server_id of {other}"
            yield RuleViolation((*path, "server_id"), f"{message}; allowed: each server_id once in a family")


def passive(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    pool = part.pool
    if pool.passive is not True:
        return
    path = (*part.path, "passive")
    if pool.forward is not Forward.NAT:
        yield RuleViolation(path, f"passive is on with forward: {pool.forward}; allowed: passive with forward: nat")
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        yield RuleViolation(
            path, "passive is on, but the pool has no udp listener; allowed: passive with a udp listener"
        )
    if not pool.health:
        message = "passive is on, but the pool has no health check, so a backend would never come back"
        yield RuleViolation(path, f"{message}; allowed: passive with a health check")


def counted_replies(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse `passive: replies` and `count_replies` where packets and replies of a backend can't be compared."""
    pool = part.pool
    if not pool.has_reply_counts:
        return
    key, word = ("count_replies", "count_replies is on") if pool.silence is None else ("passive", "passive is replies")
    if reason := uncounted_replies(pool):
        yield RuleViolation((*part.path, key), f"{word} {reason}")
    elif pool.outbound and pool.forward is Forward.NAT:
        # Conntrack finds the backend that asked only behind the choice of a backend, which counts a packet.
        message = f"{word} with outbound, but an answer to a request of a backend counts as a packet to another backend"
        yield RuleViolation((*part.path, key), f"{message}; allowed: one of both")
    if pool.silence is not None and not pool.silence.answered_below:
        message = "answered_below is 0%, so no backend would be silent; allowed: 1% to 100%"
        yield RuleViolation((*part.path, "passive", "answered_below"), message)


def uncounted_replies(pool: Pool) -> str:
    """Return why the replies of a pool's backends can't be counted, and what is allowed; empty if they can."""
    others = any(listener.protocol is not Protocol.UDP for listener in pool.listen)
    if pool.forward is Forward.DSR:
        return "with forward: dsr, but replies do not pass this host; allowed: forward: nat or stateless"
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        return "for a pool without a udp listener, but only replies of udp are counted; allowed: a udp listener"
    if others and (pool.per is Per.FLOW or pool.forward is Forward.STATELESS):
        why = "per: flow" if pool.forward is Forward.NAT else "forward: stateless"
        return f"with {why} and listeners for tcp or sctp, whose packets have the same counter; allowed: udp listeners"
    if pool.hairpin:
        return "with hairpin, but the replies of a backend to itself are not counted; allowed: one of both"
    return ""


def outbound(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse `outbound` where requests of a backend do not pass this host, or can't keep the port of the service."""
    pool, path = part.pool, (*part.path, "outbound")
    if not pool.outbound:
        return
    if pool.forward is Forward.DSR:
        message = "with forward: dsr, but dsr backends have the address of the service, and send from it themselves"
        yield RuleViolation(path, f"outbound is on {message}; allowed: forward: nat or stateless")
        return
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        yield RuleViolation(path, "outbound is on for a pool without a udp listener; allowed: a udp listener")
        return
    for _path, listener in part.listeners if pool.forward is Forward.NAT else ():
        if listener.protocol is not Protocol.UDP:
            continue
        named = [
            ((*path[:-1], "backends", one.name), f"{one.address}:{one.port}", one.port, listener.family)
            for one in pool.named
        ]
        known = [(server.path, str(server), server.port, family(server.address)) for server in part.backends]
        for place, server, port, version in (*known, *named):
            same = port is None or listener.first_port == port == listener.last_port
            if version is listener.family and not same:
                message = f"{server} has another port than {listener}, and outbound keeps the port of a request"
                yield RuleViolation(place, f"{message}; allowed: the same port, no port, or no outbound")


def quorum(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """A pool comes up with `quorum + hysteresis` healthy backends and goes down with less than `quorum - hysteresis`.

    Both numbers must be possible.
    """
    count, wanted, beyond = most_backends(part.pool), part.pool.quorum, part.pool.hysteresis
    if wanted > count:
        yield RuleViolation(
            (*part.path, "quorum"), f"{wanted} is more than the number of backends; allowed: at most {count}"
        )
    elif beyond > min(wanted - 1, count - wanted):
        message = f"{beyond} is too large for a quorum of {wanted} and {count} backends"
        yield RuleViolation(
            (*part.path, "hysteresis"), f"{message}; allowed: at most {min(wanted - 1, count - wanted)}"
        )


def priorities(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse options of priorities where they have no effect: the author of the file expects something to stand by."""
    options = [key for key in ("min_healthy", "preempt_delay") if key in part.own]
    if not options:
        return
    given = {(backend.family, backend.priority) for backend in part.pool.backends}
    given |= {(version, named.priority) for named in part.pool.named for version in part.pool.families}
    if any(named.srv for named in part.pool.named) or len(given) > len({family for family, _ in given}):
        return
    for key in options:
        if getattr(part.pool, key) != getattr(Pool, key):
            message = f"{key} is given, but all backends of a family have the same priority, so it has no effect"
            yield RuleViolation((*part.path, key), f"{message}; allowed: {key} with backends of several priorities")


_DAY = 24 * 3600


def guard(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Refuse a guard, or a key of a guard, that has no effect."""
    found, path = part.pool.guard, (*part.path, "guard")
    if found is None:
        return
    if found.rate is None:
        for key in ("burst", "ban", "shared_rate"):
            if getattr(found, key):
                yield RuleViolation((*path, key), f"{key} is given without rate, so it has no effect; needed: rate")
        if found.allow and not found.deny:
            message = "allow is given, but no other source is limited or denied, so it has no effect"
            yield RuleViolation((*path, "allow"), f"{message}; needed: rate or deny")
        elif not found.deny and not found.clients:
            yield RuleViolation(path, "guard does nothing; needed: at least one of rate, deny and clients: true")
    elif found.refill > _DAY:
        message = f"a burst of {found.most_at_once} takes {found.refill} s to come back at {found.rate}"
        most = _DAY * found.rate.packets // found.rate.seconds
        yield RuleViolation((*path, "burst"), f"{message}; allowed: at most {most}, which takes a day")


def health_ports(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """A backend without a port has a port to check only if all listeners of its family have the same port."""
    if not (part.pool.health or part.pool.mirror):
        return
    clear = {version for version in Family if len(_ports(part, version)) == 1}
    unclear = [backend.name for backend in part.pool.backends if backend.port is None and backend.family not in clear]
    if not clear.issuperset(part.pool.families):
        unclear += [named.name for named in part.pool.named if named.port is None and named.srv is None]
    for index, health in enumerate(part.pool.health if unclear else ()):
        if health.check.needs_port and health.port is None:
            message = f"the port to check is unknown: backend {unclear[0]} has no port, and the listeners have several"
            yield RuleViolation((*part.path, "health", index), f"{message}; allowed: a port under health")
    for collector, server in zip(part.pool.mirror, part.collectors, strict=True):
        for index, health in enumerate(collector.health):
            if collector.port is None and collector.family not in clear and health.check.needs_port and not health.port:
                message = "the port to check is unknown: the collector has no port, and the listeners have several"
                yield RuleViolation((*server.path, "health", index), f"{message}; allowed: a port under health")


def _ports(part: ValidPool, version: Family) -> set[int]:
    return {
        port
        for _, listener in part.listeners
        if listener.family is version
        for port in (listener.first_port, listener.last_port)
    }


# --- addresses with which the kernel forwards no packets --------------------------------------------------------------
#
# These are loopback addresses (127.0.0.0/8, ::1) and the link-local addresses of IPv6 (fe80::/10). They can't be a
# listener, a `source`, a backend or a sorry server. There is one exception: with `dsr` and without `encap`, the address
# of a backend is only the next hop, so a link-local address works there, provided that its interface is given.

_ANOTHER = "an address that other hosts can reach"
_BESIDE = "device: INTERFACE beside it"


def unforwarded_addresses(part: ValidPool, _: Where) -> Iterator[RuleViolation]:
    """Find these addresses where they can't work, and link-local addresses without their interface."""
    for path, address in _forwarded(part):
        if reason := unforwarded(address):
            yield RuleViolation(path, f"{address} is {reason}; allowed: {_ANOTHER}")
    for backend in part.pool.backends:
        if backend.via is not None or unforwarded(backend.address):
            yield from _backend(part, backend)
    for index, health in enumerate(part.pool.health):
        for address in health.source if health.device is None else ():
            if is_link_local(address):
                yield _lacks_interface((*part.path, "health", index, "source"), address, _BESIDE)


def _forwarded(part: ValidPool) -> Iterator[tuple[Path, IPAddress]]:
    """The addresses that packets and copies have in every mode, without the addresses of backends."""
    for path, listener in part.listeners:
        yield path, listener.address
    for address in part.pool.source_addresses:
        yield (*part.path, "source"), address
    for endpoint in part.pool.fallback.sorry:
        yield (*part.path, "fallback"), endpoint.address
    for collector in part.collectors:
        yield collector.path, collector.address


def _backend(part: ValidPool, backend: Backend) -> Iterator[RuleViolation]:
    path = (*part.path, "backends", backend.name)
    reason = unforwarded(backend.address)
    on_link = part.pool.forward is Forward.DSR and part.pool.encap is Encap.NONE
    if reason and not (on_link and is_link_local(backend.address)):
        without = "" if part.pool.encap is Encap.NONE else " without encap"
        or_dsr = f", or forward: dsr{without}" if is_link_local(backend.address) else ""
        yield RuleViolation(path, f"{backend.address} is {reason}; allowed: {_ANOTHER}{or_dsr}")
    elif reason and backend.device is None:
        allowed = f"{backend.address}%INTERFACE, or {_BESIDE}"
        yield _lacks_interface(path, backend.address, allowed)
    if backend.via is None:
        return
    if backend.via.is_loopback:
        yield RuleViolation(
            (*path, "via"), f"{backend.via} is {unforwarded(backend.via)}; allowed: the address of a router"
        )
    elif is_link_local(backend.via) and backend.device is None:
        yield _lacks_interface((*path, "via"), backend.via, _BESIDE)


def _lacks_interface(path: Path, address: IPAddress, allowed: str) -> RuleViolation:
    return RuleViolation(path, f"{address} is a link-local address, which needs its interface; allowed: {allowed}")


def most_backends(pool: Pool) -> int:
    """The number of backends that a pool has when each of its names has the most addresses."""
    resolved = sum(len(named.backends) for named in pool.named)
    return len(pool.backends) - resolved + MOST_ADDRESSES * len(pool.named)


def name(family: Family) -> str:
    return {Family.IP: "IPv4", Family.IP6: "IPv6"}[family]


RULES: tuple[Callable[[ValidPool, Where], Iterator[RuleViolation]], ...] = (
    families,
    host_listeners,
    names,
    unforwarded_addresses,
    per_packet,
    session_timeout,
    helper,
    weights,
    check_source,
    ingress,
    encap,
    mirror,
    templates,
    hairpin,
    replies,
    destination_ports,
    stateless_balance,
    hash_key,
    server_ids,
    passive,
    counted_replies,
    outbound,
    quorum,
    priorities,
    guard,
    health_ports,
)
