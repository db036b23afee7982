"""The requirements of pools: source addresses, interfaces, routes and forwarding that this host must have. Pure.

While a requirement is not met, the daemon reports the pool as not ready, and the doctor reports a finding. The address
of the service is not a requirement: a VRRP backup does not have it, and must be ready to get it. The same holds for a
`source` that is also an address of the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nftlb.compiler.routes import tunnel_hop
from nftlb.kernel.flow_options import SESSION_TIMEOUT
from nftlb.kernel.neighbours import Neighbour
from nftlb.kernel.rtnetlink import LOCAL, UNICAST
from nftlb.kernel.surroundings import Lookup
from nftlb.kernel.tunnels import KINDS
from nftlb.model import Admin, Encap, Forward, SourceKind
from nftlb.name_list import names_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nftlb.kernel.rtnetlink import Route
    from nftlb.kernel.surroundings import Surroundings
    from nftlb.kernel.tunnels import Link
    from nftlb.model import Backend, Config, IPAddress, Pool

_NAMED = 3
"""The most backends or pools that a message names."""


@dataclass(frozen=True, slots=True)
class Lack:
    """A requirement of a pool that this host does not meet. `fix`: commands, or what to change, each on a line."""

    pool: str
    subject: str
    message: str
    fix: str
    backend: str = ""
    """The backend with the requirement; empty if the whole pool has it."""
    kind: str = ""
    """The cause that backends, or pools, with the same lack have in common: many of them are described together."""

    @property
    def owner(self) -> str:
        """The backend, or the pool, that has the requirement."""
        return f"{self.pool}/{self.backend}" if self.backend else self.pool

    def __str__(self) -> str:
        return "; ".join((self.message, *self.fix.splitlines()))


class LackFault(NamedTuple):
    """The description of what these pools lack."""

    message: str
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackendPath:
    """How packets get from this host to a backend.

    `trouble` is the reason why they do not, or empty. `neighbour` is the next hop on a link, which must answer.
    """

    trouble: str = ""
    neighbour: Neighbour | None = None


def lookups(config: Config) -> Iterator[Lookup]:
    """The routing table lookups that `lacking` and `backend_path` need."""
    for pool in config.pools:
        yield from map(Lookup, required_sources(pool))
        for backend in pool.backends:
            yield from _lookups(pool, backend)


def lacking(config: Config, host: Surroundings) -> Iterator[Lack]:
    """Find the requirements that this host does not meet, pool by pool."""
    services = {listener.address for pool in config.pools for listener in pool.listen}
    for pool in config.pools:
        yield from lacking_sources(pool, services, host)
        yield from _lacking_devices(pool, host)
        yield from _lacking_routes(pool, host)
        yield from _lacking_forwarding(pool, host)
        yield from _lacking_options(pool, host)
        yield from tunnel_lacks(pool, host)
        yield from _lacking_tunnels(pool, host)


def _lacking_options(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    """Find the options of flows that the kernel lacks. The pool is loaded without them.

    So clients get no answer from another port without the helper, and flows end as the host is set without time-outs.
    """
    if pool.helper in host.missing_options:
        message = f"the kernel has no helper for {pool.helper}, which pool {pool.name} needs"
        fix = f"modprobe nf_nat_{pool.helper}\nwithout the daemon, also nftlb apply after that"
        yield Lack(pool.name, f"helper {pool.helper}", message, fix)
    if pool.session_timeout and SESSION_TIMEOUT in host.missing_options:
        message = f"the kernel has no time-outs for flows, which `session_timeout` of pool {pool.name} needs"
        fix = "use a kernel with CONFIG_NF_CONNTRACK_TIMEOUT, or net.netfilter.nf_conntrack_udp_timeout for all flows"
        yield Lack(pool.name, SESSION_TIMEOUT, message, fix)


def tunnel_kinds(config: Config) -> frozenset[tuple[Encap, int]]:
    """The types of tunnels that the pools need, as keys of `KINDS`."""
    return frozenset(key for pool in config.pools for key in _kinds(pool))


def tunnel_lacks(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    """Find the types of tunnels that the kernel lacks. Without its tunnel, a backend gets no packets."""
    for key in sorted(_kinds(pool) & host.missing_tunnels):
        kind = KINDS[key]
        message = f"this kernel has no interfaces of the type {kind.name}, which `encap` of pool {pool.name} needs"
        fix = f"modprobe {kind.module}\nor use a kernel with {kind.option}"
        yield Lack(pool.name, f"encap {pool.encap}", message, fix, kind=f"encap {pool.encap} ({kind.name})")


def stale_tunnels(config: Config, host: Surroundings) -> frozenset[str]:
    """The interfaces of tunnels that send from an address which this host no longer has. A load makes them again."""
    return frozenset(
        hop.device
        for pool in config.pools
        if pool.encap is not Encap.NONE
        for address in _destinations(pool)
        if (hop := tunnel_hop(pool.encap, address)) and _is_stale((host.tunnels or {}).get(hop.device), host)
    )


def _is_stale(link: Link | None, host: Surroundings) -> bool:
    return link is not None and link.ours and link.local is not None and link.local not in host.usable


def _lacking_tunnels(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    for backend in _served(pool):
        if (pool.encap, backend.address.version) in host.missing_tunnels:
            continue  # a lack of the pool
        trouble, fix, kind = _tunnel_trouble(pool, backend, host)
        if trouble:
            message = f"{trouble}, for backend {pool.name}/{backend.name}"
            yield Lack(pool.name, f"tunnel to {backend.address}", message, fix, backend.name, kind)


def _tunnel_trouble(pool: Pool, backend: Backend, host: Surroundings) -> tuple[str, str, str]:
    """Return why packets do not get into the tunnel of a backend, the fix, and the kind of the lack.

    All three are empty if packets get into the tunnel, or if nothing is known.
    """
    trouble = fix = kind = ""
    if pool.encap is Encap.NONE or host.tunnels is None:
        return trouble, fix, kind
    hop = tunnel_hop(pool.encap, backend.address)
    link = host.tunnels.get(hop.device)
    if link is not None and not link.ours:
        trouble = f"the interface {hop.device}, which nftlb did not make, has the name of the tunnel to {hop.via}"
        fix = f"ip link set {hop.device} name ANOTHER"
        kind = "names of tunnels to backends"
    elif link is None or not link.leads_to(hop):
        trouble = f"the tunnel to {hop.via} could not be made, or was deleted"
        fix = "the daemon tries again; the faults of the status, and nftlb apply, say what the kernel refuses"
        kind = "tunnels to backends"
    elif _is_stale(link, host):
        trouble = f"the tunnel to {hop.via} sends from {link.local}, which this host does not have any more"
        fix = f"the daemon makes it again as soon as the route has another address: ip route get {hop.via}"
        kind = f"tunnels to backends from {link.local}"
    return trouble, fix, kind


def _kinds(pool: Pool) -> set[tuple[Encap, int]]:
    if pool.encap is Encap.NONE:
        return set()
    return {(pool.encap, address.version) for address in _destinations(pool)}


def _destinations(pool: Pool) -> Iterator[IPAddress]:
    yield from (backend.address for backend in pool.backends if backend.family in pool.families)
    yield from (endpoint.address for endpoint in pool.fallback.sorry)


def lacking_sources(pool: Pool, services: set[IPAddress], host: Surroundings) -> Iterator[Lack]:
    """Find the addresses which a pool or its health checks send from, but which this host does not have."""
    unusable = unusable_addresses(host)
    for address, use in required_sources(pool).items():
        subject = f"address {address}"
        if address in services:
            continue
        if address in unusable:
            yield Lack(
                pool.name,
                subject,
                f"pool {pool.name} can't use {address}, {use}: duplicate address detection failed or has not finished",
                f"look for another host with this address: ip address show dev {unusable[address]}",
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


def pool_lines(lacks: Iterable[Lack]) -> tuple[str, ...]:
    """Describe what one pool lacks. One cause, such as an interface that is down, may concern all its backends."""
    return tuple(dict.fromkeys(f"{same[0]}{others_with(same)}" for same in together(lacks)))


def together(lacks: Iterable[Lack]) -> list[list[Lack]]:
    """The lacks that are described together: many of one kind. Each of the others is alone in its list."""
    kinds: dict[str, list[Lack]] = {}
    for lack in lacks:
        kinds.setdefault(lack.kind or str(lack), []).append(lack)
    return [part for same in kinds.values() for part in ([same] if len(same) > _NAMED else [[lack] for lack in same])]


def others_with(same: Sequence[Lack]) -> str:
    """The end of the description of the first lack: the backends and pools that lack the same; empty without others."""
    names = dict.fromkeys(lack.owner for lack in same if lack.owner != same[0].owner)
    return f"; the same for {names_text(names, _NAMED)}" if names else ""


def faults_of(lacks: Iterable[Lack]) -> dict[str, LackFault]:
    """Describe what several pools lack, by kind or, without a kind, by subject.

    The number of lacks must not change the key: the daemon would report that the fault with the old key has gone.
    """
    found: dict[str, list[Lack]] = {}
    for lack in lacks:
        found.setdefault(lack.kind or lack.subject, []).append(lack)
    return {
        subject: LackFault(f"{same[0]}{others_with(same)}", tuple(dict.fromkeys(lack.pool for lack in same)))
        for subject, same in found.items()
    }


def backend_path(pool: Pool, backend: Backend, host: Surroundings) -> BackendPath:
    """Find how packets get from this host to a backend."""
    route = _route(pool, backend, host)
    direct = pool.forward is Forward.DSR or bool(pool.ingress)
    goal = _goal(pool, backend)
    if direct and backend.device:
        interface = host.interface(backend.device)
        if interface is None:
            return BackendPath(f"there is no interface {backend.device}")
        if not interface.up:
            return BackendPath(f"interface {backend.device} is down")
        return BackendPath(neighbour=Neighbour(interface.index, backend.via or _gateway(route) or goal))
    if route is None or not _leads(route, host):
        return BackendPath(f"no route to {goal}")
    trouble, _, _ = _tunnel_trouble(pool, backend, host)
    if trouble or route.kind == LOCAL or route.several:
        return BackendPath(trouble)  # without trouble: no next hop on a link, or several
    return BackendPath(neighbour=Neighbour(route.index, route.gateway or goal))


def _lacking_devices(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    uses = [(name, "`ingress`", "") for name in pool.ingress]
    # A listener that has got addresses of its interface has no `host` any more.
    uses += [(name, "`listen`", "") for name in dict.fromkeys(one.interface for one in pool.listen) if name]
    uses += [(health.device, "`device` under health", "") for health in pool.health if health.device]
    if pool.ingress or pool.forward is Forward.DSR:
        uses += [(backend.device, "`device`", backend.name) for backend in _served(pool) if backend.device]
    for name, use, backend in uses:
        if lack := interface_lack(pool, name, use, host, backend):
            yield lack


def interface_lack(pool: Pool, name: str, use: str, host: Surroundings, backend: str = "") -> Lack | None:
    """Check that an interface exists and is up. `use` is the option that names it; `backend` is empty for a pool's."""
    interface = host.interface(name)
    where = f"{use} of backend {backend}" if backend else use
    kind = f"interface {name}" if backend else ""
    if interface is None:
        message = f"there is no interface {name}, {where} of pool {pool.name}"
        return Lack(pool.name, f"interface {name}", message, "ip link show", backend, kind)
    if not interface.up:
        message = f"interface {name}, {where} of pool {pool.name}, is down"
        return Lack(pool.name, f"interface {name}", message, f"ip link set {name} up", backend, kind)
    return None


