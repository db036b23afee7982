"""The host's interfaces, addresses, routes and forwarding, on which the rules depend, and a monitor of their changes.

All is read by netlink, because the daemon's systemd unit hides /proc/sys.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from nftlb.errors import KernelError

from . import rtnetlink
from .monitors import KernelMonitor
from .netlink import NETLINK_ROUTE, Netlink, attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Config, Encap, HostAddresses

    from .rtnetlink import IPAddress, Route
    from .tunnels import Link

# include/uapi/linux/rtnetlink.h, netconf.h: links; then addresses, routes, rules and settings of IPv4 and IPv6
_GROUPS = (1, 5, 9, 7, 11, 8, 19, 24, 25)
_NUMBER = struct.Struct("=I")
_IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_LINK_NETNSID = 5, 10, 18, 37
_IFLA_INFO_KIND, _IFLA_INFO_SLAVE_KIND = 1, 4
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_RTM_GETNETCONF = 82
_NETCONFMSG = struct.Struct("=Bxxx")
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING, _NETCONFA_RP_FILTER, _NETCONFA_FORCE_FORWARDING = 1, 2, 3, 9
_INDEX = struct.Struct("=i")
# Bytes of waiting announcements. A router may lose a million routes at a time, but one announcement is enough: the
# state is then read again, and not put together from announcements.
_BUFFER = 64 << 10


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface. `unusable`: its addresses that the kernel does not use (yet), because of DAD.

    `vlan_of` is the index of the interface that carries the frames of this VLAN; 0 for an interface without a VLAN, or
    if that interface is in another network namespace. `macvlan_of` is the same for a macvlan. `vrf` is the index of the
    VRF that the interface belongs to; 0 for none.
    """

    index: int
    name: str
    mtu: int = 1500
    up: bool = True
    unusable: frozenset[IPv4Address | IPv6Address] = frozenset()
    addresses: frozenset[IPv4Address | IPv6Address] = frozenset()
    vlan_of: int = 0
    macvlan_of: int = 0
    vrf: int = 0
    bridge: bool = False


class Lookup(NamedTuple):
    """A query to the routing tables for the route to an address, through `device` and with `mark` if given."""

    address: IPAddress
    device: str = ""
    mark: int = 0


@dataclass(frozen=True)
class Surroundings:
    """The state of the host. `forwards`: whether it forwards packets, by IP version.

    `missing_options`: the options of flows that pools need and the kernel lacks. `missing_tunnels`: the same for types
    of tunnels, as keys of `tunnels.KINDS`. `tunnels`: the interfaces with names of tunnels; None if they were not
    read.
    """

    interfaces: tuple[Interface, ...] = ()
    routes: Mapping[Lookup, Route | None] = field(default_factory=dict)
    forwards: Mapping[int, bool] = field(default_factory=dict)
    missing_options: frozenset[str] = frozenset()
    missing_tunnels: frozenset[tuple[Encap, int]] = frozenset()
    tunnels: Mapping[str, Link] | None = None

    @cached_property
    def usable(self) -> frozenset[IPAddress]:
        """All addresses that `usable_addresses()` has."""
        return frozenset(chain.from_iterable(usable_addresses(self.interfaces).values()))

    def interface(self, name: str) -> Interface | None:
        return next((interface for interface in self.interfaces if interface.name == name), None)

    def has(self, address: IPAddress) -> bool:
        """Whether packets can leave from this address: an interface (also of a VRF) has it, or a route is local."""
        route = self.routes.get(Lookup(address))
        local = route is not None and route.kind == rtnetlink.LOCAL
        return local or any(interface.up and address in interface.addresses for interface in self.interfaces)


