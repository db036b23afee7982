"""Checks the addresses and ports of listeners and sources, and the way to the backends. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler.aliases import aliases, is_wide
from nftlb.compiler.source_ports import is_asked_from, source_ports
from nftlb.kernel.rtnetlink import LOCAL
from nftlb.model import Encap, Forward, Passive, Protocol, SourceKind
from nftlb.model.checks import asks_over_udp
from nftlb.model.kinds import is_link_local
from nftlb.name_list import names_text
from nftlb.requirements import (
    interface_lack,
    lacking_sources,
    others_with,
    required_sources,
    route_lack,
    together,
    unusable_addresses,
)

from .finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.kernel.rtnetlink import IPAddress
    from nftlb.model import Backend, Config, Listener, Pool
    from nftlb.requirements import Lack

    from .host import HostFacts

_IPVSADM = {"udp": "-u", "tcp": "-t", "sctp": "--sctp-service"}

# By IP version: what is lost, and how the service's address becomes an address that no packet is sent from.
_LOST = {
    4: "they answer neither its health checks nor its ARP requests",
    6: "they don't answer its health checks",
}
_SECOND = {
    4: "the service's address with a prefix of /32, after that address",
    6: "the service's address with a prefix of /128 and `preferred_lft 0`",
}


def check_listener_addresses(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check whether packets for the listeners' addresses get to this host."""
    unusable = unusable_addresses(host.surroundings)
    for listener in dict.fromkeys(one for pool in config.pools for one in pool.listen if one.host):
        version = listener.address.version
        where = f"interface {listener.interface}" if listener.interface else "this host"
        if listener.interface and host.interface(listener.interface) is None:
            yield warning(f"listener {listener}", f"there is no interface {listener.interface}", "ip link show")
        else:
            message = f"gets no IPv{version} packets: {where} has no IPv{version} address that other hosts can reach"
            yield warning(f"listener {listener}", message, "ip address show")
    tunnelled = {one.address for pool in config.pools if pool.encap is not Encap.NONE for one in pool.listen}
    exact = (listener for pool in config.pools for listener in pool.listen if not listener.host)
    for address in dict.fromkeys(listener.address for listener in exact):
        subject = f"address {address}"
        route = host.routes.get(address)
        if address in unusable:
            device = unusable[address]
            yield warning(
                subject,
                f"is on {device}, but can't be used: duplicate address detection failed or has not finished. "
                "Another host may have the address",
                f"ip address show dev {device}",
            )
        elif route is not None and route.kind == LOCAL:
            returned = "; with `encap`, replies that pass this host as a router are lost for this reason"
            yield ok(subject, f"is an address of this host{returned if address in tunnelled else ''}")
        elif address in tunnelled:
            # On this host, the address would be a fault if the replies of backends pass this host.
            yield warning(
                subject,
                "is not an address of this host: packets for it arrive only if routers send them here. This is correct "
                "with `encap`, if the replies of backends pass this host",
                f"a route to {address} through this host, on the router to the clients",
            )
        else:
            yield warning(
                subject,
                "is not an address of this host: packets for it arrive only if routers send them here. "
                "This is correct on a VRRP backup",
                f"ip address add {address}/{address.max_prefixlen} dev lo",
            )


