"""What `forward: dsr` needs beside nftables: a packet with a backend's mark goes to that backend, whatever its address.

For each mark there is a rule, `fwmark MARK lookup MARK`, and in the table of that number a default route through the
backend. The packets are for addresses of this host, so these rules must come before the kernel's own first rule,
`from all lookup local` at preference 0. Nothing comes before preference 0, but rules of one preference are looked at
in the order of their making. So ours have preference 0 too, and the local rule is made anew behind them, an exact
copy, before the old one goes:

    0: local                  before
    0: local, ours
    0: local, ours, local
    0: ours, local            after; without ours, the host is as it was

There is a local rule at preference 0 at every moment, also when this process dies in between, or when somebody flushes
the rules: `ip rule flush` spares preference 0, and systemd-networkd what has the kernel's protocol number. At another
preference the local rule would go with ours, and the host's connectivity with it.

Whatever is ours has a protocol number of its own; nothing else is touched.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from nftlb.compiler import Hop
from nftlb.errors import KernelError, NftlbError, SystemFault

from . import rtnetlink
from .netlink import NETLINK_ROUTE, Netlink
from .rtnetlink import LOCAL_TABLE, MAIN_TABLE, WHOLE_MASK, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nftlb.model import IPAddress

PROTOCOL = 110
"""Who made a rule or a route: us. Neither iproute2's rt_protos nor the kernel's header gives this number to anyone."""

_NO_IP = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
# Tables that mean something to the kernel: unspec, default, main, local.
_KERNELS_TABLES = {0, 253, MAIN_TABLE, LOCAL_TABLE}


class Steering:
    """The rules and routes of this thread's network namespace; keeps nothing, asks the kernel every time.

    The methods raise KernelError when the kernel refuses something; whatever else there is to do is done nevertheless.
    SystemFault: this process may not.
    """

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        """Have packets of each mark sent to its hop, and of no other; return the changes made, in iproute2's words.

        A hop without a device goes where the kernel finds its address. Adds before it removes. Linux 4.17 or later,
        which can tell whose rule it is.
        """
        work = _Work()
        with _netlink() as netlink:
            for version in rtnetlink.FAMILIES:
                hops_of_version = {mark: hop for mark, hop in wanted.items() if hop.via.version == version}
                try:
                    rules, routes = _present(netlink, version)
                except OSError as error:
                    if hops_of_version or error.errno not in _NO_IP:
                        raise _refusal(f"can't read the routing rules of IPv{version}", error) from error
                else:
                    work.settle(netlink, version, hops_of_version, rules, routes)
        if work.failures:
            raise KernelError("\n".join(work.failures))
        return work.changes

    def remove(self) -> list[str]:
        """Take away all that is ours, also what was left by an earlier process; return the changes made."""
        return self.apply({})

    def current(self) -> dict[int, Hop]:
        """The marks that are steered now, and where to."""
        hops = {}
        with _netlink() as netlink:
            for version in rtnetlink.FAMILIES:
                try:
                    rules, routes = _present(netlink, version)
                except OSError as error:
                    if error.errno in _NO_IP:
                        continue
                    raise _refusal(f"can't read the routing rules of IPv{version}", error) from error
                effective = _before_local(rules)
                for table, route in routes.items():
                    if route.gateway and _rule(version, table) in effective:
                        hops[table] = Hop(route.gateway, rtnetlink.interface_name(route.index))
        return hops


def hops(addresses: Iterable[IPAddress]) -> dict[IPAddress, Hop]:
    """Next hop and output interface of each address, by this host's routing table.

    Left out: what there is no route to, this host's own addresses, and what is reached through a gateway of the other
    IP family.
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
    """One round: what was changed, and what could not be."""

    changes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def settle(
        self, netlink: Netlink, version: int, wanted: Mapping[int, Hop], rules: list[Rule], routes: dict[int, Route]
    ) -> None:
        """Bring one family in order; `rules` and `routes` are what is there."""
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
                del keep[rule]  # and a second one like it goes
            else:
                self._do(rule.command("delete"), partial(rtnetlink.delete_rule, netlink, rule))
        if ours and not steered:
            self._leave_one_local(netlink, version)
        for table, route in routes.items():
            if table not in steered:
                self._do(route.command("delete"), partial(rtnetlink.delete_route, netlink, route))

    def _settle_route(self, netlink: Netlink, present: Route | None, mark: int, hop: Hop) -> bool:
        """Have the mark's table lead to the hop; tell whether it does."""
        if mark in _KERNELS_TABLES:
            self.failures.append(f"mark {mark} can't be used, since the kernel uses that table: set marks.first higher")
            return False
        try:
            index = socket.if_nametoindex(hop.device) if hop.device else 0
        except OSError:
            self.failures.append(f"can't steer to {hop.via}: there is no interface called {hop.device}")
            return False
        if present and present.gateway == hop.via and index in (0, present.index):
            return True
        route = Route(hop.via.version, mark, hop.via, index, PROTOCOL)
        if present:
            return self._do(route.command("replace"), partial(rtnetlink.replace_route, netlink, route), _route_mend)
        return self._do(route.command("add"), partial(rtnetlink.add_route, netlink, route), _route_mend)

    def _put_local_behind(self, netlink: Netlink, version: int) -> None:
        """Have every rule for the local table come after ours; see the top of this file."""
        first = [rule for rule in rtnetlink.rules(netlink, version) if rule.priority == 0]
        behind = 1 + max((at for at, rule in enumerate(first) if rule.protocol == PROTOCOL), default=-1)
        before = [rule for rule in first[:behind] if rule.table == LOCAL_TABLE]
        if not before:
            return  # the rule for the local table was moved elsewhere by somebody, or is right
        if not all(map(_is_plain_local, before)):
            # The kernel deletes the first rule that fits, and this one would fit a request for the plain one.
            self.failures.append(f"somebody's rule at preference 0 is in the way: {before[0].command('add')} ...")
            return
        if not any(map(_is_plain_local, first[behind:])):
            self._do(before[0].command("add"), partial(rtnetlink.add_rule, netlink, before[0]))
        for rule in before:
            self._do(rule.command("delete"), partial(rtnetlink.delete_rule, netlink, rule))

    def _leave_one_local(self, netlink: Netlink, version: int) -> None:
        """Remove the second of two local rules, which a process leaves behind that dies at the wrong moment."""
        alike = [rule for rule in rtnetlink.rules(netlink, version) if _is_plain_local(rule)]
        for rule in alike[1:]:
            self._do(rule.command("delete"), partial(rtnetlink.delete_rule, netlink, rule))

    def _do(self, command: str, action: Callable[[], None], mend: Callable[[OSError], str] | None = None) -> bool:
        """Carry out one change; tell whether it was possible."""
        try:
            action()
        except OSError as error:
            if error.errno == errno.EPERM:
                raise _refusal(f"can't {command}", error) from error
            self.failures.append(f"can't {command}: {error.strerror}{mend(error) if mend else ''}")
            return False
        self.changes.append(command)
        return True


