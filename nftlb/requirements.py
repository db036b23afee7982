"""What a pool needs of the host that balances: addresses to send from, interfaces, routes, forwarding. Pure.

The daemon calls a pool not ready while something lacks, and the doctor tells of it. The service's own address is none
of this: a VRRP backup does not have it, and must be ready to get it. That holds for a `source` that is also an address
of the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.kernel.neighbours import Neighbour
from nftlb.kernel.rtnetlink import LOCAL, UNICAST
from nftlb.kernel.surroundings import Lookup
from nftlb.model import Admin, Forward, SourceKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nftlb.kernel.rtnetlink import Route
    from nftlb.kernel.surroundings import Surroundings
    from nftlb.model import Backend, Config, IPAddress, Pool


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a pool needs and this host does not have. `mend` is a command, or what to change."""

    pool: str
    subject: str
    message: str
    mend: str
    backend: str = ""
    """The backend that it is needed for, if it is for one alone."""

    def __str__(self) -> str:
        return f"{self.message}; {self.mend}"


@dataclass(frozen=True, slots=True)
class Path:
    """How this host reaches a backend. `trouble`: why it does not; `neighbour`: who has to answer on the link."""

    trouble: str = ""
    neighbour: Neighbour | None = None


def lookups(config: Config) -> Iterator[Lookup]:
    """The questions to the routing table whose answers `lacking` and `path` need."""
    for pool in config.pools:
        yield from map(Lookup, sources(pool))
        for backend in pool.backends:
            yield from _ways(pool, backend)


def lacking(config: Config, host: Surroundings) -> Iterator[Lack]:
    """Tell, pool by pool, what this host lacks."""
    services = {listener.address for pool in config.pools for listener in pool.listen}
    for pool in config.pools:
        yield from lacking_sources(pool, services, host)
        yield from _lacking_devices(pool, host)
        yield from _lacking_ways(pool, host)
        yield from _lacking_forwarding(pool, host)


def lacking_sources(pool: Pool, services: set[IPAddress], host: Surroundings) -> Iterator[Lack]:
    """Tell which of the addresses that a pool, or its health checks, send from are not this host's."""
    unusable = {address: one.name for one in host.interfaces for address in one.unusable}
    for address, use in sources(pool).items():
        subject = f"address {address}"
        if address in services:
            continue
        if address in unusable:
            yield Lack(
                pool.name,
                subject,
                f"pool {pool.name} can't use {address}, {use}: duplicate address detection failed or has not finished",
                f"look for another host that has it: ip address show dev {unusable[address]}",
            )
            continue
        if not host.has(address):
            yield Lack(
                pool.name,
                subject,
                f"this host does not have {address}, {use} of pool {pool.name}",
                f"add it to the interface that leads to the backends: "
                f"ip address add {address}/{address.max_prefixlen} dev INTERFACE",
            )


def summed_up(lacks: Sequence[Lack]) -> str:
    """Tell of one thing that several may need."""
    others = [one.pool for one in lacks if one.pool != lacks[0].pool]
    names = list(dict.fromkeys(others))
    if not names:
        return str(lacks[0])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{lacks[0]}; it is missing for {', '.join(names[:_NAMED])}{more} too"


_NAMED = 3


def path(pool: Pool, backend: Backend, host: Surroundings) -> Path:
    """How packets get to a backend."""
    route = _route(pool, backend, host)
    direct = pool.forward is Forward.DSR or bool(pool.ingress)
    goal = _goal(pool, backend)
    if direct and backend.device:
        interface = host.interface(backend.device)
        if interface is None:
            return Path(f"there is no interface {backend.device}")
        if not interface.up:
            return Path(f"interface {backend.device} is down")
        return Path(neighbour=Neighbour(interface.index, backend.via or _gateway(route) or goal))
    if route is None or not _leads(route, host):
        return Path(f"no route to {goal}")
    if route.kind == LOCAL or route.several:
        return Path()  # nobody on a link, or more than one
    return Path(neighbour=Neighbour(route.index, route.gateway or goal))


