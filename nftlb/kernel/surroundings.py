"""What of the host around them the rules depend on: interfaces, addresses, routes, forwarding; and when it changes.

Read by netlink alone: the daemon's unit hides /proc/sys from it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nftlb.errors import KernelError

from . import rtnetlink
from .interfaces import Interface, read_interfaces
from .listener import Ear, Listener
from .netlink import NETLINK_ROUTE, Netlink, attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .rtnetlink import IPAddress, Route

# include/uapi/linux/rtnetlink.h, netconf.h: links, then of IPv4 and IPv6 addresses, routes, rules and settings
_GROUPS = (1, 5, 9, 7, 11, 8, 19, 24, 25)
_RTM_GETNETCONF = 82
_NETCONFMSG = struct.Struct("=Bxxx")
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING, _NETCONFA_FORCE_FORWARDING = 1, 2, 9
_ALL_INTERFACES = -1
_INDEX = struct.Struct("=i")
# A router may lose a million routes at a time. More than one announcement says no more than the first: what is to be
# known is read, and not put together from announcements.
_BUFFER = 64 << 10


class Lookup(NamedTuple):
    """A question to the routing table: how packets to an address go, by an interface and with a mark if given."""

    address: IPAddress
    device: str = ""
    mark: int = 0


@dataclass(frozen=True)
class Surroundings:
    """The host as it was found. `forwards`: whether packets are passed on, by IP version."""

    interfaces: tuple[Interface, ...] = ()
    routes: Mapping[Lookup, Route | None] = field(default_factory=dict)
    forwards: Mapping[int, bool] = field(default_factory=dict)

    def interface(self, name: str) -> Interface | None:
        return next((one for one in self.interfaces if one.name == name), None)

    def has(self, address: IPAddress) -> bool:
        """Whether packets can leave with it: an interface, of a VRF too, has it, or a route says that it is local."""
        route = self.routes.get(Lookup(address))
        local = route is not None and route.kind == rtnetlink.LOCAL
        return local or any(one.up and address in one.addresses for one in self.interfaces)


class Changes(Ear):
    """Becomes readable when something changed, in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """KernelError if the kernel won't tell."""
        try:
            super().__init__(Listener(NETLINK_ROUTE, *_GROUPS, buffer=_BUFFER))
        except OSError as error:
            raise KernelError(f"addresses and routes can't be watched: {error.strerror}") from error

    def read(self) -> None:
        """Forget what was announced; waits for nothing."""
        self._listener.drain()


def look_around(lookups: Iterable[Lookup]) -> Surroundings:
    """Read it all, in the network namespace of this thread. Raises KernelError if the kernel won't tell."""
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            interfaces = read_interfaces(netlink)
            indices = {one.name: one.index for one in interfaces}
            routes: dict[Lookup, Route | None] = {}
            for one in dict.fromkeys(lookups):
                index = indices.get(one.device, 0)
                missing = one.device and not index
                routes[one] = None if missing else rtnetlink.route_to(netlink, one.address, index, one.mark)
            forwards = {version: _forwards(netlink, version) for version in rtnetlink.FAMILIES}
            return Surroundings(interfaces, routes, forwards)
    except OSError as error:
        raise KernelError(f"addresses and routes can't be read: {error.strerror}") from error


def _forwards(netlink: Netlink, version: int) -> bool:
    """Whether packets of that version are passed on: in general or, for IPv6 (Linux 6.17), from some interface."""
    try:
        settings = netlink.dump_all(_RTM_GETNETCONF, _NETCONFMSG.pack(rtnetlink.FAMILIES[version]))
    except OSError:  # a kernel that does not tell (before Linux 3.8) must not count as one that does not forward
        return True
    everywhere = forced = False
    for body in settings:
        found = {kind: _INDEX.unpack(value)[0] for kind, value in attributes(body, _NETCONFMSG.size).items()}
        everywhere = everywhere or (found.get(_NETCONFA_IFINDEX) == _ALL_INTERFACES and found[_NETCONFA_FORWARDING] > 0)
        forced = forced or found.get(_NETCONFA_FORCE_FORWARDING, 0) > 0
    return everywhere or forced