def _lacking_routes(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    for backend in _served(pool):
        if backend.device and (pool.ingress or pool.forward is Forward.DSR):
            continue  # packets leave by that interface, whatever the routing table says
        if lack := route_lack(pool, backend, _goal(pool, backend), _route(pool, backend, host), host):
            yield lack


def route_lack(pool: Pool, backend: Backend, goal: IPAddress, route: Route | None, host: Surroundings) -> Lack | None:
    """Check that a route leads to a backend, or to the router `goal`, with a source address if the pool masquerades."""
    subject, name = f"route to {goal}", f"backend {pool.name}/{backend.name}"
    if route is None:
        message = f"there is no route to {goal}, {name}"
        return Lack(pool.name, subject, message, f"ip route add {goal} via ROUTER", backend.name, "routes to backends")
    if not _leads(route, host):
        special = _UNUSABLE_KINDS.get(route.kind)
        reason = f"it is {special}" if special else "its route ends at this host"
        message = f"packets can't be sent to {goal}, {name}: {reason}"
        kind = f"routes to backends ({special or 'ends at this host'})"
        return Lack(pool.name, subject, message, f"ip route get {goal}", backend.name, kind)
    if not _has_source(pool, backend, route):
        device = next((interface.name for interface in host.interfaces if interface.index == route.index), "INTERFACE")
        message = f"this host has no address for `source: masquerade` on the route to {goal}, {name}"
        fix = f"ip address add ADDRESS dev {device}"
        kind = f"IPv{goal.version} source address on {device}"
        return Lack(pool.name, subject, message, fix, backend.name, kind)
    return None


# include/uapi/linux/rtnetlink.h, RTN_*
_UNUSABLE_KINDS = {3: "a broadcast address", 4: "an anycast address", 5: "a multicast address"}


def _has_source(pool: Pool, backend: Backend, route: Route) -> bool:
    """Whether this host has an address that masquerade can use towards a backend, if the pool masquerades."""
    masquerades = (
        pool.forward is Forward.NAT
        and pool.source is SourceKind.MASQUERADE
        and pool.source_address(backend.family) is None
    )
    return not masquerades or route.kind != UNICAST or route.source is not None


def _lacking_forwarding(pool: Pool, host: Surroundings) -> Iterator[Lack]:
    for version, sysctl in FORWARDING_SYSCTLS.items():
        away = [
            served
            for served in _served(pool)
            if served.address.version == version and (route := _route(pool, served, host)) and route.kind == UNICAST
        ]
        if away and not host.forwards.get(version, True):
            message = f"{no_forwarding(version)}, which pool {pool.name} needs"
            fix = f"sysctl -w {sysctl.replace('/', '.')}=1"
            yield Lack(pool.name, f"IPv{version} forwarding", message, fix)


FORWARDING_SYSCTLS = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
"""By IP version, the sysctl that makes this host forward packets."""


def no_forwarding(version: int) -> str:
    return f"this host does not forward IPv{version} packets"


def unusable_addresses(host: Surroundings) -> dict[IPAddress, str]:
    """The addresses that duplicate address detection keeps from being used, each with its interface."""
    return {address: interface.name for interface in host.interfaces for address in interface.unusable}


def required_sources(pool: Pool) -> dict[IPAddress, str]:
    """The addresses that packets and health checks are sent from, each with the option that names it."""
    found = dict.fromkeys((address for health in pool.health for address in health.source), "`source` under health")
    return found | dict.fromkeys(pool.source_addresses, "`source`")


def _served(pool: Pool) -> Iterator[Backend]:
    """The backends that may get packets by the configuration, without regard to health."""
    return (
        backend
        for backend in pool.backends
        if backend.family in pool.families and backend.admin is Admin.ENABLED and backend.weight
    )


def _goal(pool: Pool, backend: Backend) -> IPAddress:
    """The address whose route leads to a backend: with `dsr` and on the fast path, its `via` if it has one."""
    direct = pool.forward is Forward.DSR or pool.ingress
    return backend.via or backend.address if direct else backend.address


def _lookups(pool: Pool, backend: Backend) -> Iterator[Lookup]:
    """The lookups for a backend, without an option first; then with the interface, VRF or mark of its health checks."""
    goal = _goal(pool, backend)
    yield Lookup(goal)
    for health in pool.health:
        if health.device or health.mark:
            yield Lookup(goal, health.device or "", health.mark or 0)


def _route(pool: Pool, backend: Backend, host: Surroundings) -> Route | None:
    found = (host.routes.get(lookup) for lookup in _lookups(pool, backend))
    return next((route for route in found if route is not None), None)


def _gateway(route: Route | None) -> IPAddress | None:
    return route.gateway if route is not None else None


def _leads(route: Route, host: Surroundings) -> bool:
    """Whether a route leads to this host itself, or out by an interface that is not loopback."""
    if route.kind == LOCAL:
        return True
    loopback = any(interface.index == route.index and interface.name == "lo" for interface in host.interfaces)
    return route.kind == UNICAST and not loopback
