"""Policy routing for `forward: dsr`: a packet with a backend's mark goes to that backend, whatever its destination.

For each mark there is a routing rule, `fwmark MARK lookup MARK`, and in the table of that number a default route
through the backend. The packets are sent to addresses of this host, so these rules must come before the kernel's own
first rule, `from all lookup local` at preference 0. No preference comes before 0, but rules of equal preference apply
in the order in which they were added. So our rules have preference 0 too, and an exact copy of the local rule is added
behind them before the old local rule is deleted:

    0: local                  before
    0: local, ours
    0: local, ours, local
    0: ours, local            after; when our rules are deleted, the host is as before

A local rule exists at preference 0 at every moment, even if this process dies in between or the rules are flushed:
`ip rule flush` keeps preference 0, and systemd-networkd keeps rules with the kernel's protocol number. At another
preference a flush would delete the local rule with ours, and the host would lose its connectivity.

Our rules and routes have their own protocol number. Other rules and routes are never changed.

With `encap` the route leads into a tunnel: see `tunnels.py`. The tunnels that routes need are made before the routes,
and deleted after them.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from nftlb.compiler import Hop
from nftlb.errors import KernelError, NftlbError, SystemFault
from nftlb.model import Encap

from . import rtnetlink
from .netlink import NETLINK_ROUTE, Netlink
from .rtnetlink import LOCAL_TABLE, MAIN_TABLE, WHOLE_MASK, Route, RoutingRule
from .tunnels import KINDS, TunnelLinks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nftlb.model import IPAddress

    from .tunnels import Link, Tunnel, TunnelKind

PROTOCOL = 110
"""The protocol number of our rules and routes. Neither iproute2's rt_protos nor the kernel's header assigns it."""

_NO_IP = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
# Tables with a meaning in the kernel: unspec, default, main, local.
_KERNELS_TABLES = {0, 253, MAIN_TABLE, LOCAL_TABLE}


class PartlyRefusedError(KernelError):
    """The kernel refused some changes. `changes`: those that it made, as iproute2 commands."""

    def __init__(self, message: str, changes: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.changes = tuple(changes)


@dataclass(frozen=True)
class PolicyRouting:
    """The routing rules and routes of this thread's network namespace. Stores nothing: the kernel is asked every time.

    `tunnels`: the tunnel interfaces of the same namespace, which belong to the routes.

    The methods raise PartlyRefusedError if the kernel refuses a change, after all other changes were made. They raise
    KernelError if the present state can't be read, and SystemFault if this process lacks the permission.
    """

    tunnels: TunnelLinks = field(default_factory=TunnelLinks)

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        """Send the packets of each mark to its hop, and delete all other rules of ours.

        Returns the changes made, as iproute2 commands. For a hop without a device the kernel finds the interface. Adds
        before it deletes. Needs Linux 4.17, which stores the protocol number of a rule.
        """
        work = _Work(self.tunnels)
        with _netlink() as netlink:
            present = self._links(netlink)
            through = {hop.device: hop for hop in wanted.values() if hop.encap is not Encap.NONE}
            work.make_tunnels(netlink, through, present)
            for version in rtnetlink.FAMILIES:
                hops_of_version = {mark: hop for mark, hop in wanted.items() if hop.via.version == version}
                try:
                    rules, routes = _present(netlink, version)
                except OSError as error:
                    if hops_of_version or error.errno not in _NO_IP:
                        raise _refusal(f"can't read the routing rules of IPv{version}", error) from error
                else:
                    work.settle(netlink, version, hops_of_version, rules, routes)
            work.delete_links(
                netlink, {name: link for name, link in present.items() if link.ours and name not in through}
            )
        if work.failures:
            raise PartlyRefusedError("\n".join(work.failures), work.changes)
        return work.changes

    def remove(self) -> list[str]:
        """Delete all our rules and routes, also those of an earlier process. Return the changes made."""
        return self.apply({})

    def current(self) -> dict[int, Hop]:
        """Return the marks whose packets are steered now, and their next hops."""
        hops = {}
        with _netlink() as netlink:
            tunnels = {link.index: (name, link) for name, link in self._links(netlink).items() if link.ours}
            for version in rtnetlink.FAMILIES:
                try:
                    rules, routes = _present(netlink, version)
                except OSError as error:
                    if error.errno in _NO_IP:
                        continue
                    raise _refusal(f"can't read the routing rules of IPv{version}", error) from error
                effective = _before_local(rules)
                for table, route in routes.items():
                    if _rule(version, table) not in effective:
                        continue
                    if route.gateway:
                        hops[table] = Hop(route.gateway, rtnetlink.interface_name(route.index))
                    elif route.index in tunnels:
                        name, link = tunnels[route.index]
                        if link.remote:
                            hops[table] = Hop(link.remote, name, link.encap())
        return hops

    def _links(self, netlink: Netlink) -> dict[str, Link]:
        try:
            return self.tunnels.present(netlink)
        except OSError as error:
            raise _refusal("can't read the interfaces", error) from error


def find_hops(addresses: Iterable[IPAddress]) -> dict[IPAddress, Hop]:
    """Return the next hop and output interface of each address, by this host's routing tables.

    Addresses without a route, this host's own addresses, and addresses behind a gateway of the other IP version are
    left out.
    """
    found: dict[IPAddress, Hop] = {}
    names: dict[int, str] = {}
    with _netlink() as netlink:
        for address in dict.fromkeys(addresses):
            try:
                route = rtnetlink.route_to(netlink, address)
            except OSError as error:
                raise _refusal(f"can't find the route to {address}", error) from error
            if route is None or route.kind != rtnetlink.UNICAST:
                continue
            via = route.gateway or address
            if via.version != address.version:
                continue
            if route.index not in names:
                names[route.index] = rtnetlink.interface_name(route.index)
            found[address] = Hop(via, names[route.index])
    return found


@dataclass
class _Work:
    """The changes and failures of one call of `PolicyRouting.apply`. `indices`: the tunnels that are there, by name."""

    tunnels: TunnelLinks
    indices: dict[str, int] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def make_tunnels(self, netlink: Netlink, hops: Mapping[str, Hop], present: Mapping[str, Link]) -> None:
        """Make the tunnels of these hops, by the names of their interfaces. `present`: the interfaces of this host."""
        found = [self._tunnel_to_make(netlink, hop, present.get(name)) for name, hop in hops.items()]
        tunnels = [tunnel for tunnel in found if tunnel is not None]
        kept = self.delete_links(
            netlink, {tunnel.name: present[tunnel.name] for tunnel in tunnels if tunnel.name in present}
        )
        lacked: Counter[TunnelKind] = Counter()
        for tunnel in tunnels:
            if tunnel.name in kept:
                continue  # a failure that was reported
            if tunnel.kind in lacked:
                lacked[tunnel.kind] += 1
                continue
            try:
                self.tunnels.add(netlink, tunnel)
                self.indices[tunnel.name] = socket.if_nametoindex(tunnel.name)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    lacked[tunnel.kind] += 1
                else:
                    self._tunnel_failed(tunnel.hop, error)
            else:
                self.changes.append(tunnel.command)
        for kind, count in lacked.items():
            self.failures.append(
                f"this kernel has no interfaces of the type {kind.name}, which `encap` needs for {count} addresses of "
                f"backends: modprobe {kind.module}, or use a kernel with {kind.option}"
            )

    def _tunnel_to_make(self, netlink: Netlink, hop: Hop, link: Link | None) -> Tunnel | None:
        """Return the tunnel of a hop, unless `link`, the interface with its name, is that tunnel or is not ours."""
        if link and not link.ours:
            self.failures.append(
                f"can't make the tunnel to {hop.via}: an interface that nftlb did not make is called {hop.device}: "
                f"ip link set {hop.device} name ANOTHER"
            )
            return None
        try:
            tunnel = self.tunnels.wanted(netlink, hop)
        except OSError as error:
            self._tunnel_failed(hop, error)
            return None
        if tunnel is None:
            self.failures.append(
                f"can't make the tunnel to {hop.via}: this host has no route to it, or no IPv6 address to send from"
            )
        elif link and link.is_like(tunnel):
            self.indices[hop.device] = link.index
            return None
        return tunnel

    def _tunnel_failed(self, hop: Hop, error: OSError) -> None:
        if error.errno == errno.EPERM:
            raise _refusal(f"can't make the tunnel to {hop.via}", error) from error
        self.failures.append(f"can't make the tunnel to {hop.via}: {error.strerror}{_tunnel_fix(error, hop)}")

    def delete_links(self, netlink: Netlink, links: Mapping[str, Link]) -> set[str]:
        """Delete interfaces, and return the names of those that the kernel did not delete."""
        errors = self.tunnels.delete(netlink, [link.index for link in links.values()])
        kept = set()
        for name, link in links.items():
            if error := errors.get(link.index):
                kept.add(name)
                self._refused(f"ip link delete {name}", error)
            else:
                self.changes.append(f"ip link delete {name}")
        return kept

    def settle(
        self,
        netlink: Netlink,
        version: int,
        wanted: Mapping[int, Hop],
        rules: list[RoutingRule],
        routes: dict[int, Route],
    ) -> None:
        """Make the changes for one IP version. `rules` and `routes` are the present ones."""
        ours = [rule for rule in rules if rule.protocol == PROTOCOL]
        steered = [mark for mark, hop in wanted.items() if self._settle_route(netlink, routes.get(mark), mark, hop)]
        keep = {_rule(version, mark): None for mark in steered}
        for rule in keep:
            if rule not in ours:
                self._do(rule.command("add"), partial(rtnetlink.add_rule, netlink, rule))
        if keep:
            self._put_local_behind(netlink, version)
        for rule in ours:
            if rule in keep:
                del keep[rule]  # a second rule like it is deleted
            else:
                self._do(rule.command("delete"), partial(rtnetlink.delete_rule, netlink, rule))
        if ours and not steered:
            self._leave_one_local(netlink, version)
        for table, route in routes.items():
            if table not in steered:
                self._do(route.command("delete"), partial(rtnetlink.delete_route, netlink, route))

    def _settle_route(self, netlink: Netlink, present: Route | None, mark: int, hop: Hop) -> bool:
        """Set the route in the mark's table. Return whether the table then leads to the hop."""
        if mark in _KERNELS_TABLES:
            self.failures.append(f"mark {mark} can't be used, since the kernel uses that table: set marks.first higher")
            return False
        if hop.encap is not Encap.NONE:
            if hop.device not in self.indices:
                return False  # a failure that was reported
            return self._set_route(
                netlink, present, Route(hop.via.version, mark, None, self.indices[hop.device], PROTOCOL)
            )
        try:
            index = socket.if_nametoindex(hop.device) if hop.device else 0
        except OSError:
            self.failures.append(f"can't steer to {hop.via}: this host has no interface called {hop.device}")
            return False
        return self._set_route(netlink, present, Route(hop.via.version, mark, hop.via, index, PROTOCOL))

    def _set_route(self, netlink: Netlink, present: Route | None, route: Route) -> bool:
        """Add a route, or put it in the place of the present route of its table. Return whether the route is there."""
        if present and present.gateway == route.gateway and route.index in (0, present.index):
            return True
        if present:
            return self._do(route.command("replace"), partial(rtnetlink.replace_route, netlink, route), _route_fix)
        return self._do(route.command("add"), partial(rtnetlink.add_route, netlink, route), _route_fix)

    def _put_local_behind(self, netlink: Netlink, version: int) -> None:
        """Move every rule for the local table behind our rules. See the top of this file."""
        first = [rule for rule in rtnetlink.read_rules(netlink, version) if rule.priority == 0]
        behind = 1 + max((at for at, rule in enumerate(first) if rule.protocol == PROTOCOL), default=-1)
        before = [rule for rule in first[:behind] if rule.table == LOCAL_TABLE]
        if not before:
            return  # the local rule was moved to another preference, or is already behind ours
        if not all(map(_is_plain_local, before)):
            # A request to delete the plain rule would match this foreign rule: the kernel deletes the first match.
            self.failures.append(f"a foreign rule at preference 0 is in the way: {before[0].command('add')} ...")
            return
        if not any(map(_is_plain_local, first[behind:])):
            self._do(before[0].command("add"), partial(rtnetlink.add_rule, netlink, before[0]))
        for rule in before:
            self._do(rule.command("delete"), partial(rtnetlink.delete_rule, netlink, rule))

    def _leave_one_local(self, netlink: Netlink, version: int) -> None:
        """Delete the second of two local rules. A process that died between two changes leaves it behind."""
        alike = [rule for rule in rtnetlink.read_rules(netlink, version) if _is_plain_local(rule)]
        for rule in alike[1:]:
            self._do(rule.command("delete"), partial(rtnetlink.delete_rule, netlink, rule))

    def _do(self, command: str, action: Callable[[], None], fix: Callable[[OSError], str] | None = None) -> bool:
        """Make one change. Return whether the kernel accepted it."""
        try:
            action()
        except OSError as error:
            self._refused(command, error, fix(error) if fix else "")
            return False
        self.changes.append(command)
        return True

    def _refused(self, command: str, error: OSError, fix: str = "") -> None:
        """Record that the kernel refused a change. Raises SystemFault if this process lacks the permission."""
        if error.errno == errno.EPERM:
            raise _refusal(f"can't {command}", error) from error
        self.failures.append(f"can't {command}: {error.strerror}{fix}")


