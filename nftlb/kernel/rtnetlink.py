"""Routing rules and routes as values, and the encoding and decoding of their netlink messages."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from .netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, attribute, attributes

IPAddress: TypeAlias = IPv4Address | IPv6Address

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
"""Address families by IP version."""
LOCAL_TABLE, MAIN_TABLE = 255, 254
WHOLE_MASK = 0xFFFFFFFF
UNICAST, LOCAL = 1, 2
"""Types of routes: RTN_UNICAST, RTN_LOCAL."""

# include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h: the messages about links and addresses
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_GETADDR = 16, 17, 18, 22
IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of changed flags
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
IFLA_IFNAME, IFLA_MTU = 3, 4
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFF_UP, IFF_RUNNING = 0x1, 0x40

# include/uapi/linux/rtnetlink.h, fib_rules.h: the messages about routes and routing rules
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
# fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags;
# rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_HEADER = struct.Struct("=BBBBBBBBI")
_NUMBER = struct.Struct("=I")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 6, 7, 8
_RTAX_MTU = 2
_RTA_MULTIPATH, _RTA_TABLE, _RTA_MARK, _RTA_VIA = 9, 15, 16, 18
_RTM_F_FIB_MATCH = 0x2000
_RT_SCOPE_LINK = 253
_FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 6, 10, 14, 15, 16, 21
_FRA_PAD = 18
_PLAIN_ATTRIBUTES = {
    _FRA_PRIORITY,
    _FRA_FWMARK,
    _FRA_SUPPRESS_PREFIXLEN,
    _FRA_TABLE,
    _FRA_FWMASK,
    _FRA_PAD,
    _FRA_PROTOCOL,
}
_FR_ACT_TO_TBL = 1
_NO_SUPPRESSION = 0xFFFFFFFF
# The kernel's errors for an address that can't be reached: no route, an `unreachable`, `prohibit` or `blackhole` route,
# no IPv6.
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT}


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """A rule of `ip rule`: the routing table for packets with a mark or, without a mark, for all packets.

    `selective`: the rule has other conditions or effects, which are not stored here.
    """

    version: int
    table: int
    priority: int = 0
    mark: int = 0
    mask: int = 0
    protocol: int = 0
    selective: bool = False

    def command(self, verb: str) -> str:
        """Return the iproute2 command for the verb `add` or `delete`."""
        what = f"fwmark {self.mark:#x}" if self.mark else "from all"
        if self.mark and self.mask != WHOLE_MASK:
            what += f"/{self.mask:#x}"
        table = "local" if self.table == LOCAL_TABLE else str(self.table)
        return f"ip -{self.version} rule {verb} {what} lookup {table} pref {self.priority}"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of `ip route`: the default route of a table, or the kernel's result for an address."""

    version: int
    table: int
    gateway: IPAddress | None = None
    index: int = 0
    """Index of the output interface; 0 lets the kernel find the interface."""
    protocol: int = 0
    kind: int = UNICAST
    prefix_length: int = 0
    metric: int = 0
    source: IPAddress | None = None
    """The source address of this host's own packets. Only `route_to` sets it, and not always."""
    several: bool = False
    """Packets are spread over several next hops, of which `route_to` shows only one."""
    mtu: int = 0
    """The largest packet in bytes, where the route or path MTU discovery says so; 0 for the MTU of the interface."""

    def command(self, verb: str) -> str:
        """Return the iproute2 command for the verb `add`, `replace` or `delete`."""
        device = f" dev {interface_name(self.index)}" if self.index else ""
        via = f" via {self.gateway}" if self.gateway else ""
        return f"ip -{self.version} route {verb} default{via}{device} table {self.table}"