class SurroundingsMonitor(KernelMonitor):
    """Receives the changes of Surroundings in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """Raises KernelError if the kernel refuses the subscription."""
        super().__init__("addresses and routes", NETLINK_ROUTE, *_GROUPS, buffer=_BUFFER)

    def read(self) -> None:
        """Discard the announcements: the state has to be read again. Never waits."""
        self._announcements.discard()


def read_surroundings(lookups: Iterable[Lookup]) -> Surroundings:
    """Read the state of the network namespace of this thread. Raises KernelError if the kernel refuses."""
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            interfaces = read_interfaces(netlink)
            indices = {interface.name: interface.index for interface in interfaces}
            routes: dict[Lookup, Route | None] = {}
            for lookup in dict.fromkeys(lookups):
                index = indices.get(lookup.device, 0)
                missing = lookup.device and not index
                routes[lookup] = None if missing else rtnetlink.route_to(netlink, lookup.address, index, lookup.mark)
            # An unknown state must not count as "does not forward".
            forwarding = {
                version: forwards(read_forwarding(netlink, version)) is not False for version in rtnetlink.FAMILIES
            }
            return Surroundings(interfaces, routes, forwarding)
    except OSError as error:
        raise KernelError(f"addresses and routes can't be read: {error.strerror}") from error


def addresses_for(config: Config) -> HostAddresses:
    """The addresses of this host, if a listener of the configuration stands for them.

    Raises KernelError if they can't be read: rules without them would take the traffic of earlier rules down.
    """
    return read_host_addresses() if config.listens_on_host else {}


def read_host_addresses() -> HostAddresses:
    """Read `usable_addresses()` in the network namespace of this thread. Raises KernelError if the kernel refuses."""
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            return usable_addresses(read_interfaces(netlink))
    except OSError as error:
        raise KernelError(f"the addresses of this host can't be read: {error.strerror}") from error


def usable_addresses(interfaces: Iterable[Interface]) -> HostAddresses:
    """The addresses by interface that packets can be sent to: not those of interfaces that are down."""
    return {
        interface.name: tuple(
            sorted(interface.addresses - interface.unusable, key=lambda address: (address.version, int(address)))
        )
        for interface in interfaces
        if interface.up
    }


def read_interfaces(netlink: Netlink) -> tuple[Interface, ...]:
    """Return all interfaces of the network namespace, in the order of their index."""
    unusable: dict[int, set[IPv4Address | IPv6Address]] = {}
    addresses: dict[int, set[IPv4Address | IPv6Address]] = {}
    for body in netlink.dump_all(rtnetlink.RTM_GETADDR, rtnetlink.IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, _, flags, _, index = rtnetlink.IFADDRMSG.unpack_from(body)
        found = attributes(body, rtnetlink.IFADDRMSG.size)
        if rtnetlink.IFA_FLAGS in found:
            flags = _NUMBER.unpack(found[rtnetlink.IFA_FLAGS])[0]
        address = ip_address(found.get(rtnetlink.IFA_LOCAL) or found[rtnetlink.IFA_ADDRESS])
        addresses.setdefault(index, set()).add(address)
        if flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE):
            unusable.setdefault(index, set()).add(address)
    interfaces = []
    for body in netlink.dump_all(rtnetlink.RTM_GETLINK, rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, _, index, flags, _ = rtnetlink.IFINFOMSG.unpack_from(body)
        found = attributes(body, rtnetlink.IFINFOMSG.size)
        kinds = attributes(found.get(_IFLA_LINKINFO, b""), 0)
        kind = kinds.get(_IFLA_INFO_KIND, b"").rstrip(b"\0")
        in_vrf = kinds.get(_IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0") == b"vrf"
        interfaces.append(
            Interface(
                index,
                found[rtnetlink.IFLA_IFNAME].rstrip(b"\0").decode(),
                _NUMBER.unpack(found[rtnetlink.IFLA_MTU])[0],
                bool(flags & rtnetlink.IFF_UP),
                frozenset(unusable.get(index, ())),
                frozenset(addresses.get(index, ())),
                _below(found) if kind == b"vlan" else 0,
                _below(found) if kind == b"macvlan" else 0,
                _NUMBER.unpack(found[_IFLA_MASTER])[0] if in_vrf else 0,
                kind == b"bridge",
            )
        )
    return tuple(sorted(interfaces, key=lambda interface: interface.index))


def _below(link: Mapping[int, bytes]) -> int:
    """Return the index of the interface below an interface; 0 if there is none.

    Also 0 if the interface below is in another network namespace: its index there may be that of any interface here.
    """
    if _IFLA_LINK not in link or _IFLA_LINK_NETNSID in link:
        return 0
    (index,) = _NUMBER.unpack(link[_IFLA_LINK])
    return int(index)


@dataclass(frozen=True, slots=True)
class ForwardingSettings:
    """The settings of an interface, or of all interfaces; 0 for those that an IP version does not have."""

    forwarding: int = 0
    rp_filter: int = 0
    force_forwarding: int = 0


ALL_INTERFACES = -1
"""The index of the settings of all interfaces."""


def read_forwarding(netlink: Netlink, version: int) -> dict[int, ForwardingSettings]:
    """Return the settings of an IP version by the index of the interface; nothing if the kernel does not tell them."""
    try:
        answers = netlink.dump_all(_RTM_GETNETCONF, _NETCONFMSG.pack(rtnetlink.FAMILIES[version]))
    except OSError:  # before Linux 3.8
        return {}
    settings = {}
    for body in answers:
        found = {kind: _INDEX.unpack(value)[0] for kind, value in attributes(body, _NETCONFMSG.size).items()}
        wanted = (_NETCONFA_FORWARDING, _NETCONFA_RP_FILTER, _NETCONFA_FORCE_FORWARDING)
        settings[found[_NETCONFA_IFINDEX]] = ForwardingSettings(*(found.get(kind, 0) for kind in wanted))
    return settings


def forwards(settings: Mapping[int, ForwardingSettings]) -> bool | None:
    """Whether packets are forwarded: in general or, for IPv6 (Linux 6.17), from some interface; None if not known."""
    everywhere = settings.get(ALL_INTERFACES)
    if everywhere is None:
        return None
    return everywhere.forwarding > 0 or any(found.force_forwarding > 0 for found in settings.values())