def _netlink() -> Netlink:
    try:
        return Netlink(NETLINK_ROUTE)
    except OSError as error:
        raise _refusal("can't open a netlink socket", error) from error


def _present(netlink: Netlink, version: int) -> tuple[list[RoutingRule], dict[int, Route]]:
    """Return all rules of an IP version, and our routes by table."""
    routes = rtnetlink.read_routes(netlink, version, PROTOCOL)
    return rtnetlink.read_rules(netlink, version), {route.table: route for route in routes}


def _rule(version: int, mark: int) -> RoutingRule:
    return RoutingRule(version, table=mark, mark=mark, mask=WHOLE_MASK, protocol=PROTOCOL)


def _before_local(rules: list[RoutingRule]) -> list[RoutingRule]:
    """Return the rules before the rule for the local table, at whatever preference that rule is."""
    return list(takewhile(lambda rule: rule.table != LOCAL_TABLE or rule.mask or rule.selective, rules))


def _is_plain_local(rule: RoutingRule) -> bool:
    """Whether a rule is the kernel's own first rule or a copy of that rule."""
    return rule == RoutingRule(rule.version, LOCAL_TABLE, protocol=rule.protocol)


def _tunnel_fix(error: OSError, hop: Hop) -> str:
    """Return the likely cause and its fix, to append to a message."""
    if error.errno == errno.EEXIST:
        kind = KINDS[hop.encap, hop.via.version]
        return f": another tunnel of this host has the same ends: ip -details link show type {kind.name}"
    return ""


def _route_fix(error: OSError) -> str:
    """Return the likely cause and its fix, to append to a message."""
    match error.errno:
        case errno.EEXIST:
            return ": the table has a route that is not ours: set marks.first to where tables are free"
        case errno.ENETDOWN:
            return ": the interface is down: ip link set DEVICE up"
        case errno.ENETUNREACH | errno.EHOSTUNREACH | errno.EINVAL:
            return (
                ": a backend of `forward: dsr` must be on a network that this host has an interface in; "
                "if it is, name it as the backend's `device`, and if a router leads to it, as its `via`"
            )
    return ""


def _refusal(what: str, error: OSError) -> NftlbError:
    if error.errno == errno.EPERM:
        return SystemFault(f"{what}: not permitted: run nftlb as root, or with CAP_NET_ADMIN")
    if error.errno in _NO_IP:
        return KernelError(f"{what}: the kernel does not support it (see CONFIG_IP_MULTIPLE_TABLES, ipv6.disable=1)")
    return KernelError(f"{what}: {error.strerror}")