def _netlink() -> Netlink:
    try:
        return Netlink(NETLINK_ROUTE)
    except OSError as error:
        raise _refusal("can't open a netlink socket", error) from error


def _present(netlink: Netlink, version: int) -> tuple[list[Rule], dict[int, Route]]:
    """All rules of a family, and our routes by table."""
    routes = rtnetlink.routes(netlink, version, PROTOCOL)
    return rtnetlink.rules(netlink, version), {route.table: route for route in routes}


def _rule(version: int, mark: int) -> Rule:
    return Rule(version, table=mark, mark=mark, mask=WHOLE_MASK, protocol=PROTOCOL)


def _before_local(rules: list[Rule]) -> list[Rule]:
    """The rules before the one for the local table, wherever that is."""
    return list(takewhile(lambda rule: rule.table != LOCAL_TABLE or rule.mask or rule.selective, rules))


def _is_plain_local(rule: Rule) -> bool:
    """Tell whether it is the kernel's own first rule, or a copy of it."""
    return rule == Rule(rule.version, LOCAL_TABLE, protocol=rule.protocol)


def _route_mend(error: OSError) -> str:
    """What is likely to be wrong, and what to do about it."""
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
        return KernelError(f"{what}: the kernel has no such thing (CONFIG_IP_MULTIPLE_TABLES, ipv6.disable=1)")
    return KernelError(f"{what}: {error.strerror}")