def interface_name(index: int) -> str:
    """Return the name of an interface in this thread's namespace; `if7` if the interface no longer exists."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"if{index}"


def read_rules(netlink: Netlink, version: int) -> list[RoutingRule]:
    """Return all rules of an IP version, in the order in which they apply."""
    request = _HEADER.pack(FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    found = (_read_rule(body) for body in netlink.dump_all(_RTM_GETRULE, request))
    # A kernel without IPv6 returns the rules of all families.
    return [rule for rule in found if rule.version == version]


def add_rule(netlink: Netlink, rule: RoutingRule) -> None:
    """Add a rule behind the rules of equal priority, even if an equal rule exists."""
    netlink.change(_RTM_NEWRULE, _rule_body(rule), NLM_F_CREATE)


def delete_rule(netlink: Netlink, rule: RoutingRule) -> None:
    """Delete the first rule that equals this rule or is more selective than this rule."""
    netlink.change(_RTM_DELRULE, _rule_body(rule))


def read_routes(netlink: Netlink, version: int, protocol: int) -> list[Route]:
    """Return the routes of an IP version and a protocol (the number of the software that made them), of all tables."""
    # Since Linux 4.20 the kernel filters: there may be a million other routes.
    request = _HEADER.pack(FAMILIES[version], 0, 0, 0, 0, protocol, 0, 0, 0)
    found = (_read_route(body) for body in netlink.dump_all(_RTM_GETROUTE, request))
    return [route for route in found if route.version == version and route.protocol == protocol]


def add_route(netlink: Netlink, route: Route) -> None:
    """Add a default route. Raises FileExistsError if the table has a default route of that metric."""
    netlink.change(_RTM_NEWROUTE, _route_body(route), NLM_F_CREATE | NLM_F_EXCL)


def replace_route(netlink: Netlink, route: Route) -> None:
    """Replace the default route of that table and metric, without a gap."""
    netlink.change(_RTM_NEWROUTE, _route_body(route), NLM_F_CREATE | NLM_F_REPLACE)


def delete_route(netlink: Netlink, route: Route) -> None:
    netlink.change(_RTM_DELROUTE, _route_body(route))


def route_to(netlink: Netlink, address: IPAddress, index: int = 0, mark: int = 0) -> Route | None:
    """Return the route that a packet to this address would take; None if the address can't be reached.

    `index`: the interface or VRF that the packet has to use, 0 for any. `mark`: the packet's firewall mark.
    """
    request = attribute(_RTA_DST, address.packed)
    if index:
        request += attribute(_RTA_OIF, _NUMBER.pack(index))
    if mark:
        request += attribute(_RTA_MARK, _NUMBER.pack(mark))
    try:
        route = _read_route(_ask_for_route(netlink, address, request))
        if route.gateway is None:
            return route
        # The plain reply has one next hop. The entry of the routing table shows whether there are more (Linux 4.18).
        entry = attributes(_ask_for_route(netlink, address, request, _RTM_F_FIB_MATCH), _HEADER.size)
        return replace(route, several=_RTA_MULTIPATH in entry)
    except OSError as error:
        if error.errno in _NO_WAY:
            return None
        raise


def _ask_for_route(netlink: Netlink, address: IPAddress, request: bytes, flags: int = 0) -> bytes:
    header = _HEADER.pack(FAMILIES[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, flags)
    return netlink.ask(_RTM_GETROUTE, header + request)


def _rule_body(rule: RoutingRule) -> bytes:
    body = _HEADER.pack(FAMILIES[rule.version], 0, 0, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
    body += attribute(_FRA_PRIORITY, _NUMBER.pack(rule.priority)) + attribute(_FRA_TABLE, _NUMBER.pack(rule.table))
    if rule.mark:
        body += attribute(_FRA_FWMARK, _NUMBER.pack(rule.mark)) + attribute(_FRA_FWMASK, _NUMBER.pack(rule.mask))
    return body + attribute(_FRA_PROTOCOL, bytes([rule.protocol]))


def _read_rule(body: bytes) -> RoutingRule:
    family, destination, source, tos, table, _, _, action, flags = _HEADER.unpack_from(body)
    found = attributes(body, _HEADER.size)

    def number(kind: int, default: int) -> int:
        return int(_NUMBER.unpack(found[kind])[0]) if kind in found else default

    conditions = destination or source or tos or flags or action != _FR_ACT_TO_TBL
    return RoutingRule(
        version=_version(family),
        table=number(_FRA_TABLE, table),
        priority=number(_FRA_PRIORITY, 0),
        mark=number(_FRA_FWMARK, 0),
        mask=number(_FRA_FWMASK, 0),
        protocol=found.get(_FRA_PROTOCOL, b"\0")[0],
        selective=bool(conditions or found.keys() - _PLAIN_ATTRIBUTES)
        or number(_FRA_SUPPRESS_PREFIXLEN, _NO_SUPPRESSION) != _NO_SUPPRESSION,
    )


def _route_body(route: Route) -> bytes:
    family = FAMILIES[route.version]
    # As iproute2: the other end of an IPv4 route without a gateway is on the link.
    scope = _RT_SCOPE_LINK if route.gateway is None and family == socket.AF_INET else 0
    body = _HEADER.pack(family, route.prefix_length, 0, 0, 0, route.protocol, scope, route.kind, 0)
    body += attribute(_RTA_TABLE, _NUMBER.pack(route.table))
    if route.metric:
        body += attribute(_RTA_PRIORITY, _NUMBER.pack(route.metric))
    if route.gateway:
        body += attribute(_RTA_GATEWAY, route.gateway.packed)
    if route.index:
        body += attribute(_RTA_OIF, _NUMBER.pack(route.index))
    return body


def _read_route(body: bytes) -> Route:
    family, prefix_length, _, _, table, protocol, _, kind, _ = _HEADER.unpack_from(body)
    found = attributes(body, _HEADER.size)

    def number(wanted: int, default: int) -> int:
        return int(_NUMBER.unpack(found[wanted])[0]) if wanted in found else default

    # RTA_VIA: a gateway of the other family, behind the number of that family
    gateway = found.get(_RTA_GATEWAY) or found.get(_RTA_VIA, b"")[2:]
    source = found.get(_RTA_PREFSRC)
    metrics = attributes(found.get(_RTA_METRICS, b""))
    return Route(
        version=_version(family),
        table=number(_RTA_TABLE, table),
        gateway=ip_address(gateway) if gateway else None,
        index=number(_RTA_OIF, 0),
        protocol=protocol,
        kind=kind,
        prefix_length=prefix_length,
        metric=number(_RTA_PRIORITY, 0),
        source=ip_address(source) if source else None,
        mtu=int(_NUMBER.unpack(metrics[_RTAX_MTU])[0]) if _RTAX_MTU in metrics else 0,
    )


def _version(family: int) -> int:
    return next((version for version, number in FAMILIES.items() if number == family), 0)