def _lacking_devices(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    uses = [(name, "`ingress`", "") for name in pool.ingress]
    uses += [(one.device, "`device` under health", "") for one in pool.health if one.device]
    if pool.ingress or pool.forward is Forward.DSR:
        uses += [(one.device, f"`device` of backend {one.name}", one.name) for one in _served(pool) if one.device]
    for name, use, backend in uses:
        interface = host.interface(name)
        subject = f"interface {name}"
        if interface is None:
            message = f"there is no interface {name}, {use} of pool {pool.name}"
            yield Lack(pool.name, subject, message, "ip link show", backend)
        elif not interface.up:
            message = f"interface {name}, {use} of pool {pool.name}, is down"
            yield Lack(pool.name, subject, message, f"ip link set {name} up", backend)


def _lacking_ways(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    for backend in _served(pool):
        if backend.device and (pool.ingress or pool.forward is Forward.DSR):
            continue  # that interface is all there is to it
        goal = _goal(pool, backend)
        name = f"backend {pool.name}/{backend.name}"
        route = _route(pool, backend, host)
        if route is None or not _leads(route, host):
            mend = f"ip route add {goal} via ROUTER"
            yield Lack(pool.name, f"route to {goal}", f"there is no route to {goal}, {name}", mend, backend.name)
        elif not has_source(pool, backend, route):
            device = next((one.name for one in host.interfaces if one.index == route.index), "INTERFACE")
            message = f"no address of this host can be the source towards {goal}, {name}, as masquerade needs"
            yield Lack(pool.name, f"route to {goal}", message, f"ip address add ADDRESS dev {device}", backend.name)


def has_source(pool: Pool, backend: Backend, route: Route) -> bool:
    """Whether this host has an address that masquerade can use towards a backend, if the pool masquerades."""
    masquerades = (
        pool.forward is Forward.NAT
        and pool.source is SourceKind.MASQUERADE
        and pool.source_address(backend.family) is None
    )
    return not masquerades or route.kind != UNICAST or route.source is not None


def _lacking_forwarding(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    for version, setting in ((4, "net.ipv4.ip_forward"), (6, "net.ipv6.conf.all.forwarding")):
        away = [
            one
            for one in _served(pool)
            if one.address.version == version and (route := _route(pool, one, host)) and route.kind == UNICAST
        ]
        if away and not host.forwards.get(version, True):
            message = f"this host passes no IPv{version} packets on, which pool {pool.name} needs"
            yield Lack(pool.name, f"IPv{version} forwarding", message, f"sysctl -w {setting}=1")


def sources(pool: Pool) -> dict[IPAddress, str]:
    """The addresses that packets and health checks leave with, and what they are to the pool."""
    found = dict.fromkeys((one for health in pool.health for one in health.source), "`source` under health")
    return found | dict.fromkeys(pool.source_addresses, "`source`")


def _served(pool: Pool) -> Iterator[Backend]:
    """The backends that are to get packets, as far as the file says."""
    families = {listener.family for listener in pool.listen}
    return (one for one in pool.backends if one.family in families and one.admin is Admin.ENABLED and one.weight)


def _goal(pool: Pool, backend: Backend) -> IPAddress:
    """The address that leads to a backend: with `dsr` and on the fast path, its next hop's where one is given."""
    direct = pool.forward is Forward.DSR or pool.ingress
    return backend.via or backend.address if direct else backend.address


def _ways(pool: Pool, backend: Backend) -> Iterator[Lookup]:
    """The main way first; routing may also go by what the checks are given, an interface, a VRF or a mark."""
    goal = _goal(pool, backend)
    yield Lookup(goal)
    for health in pool.health:
        if health.device or health.mark:
            yield Lookup(goal, health.device or "", health.mark or 0)


def _route(pool: Pool, backend: Backend, host: Surroundings) -> Route | None:
    found = (host.routes.get(one) for one in _ways(pool, backend))
    return next((route for route in found if route is not None), None)


def _gateway(route: Route | None) -> IPAddress | None:
    return route.gateway if route is not None else None


def _leads(route: Route, host: Surroundings) -> bool:
    """Whether packets can be sent by it: to this host itself, or out by an interface that is not loopback."""
    if route.kind == LOCAL:
        return True
    loopback = any(one.index == route.index and one.name == "lo" for one in host.interfaces)
    return route.kind == UNICAST and not loopback
