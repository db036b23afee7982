"""Why the replies of `stateless` pools can't be rewritten in prerouting on this host.

A rewritten reply arrives from a backend with an address of this host as its source. Linux routes it (tried on 6.18) if

- the interface has `accept_local`, or the host does not have the address, and
- `rp_filter`, the higher of the values for `all` and for the interface, is 0; or it is 2, the interface has an IPv4
  address, and the host has a route to the source.

IPv6 has no such check. The interface's own `accept_local` has to be set, even if a VRRP backup does not have the
service's address at present. Settings are read by netlink, because the daemon's systemd unit hides /proc/sys; netlink
does not show `net.ipv4.conf.all.accept_local`, so that setting does not count here.

A backend on this host itself sends its replies through the output hook, so they never reach prerouting.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.compiler.reply_form import Obstacle, wishes
from nftlb.compiler.selection import targets
from nftlb.errors import KernelError
from nftlb.model import Family

from . import rtnetlink
from .netlink import NETLINK_ROUTE, Netlink, attributes
from .surroundings import read_interfaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nftlb.compiler.reply_form import Obstacles
    from nftlb.model import Config, Pool

    from .rtnetlink import IPAddress, Route

_STRICT, _LOOSE = 1, 2
# include/uapi/linux/if_link.h, netconf.h, ip.h
_RTM_GETLINK, _RTM_GETNETCONF = 18, 82
_IFINFOMSG = struct.Struct("=BBHiII")
_NETCONFMSG = struct.Struct("=Bxxx")
_IFLA_AF_SPEC, _IFLA_INET_CONF = 26, 1
_NETCONFA_IFINDEX, _NETCONFA_RP_FILTER = 1, 3
_ALL_INTERFACES = -1
_INDEX = struct.Struct("=i")
_NUMBER = struct.Struct("=I")
_RP_FILTER, _ACCEPT_LOCAL = 8, 23  # IPV4_DEVCONF_..., counted from 1


@dataclass(frozen=True, slots=True)
class ReplyInterface:
    """An interface at which replies arrive. `rp_filter` is the effective value; `numbered`: it has an IPv4 address."""

    name: str
    accept_local: bool = False
    rp_filter: int = 0
    numbered: bool = True


@dataclass(frozen=True)
class ReplyPaths:
    """The interfaces by index, and the routes to backends and services; None for an address without a route."""

    interfaces: Mapping[int, ReplyInterface] = field(default_factory=dict)
    routes: Mapping[IPAddress, Route | None] = field(default_factory=dict)


def find_obstacles(config: Config) -> Obstacles:
    """Find the obstacles in the network namespace of this thread. Raises KernelError if netlink refuses.

    Reads nothing if no pool wants its replies rewritten in prerouting.
    """
    addresses = list(dict.fromkeys(address for wish in wishes(config) for address in _concerned(*wish)))
    if not addresses:
        return {}
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            routes = {address: rtnetlink.route_to(netlink, address) for address in addresses}
            return obstacles(config, ReplyPaths(_interfaces(netlink), routes))
    except OSError as error:
        raise KernelError(f"the settings of interfaces can't be read: {error.strerror}") from error


def obstacles(config: Config, paths: ReplyPaths) -> Obstacles:
    """Find the obstacles by the state of the host. Pure."""
    found = {}
    for pool, family in wishes(config):
        messages: dict[str, None] = {}
        sysctls: dict[str, int] = {}
        for message, settings in _found(pool, family, paths):
            messages[message] = None
            sysctls |= settings
        if messages:
            values = " ".join(f"{name}={value}" for name, value in sysctls.items())
            found[pool.name, family] = Obstacle(", ".join(messages), f"sysctl -w {values}" if values else "")
    return found


def _found(pool: Pool, family: Family, paths: ReplyPaths) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield each obstacle, with the sysctls that would remove it."""
    services = [listener.address for listener in pool.listen if listener.family is family]
    for target in targets(pool, family):
        route = paths.routes.get(target.address)
        if route is not None and route.kind == rtnetlink.LOCAL:
            yield f"{target.name} is on this host", {}
        elif family is Family.IP6:
            continue
        elif route is None or (interface := paths.interfaces.get(route.index)) is None:
            yield f"there is no route to {target.name}", {}
        elif route.several:
            yield f"there are several routes to {target.name}", {}
        else:
            yield from _of_interface(interface, known=all(paths.routes.get(service) for service in services))


def _of_interface(interface: ReplyInterface, *, known: bool) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield the obstacles of an interface. `known`: the host has a route to each address of the service."""
    settings = f"net/ipv4/conf/{interface.name}"
    if not interface.accept_local:
        yield f"accept_local of {interface.name} is 0", {f"{settings}/accept_local": 1}
    loose = interface.numbered and known
    if interface.rp_filter == _STRICT and loose:
        yield f"rp_filter of {interface.name} is {_STRICT}", {f"{settings}/rp_filter": _LOOSE}
    elif interface.rp_filter and not loose:
        reason = "it has no IPv4 address" if not interface.numbered else "there is no route to the service"
        yield (
            f"rp_filter of {interface.name} is {interface.rp_filter} and {reason}",
            {"net/ipv4/conf/all/rp_filter": 0, f"{settings}/rp_filter": 0},
        )


def _concerned(pool: Pool, family: Family) -> Iterable[IPAddress]:
    yield from (target.address for target in targets(pool, family))
    yield from (listener.address for listener in pool.listen if listener.family is family)


def _interfaces(netlink: Netlink) -> dict[int, ReplyInterface]:
    everywhere = _rp_filter_of_all(netlink)
    numbered = {
        interface.index
        for interface in read_interfaces(netlink)
        if any(ip.version == 4 for ip in interface.addresses)  # noqa: PLR2004
    }
    found = {}
    for body in netlink.dump_all(_RTM_GETLINK, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0)):
        _, _, _, index, _, _ = _IFINFOMSG.unpack_from(body)
        of_families = attributes(attributes(body, _IFINFOMSG.size).get(_IFLA_AF_SPEC, b""), 0)
        values = attributes(of_families.get(socket.AF_INET, b""), 0).get(_IFLA_INET_CONF, b"")
        found[index] = ReplyInterface(
            rtnetlink.interface_name(index),
            bool(_setting(values, _ACCEPT_LOCAL, default=0)),
            max(everywhere, _setting(values, _RP_FILTER, default=_STRICT)),
            index in numbered,
        )
    return found


def _setting(values: bytes, number: int, *, default: int) -> int:
    at = _NUMBER.size * (number - 1)
    return int(_NUMBER.unpack_from(values, at)[0]) if len(values) >= at + _NUMBER.size else default


def _rp_filter_of_all(netlink: Netlink) -> int:
    for body in netlink.dump_all(_RTM_GETNETCONF, _NETCONFMSG.pack(socket.AF_INET)):
        found = {kind: _INDEX.unpack(value)[0] for kind, value in attributes(body, _NETCONFMSG.size).items()}
        if found.get(_NETCONFA_IFINDEX) == _ALL_INTERFACES:
            return int(found.get(_NETCONFA_RP_FILTER, _STRICT))
    return _STRICT
