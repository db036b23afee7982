"""Interfaces, addresses, routes and offloads of the lab, made through netlink: about a millisecond for each host.

The functions work on the network namespace of the thread that calls them. `nftlb.lab.topology` calls them in threads
that are inside the right namespace.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from dataclasses import dataclass, field

from nftlb.errors import SystemFault
from nftlb.kernel import rtnetlink
from nftlb.kernel.ethtool import ask_ethtool
from nftlb.kernel.netlink import NETLINK_ROUTE, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, attributes

READY_TIMEOUT = 5.0
"""Seconds that a link may take to become usable. It takes less than one millisecond."""

# include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, veth.h
_RTMGRP_LINK, _RTMGRP_IPV6_ROUTE = 0x1, 0x400
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR, _RTM_NEWROUTE = 16, 18, 20, 22, 24
_IFINFOMSG = struct.Struct("=BBHiII")  # family, -, type, index, flags, mask of changed flags
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NUMBER = struct.Struct("=I")
_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 10, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_BR_FORWARD_DELAY, _IFLA_BR_STP_STATE, _IFLA_BR_MCAST_SNOOPING = 1, 5, 23
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFF_UP, _IFF_RUNNING = 1 << 0, 1 << 6
_IFA_F_NODAD = 0x02
_MAIN_TABLE, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST = 254, 4, 0, 253, 1

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_NEW = NLM_F_CREATE | NLM_F_EXCL
_ETHERNET_MTU = 1500


@dataclass(frozen=True)
class InterfacePlan:
    """The wanted state of one interface. Addresses are written with their prefix length: `10.0.1.1/24`."""

    name: str
    addresses: tuple[str, ...] = ()
    mtu: int = _ETHERNET_MTU
    bridge: str = ""
    """The name of the bridge that the interface is a port of."""


@dataclass(frozen=True)
class RoutePlan:
    """A route through a gateway, or to the link itself when `gateway` is empty."""

    destination: str
    interface: str
    gateway: str = ""


@dataclass(frozen=True)
class Veth:
    """A veth pair to make: the interface `near` in this namespace, `far` in the namespace that a descriptor holds."""

    near: str
    far: str
    far_namespace: int = field(repr=False)


def make_veths(pairs: list[Veth], bridge: str = "") -> None:
    """Make veth pairs and, if `bridge` is given, a bridge of that name. All of these interfaces are down."""
    with Netlink(NETLINK_ROUTE) as netlink:
        if bridge:
            # Multicast snooping would hold back neighbour solicitations until the bridge has learnt who listens.
            options = (
                attribute(_IFLA_BR_FORWARD_DELAY, _NUMBER.pack(0))
                + attribute(_IFLA_BR_STP_STATE, _NUMBER.pack(0))
                + attribute(_IFLA_BR_MCAST_SNOOPING, b"\0")
            )
            _make_link(netlink, bridge, "bridge", options)
        for pair in pairs:
            peer = _link_message(0) + _name(pair.far) + attribute(_IFLA_NET_NS_FD, _NUMBER.pack(pair.far_namespace))
            _make_link(netlink, pair.near, "veth", attribute(_VETH_INFO_PEER | NLA_F_NESTED, peer))


def configure_interfaces(interfaces: list[InterfacePlan], routes: list[RoutePlan], *, checksum_offload: bool) -> None:
    """Bring up `lo` and the interfaces, add their addresses, then add the routes."""
    with Netlink(NETLINK_ROUTE) as netlink:
        index = {name: number for number, name in socket.if_nameindex()}
        for interface in interfaces:
            body = _link_message(index[interface.name], _IFF_UP)
            if interface.name != "lo":
                body += attribute(_IFLA_MTU, _NUMBER.pack(interface.mtu))
            if interface.bridge:
                body += attribute(_IFLA_MASTER, _NUMBER.pack(index[interface.bridge]))
            netlink.change(_RTM_NEWLINK, body)
            for address in interface.addresses:
                _add_address(netlink, index[interface.name], ipaddress.ip_interface(address))
            if interface.name != "lo" and not _is_bridge(interface, interfaces):
                set_checksum_offload(interface.name, on=checksum_offload)
        for route in routes:
            _add_route(netlink, index[route.interface], route)


def await_running(names: list[str]) -> None:
    """Wait until every interface passes packets to its addresses. Raise SystemFault after READY_TIMEOUT seconds.

    The end of a pair that comes up first has no carrier until its peer is up. It sends packets only after the kernel's
    link watch, a background task, has noticed the carrier. Until then the interface drops packets without an error.

    The kernel adds an IPv6 address in the background, too, also without duplicate address detection: first it joins the
    multicast group in which neighbours look for the address, then it adds the local route.
    """
    deadline = time.monotonic() + READY_TIMEOUT
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events,
        Netlink(NETLINK_ROUTE) as netlink,
    ):
        # Subscribe before the first look, so that no change falls in between.
        events.bind((0, _RTMGRP_LINK | _RTMGRP_IPV6_ROUTE))
        while waiting := _not_ready(netlink, names):
            if (left := deadline - time.monotonic()) <= 0:
                raise SystemFault(f"interfaces of the lab did not come up: {', '.join(waiting)}")
            events.settimeout(left)
            try:
                events.recv(65536)
            except TimeoutError:
                continue


def _not_ready(netlink: Netlink, names: list[str]) -> list[str]:
    for name in names:
        link_is_up(name)
    ready: dict[int, str] = {}
    for body in netlink.dump_all(_RTM_GETLINK, _link_message(0)):
        _, _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
        if flags & _IFF_RUNNING:
            ready[index] = attributes(body, _IFINFOMSG.size)[_IFLA_IFNAME].rstrip(b"\0").decode()
    for body in netlink.dump_all(_RTM_GETADDR, _IFADDRMSG.pack(socket.AF_INET6, 0, 0, 0, 0)):
        index = _IFADDRMSG.unpack_from(body)[4]
        address = ipaddress.ip_address(attributes(body, _IFADDRMSG.size)[_IFA_ADDRESS])
        if ready.get(index) in names:
            route = rtnetlink.route_to(netlink, address, index)
            if route is None or route.kind != rtnetlink.LOCAL:
                del ready[index]
    return sorted(set(names) - set(ready.values()))


def _make_link(netlink: Netlink, name: str, kind: str, options: bytes) -> None:
    info = attribute(_IFLA_INFO_KIND, kind.encode()) + attribute(_IFLA_INFO_DATA | NLA_F_NESTED, options)
    body = _link_message(0) + _name(name) + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)
    netlink.change(_RTM_NEWLINK, body, _NEW)


def _add_address(netlink: Netlink, index: int, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
    flags = _IFA_F_NODAD if address.version == 6 else 0  # noqa: PLR2004 - the version's name is its number
    body = _IFADDRMSG.pack(_FAMILIES[address.version], address.network.prefixlen, flags, _SCOPE_UNIVERSE, index)
    packed = address.ip.packed
    netlink.change(_RTM_NEWADDR, body + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed), _NEW)


def _add_route(netlink: Netlink, index: int, route: RoutePlan) -> None:
    network = ipaddress.ip_network(route.destination)
    scope = _SCOPE_UNIVERSE if route.gateway else _SCOPE_LINK
    body = _RTMSG.pack(
        _FAMILIES[network.version], network.prefixlen, 0, 0, _MAIN_TABLE, _PROTOCOL_STATIC, scope, _UNICAST, 0
    )
    body += attribute(_RTA_DST, network.network_address.packed) + attribute(_RTA_OIF, _NUMBER.pack(index))
    if route.gateway:
        body += attribute(_RTA_GATEWAY, ipaddress.ip_address(route.gateway).packed)
    netlink.change(_RTM_NEWROUTE, body, _NEW)


def _link_message(index: int, flags: int = 0) -> bytes:
    """Return an ifinfomsg that sets `flags` and leaves all other flags of the interface as they are."""
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, index, flags, flags)


def _name(text: str) -> bytes:
    return attribute(_IFLA_IFNAME, text.encode() + b"\0")


def _is_bridge(interface: InterfacePlan, interfaces: list[InterfacePlan]) -> bool:
    return any(candidate.bridge == interface.name for candidate in interfaces)


# --- checksum and segmentation offload, through the ethtool ioctl -----------------------------------------------------
#
# The lab sets offloads, because with offload a datagram passes a veth pair with an unfinished checksum
# (CHECKSUM_PARTIAL). The kernel's packet rewriting then takes other paths than with the finished checksums of a real
# wire. Rules may work in one case and fail in the other, so tests of rewriting run with both.

# include/uapi/linux/ethtool.h
_GET_LINK = 0x0A
_SET_RX_CHECKSUM, _SET_TX_CHECKSUM = 0x15, 0x17
_SET_TCP_SEGMENTATION, _SET_GENERIC_SEGMENTATION, _SET_GENERIC_RECEIVE = 0x1F, 0x24, 0x2C


def set_checksum_offload(interface: str, *, on: bool) -> None:
    """Turn checksum offload of an interface on or off, in both directions; segmentation and GRO are turned off.

    Segmentation and GRO would give the balancer large merged TCP packets, and change nothing for UDP. Without them the
    number of counted packets equals the number of sent packets.
    """
    # The order matters: segmentation depends on tx checksums, so it goes first.
    for command in (_SET_TCP_SEGMENTATION, _SET_GENERIC_SEGMENTATION, _SET_GENERIC_RECEIVE):
        run_ethtool(interface, command)
    for command in (_SET_TX_CHECKSUM, _SET_RX_CHECKSUM):
        run_ethtool(interface, command, int(on))


def link_is_up(interface: str) -> bool:
    """Return whether the interface has carrier. Since Linux 6.8 this call also completes a pending carrier change."""
    return bool(run_ethtool(interface, _GET_LINK))


def run_ethtool(interface: str, command: int, value: int = 0) -> int:
    """Run one ethtool command with one number (struct ethtool_value), and return the number afterwards."""
    _, result = struct.unpack("=II", ask_ethtool(interface, struct.pack("=II", command, value)))
    return int(result)