def check_ipvs(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Find the virtual services of IPVS at the listeners."""
    for pool in config.pools:
        for listener in pool.listen:
            for protocol, address, port in sorted(host.ipvs, key=str):
                same = (protocol, address) == (listener.protocol, listener.address)
                if same and listener.first_port <= port <= listener.last_port:
                    where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004
                    yield warning(
                        f"pool {pool.name}",
                        f"IPVS has a virtual service at {where}/{protocol} too, which gets no packets while nftlb's "
                        "rules are loaded",
                        f"ipvsadm -D {_IPVSADM[protocol]} {where}",
                    )


def check_source_addresses(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check whether this host has the addresses of `source`, of pools and under health."""
    services = {listener.address for pool in config.pools for listener in pool.listen}
    lacks = [lack for pool in config.pools for lack in lacking_sources(pool, services, host.surroundings)]
    for lack in lacks:
        yield error(lack.subject, lack.message, lack.fix)
    given = {address for pool in config.pools for address in required_sources(pool)}
    if given and not lacks:
        yield ok("sources", f"{', '.join(map(str, sorted(given, key=str)))}: addresses of this host")


def check_dsr_addresses(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Find the backends of `forward: dsr` that this host sends to from the service's address, which they hold too."""
    for pool in config.pools:
        if pool.forward is not Forward.DSR:
            continue
        listened = {listener.address for listener in pool.listen}
        found: dict[IPAddress, list[str]] = {}
        for backend in pool.backends:
            route = host.routes.get(backend.address)
            if route is not None and route.source in listened:
                found.setdefault(route.source, []).append(backend.name)
        for address, names in found.items():
            yield warning(
                f"pool {pool.name}",
                f"this host sends to {', '.join(names)} from {address}, which backends of `forward: dsr` hold "
                f"themselves: {_LOST[address.version]}",
                f"give the interface to the backends its own address, and {_SECOND[address.version]}",
            )


# --- backends ---------------------------------------------------------------------------------------------------------


def addresses_to_look_up(config: Config) -> Iterator[IPAddress]:
    """The addresses whose routes the checks need: listeners, sources, backends, and the routers to backends."""
    for pool in config.pools:
        yield from (listener.address for listener in pool.listen)
        yield from required_sources(pool)
        yield from (backend.address for backend in pool.backends)
        yield from (collector.address for collector in pool.mirror)
        yield from (backend.via for backend in pool.backends if backend.via is not None)


def check_backends(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check the route to every backend. One finding is for all backends without a fault, or with the same fault."""
    backends = [(pool, backend) for pool in config.pools for backend in pool.backends]
    lacks = {(pool.name, backend.name): lack for pool, backend in backends if (lack := _lack(pool, backend, host))}
    wrong = [
        finding
        for pool, backend in backends
        if (pool.name, backend.name) not in lacks and (finding := _check_dsr_route(pool, backend, host))
    ]
    yield from wrong
    for same in together(lacks.values()):
        first = same[0]
        subject = f"backend {first.pool}/{first.backend}" if len(same) == 1 else first.kind
        yield error(subject, f"{first.message}{others_with(same)}", first.fix)
    if reachable := len(backends) - len(lacks) - len(wrong):
        yield ok("backends", f"{reachable} of {len(backends)} have a route")


def check_collectors(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check the route to every collector: without a route, its copies are dropped, and nothing else happens."""
    for pool in config.pools:
        for collector in pool.mirror:
            if host.routes.get(collector.address) is None:
                yield warning(
                    f"collector {pool.name}/{collector.name}",
                    f"there is no route to {collector.address}, so it gets no copies",
                    f"ip route add {collector.address} via ROUTER",
                )


def _lack(pool: Pool, backend: Backend, host: HostFacts) -> Lack | None:
    """What this host lacks to send to a backend."""
    if backend.device and (lack := interface_lack(pool, backend.device, "`device`", host.surroundings, backend.name)):
        return lack
    goal = _goal(pool, backend)
    if is_link_local(goal):
        return None  # on the link of `device`, whatever the routing table says
    return route_lack(pool, backend, goal, host.routes.get(goal), host.surroundings)


def _goal(pool: Pool, backend: Backend) -> IPAddress:
    return backend.via or backend.address if pool.forward is Forward.DSR else backend.address


def _check_dsr_route(pool: Pool, backend: Backend, host: HostFacts) -> Finding | None:
    """Check that `forward: dsr` has the backend, or its `via`, on a network of this host."""
    goal = _goal(pool, backend)
    route = host.routes.get(goal)
    if pool.forward is not Forward.DSR or route is None or is_link_local(goal):
        return None
    subject, tunnelled = f"backend {pool.name}/{backend.name}", pool.encap is not Encap.NONE
    if route.kind == LOCAL:
        return error(
            subject, f"{goal} is an address of this host: packets would come back endlessly", "use `forward: nat`"
        )
    if route.gateway is not None and not backend.device and not tunnelled:
        return error(
            subject,
            f"`forward: dsr` needs the backend on a network of this host, but {goal} is behind the router "
            f"{route.gateway}",
            f"use `forward: nat`; or `encap: ipip`, if the backend can open a tunnel; or `via: {route.gateway}`, if "
            "that router sends packets for the listeners' addresses to the backend",
        )
    return None


def check_icmp_error_limit(config: Config) -> Iterator[Finding]:
    """Find the pools whose traffic uses up the ICMP errors that their checks wait for."""
    for pool in config.pools:
        if pool.refusals is Passive.OFF and _shares_icmp_limit(pool):
            yield warning(
                f"pool {pool.name}",
                "its checks and its traffic leave from the same address, and the host of a backend limits its ICMP "
                "errors by address (net.ipv4.icmp_ratelimit): under traffic, the checks find a backend without a "
                "server only by time-outs",
                "remove `passive: false`, or give the checks their own source address: `source` under `health`",
            )


def _shares_icmp_limit(pool: Pool) -> bool:
    shared = pool.forward is Forward.NAT and pool.source is not SourceKind.KEEP
    by_udp = any(listener.protocol is Protocol.UDP for listener in pool.listen)
    return shared and by_udp and any(asks_over_udp(health.check) and not health.source for health in pool.health)


# --- ports that Linux may give to this host's own sockets, and that the rules use for something else ------------------

_SUBJECT = "own ports"
_FEW_PORTS = 1024
"""With fewer ports, a host has too few for its own connections."""


def check_own_ports(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check the alias ports, and the wide ranges of listeners from which no rule keeps this host's own requests."""
    without_conntrack = [pool for pool in config.pools if pool.forward is not Forward.NAT]
    if not without_conntrack:
        return
    leave = source_ports(config)
    kept_out: list[Listener] = []
    taken = [range(alias, alias + 1) for found in aliases(config).values() for alias in found.values()]
    for pool in without_conntrack:
        for listener in filter(is_wide, pool.listen):
            if is_asked_from(pool, listener) and listener.protocol in leave.get(listener.family, {}):
                kept_out.append(listener)
            else:
                taken.append(range(listener.first_port, listener.last_port + 1))
    free = {port for port in host.local_ports if not host.reserves(port)}
    given = free & {port for ports in taken for port in ports}
    if given:
        left = len(free) - len(given)
        reserve = f"sysctl -w net.ipv4.ip_local_reserved_ports={_ports(given.union(*host.reserved_ports))}"
        yield warning(
            _SUBJECT,
            f"Linux may give {_ports(given)} to this host's own sockets (net.ipv4.ip_local_port_range); if a socket "
            "with such a port sends a request from a service's address, the reply does not reach it",
            reserve if left >= _FEW_PORTS else "listen at fewer ports: this host's own sockets need ports too",
        )
    elif not host.hides_sysctls:
        yield ok(_SUBJECT, "replies to this host's own requests from a service's address reach it")
    if stateless := [pool.name for pool in without_conntrack if pool.forward is Forward.STATELESS and not pool.hairpin]:
        yield ok(
            "backends as clients",
            f"a backend that sends to its own pool loses the packets that go to itself: {names_text(stateless)} (no "
            "`hairpin: true`)",
        )
    if kept_out:
        yield ok("conntrack", f"tracks this host's own traffic because {', '.join(map(str, kept_out))} is a wide range")


def _ports(ports: Iterable[int]) -> str:
    """Ports and ranges of ports, as the sysctl has them."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
