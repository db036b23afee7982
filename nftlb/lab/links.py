"""Interfaces, addresses and routes, made through netlink (pyroute2): some milliseconds for a whole namespace.

The functions here work on the namespace of the thread that runs them; `nftlb.lab.topology` takes them there.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from pyroute2 import IPRoute

from nftlb.errors import SystemFault
from nftlb.lab.offload import link_is_up, set_checksum_offload

READY_TIMEOUT = 5.0
"""Seconds that a link may take to become usable; it takes less than one millisecond."""

_RTMGRP_LINK = 1
_IFF_RUNNING = 1 << 6
_IFA_F_NODAD = 0x02
_ETHERNET_MTU = 1500


@dataclass(frozen=True)
class Interface:
    """One end of a link as it shall be. Addresses are written with their prefix length: `10.0.1.1/24`."""

    name: str
    addresses: tuple[str, ...] = ()
    mtu: int = _ETHERNET_MTU
    bridge: str = ""
    """The bridge that the interface is a port of."""


@dataclass(frozen=True)
class Route:
    """A route through a gateway, or to the link itself when `gateway` is empty."""

    destination: str
    interface: str
    gateway: str = ""


@dataclass(frozen=True)
class Veth:
    """A pair to make: `near` here, `far` in the namespace of the descriptor `far_namespace`."""

    near: str
    far: str
    far_namespace: int = field(repr=False)


def make_veths(pairs: list[Veth], bridge: str = "") -> None:
    """Make pairs of veth, and a bridge of that name if there is one. All are down."""
    with IPRoute() as netlink:
        if bridge:
            # Multicast snooping would hold back neighbour solicitations until it has learnt who listens.
            netlink.link("add", ifname=bridge, kind="bridge", br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0)
        for pair in pairs:
            netlink.link(
                "add", ifname=pair.near, kind="veth", peer={"ifname": pair.far, "net_ns_fd": pair.far_namespace}
            )


def configure(interfaces: list[Interface], routes: list[Route], *, checksum_offload: bool) -> None:
    """Bring up `lo` and the interfaces with their addresses, then add the routes."""
    with IPRoute() as netlink:
        index = {link.get_attr("IFLA_IFNAME"): link["index"] for link in netlink.get_links()}
        for interface in interfaces:
            options: dict[str, Any] = {"mtu": interface.mtu} if interface.name != "lo" else {}
            if interface.bridge:
                options["master"] = index[interface.bridge]
            netlink.link("set", index=index[interface.name], state="up", **options)
            for address in interface.addresses:
                _add_address(netlink, index[interface.name], ipaddress.ip_interface(address))
            if interface.name != "lo" and not _is_bridge(interface, interfaces):
                set_checksum_offload(interface.name, on=checksum_offload)
        for route in routes:
            via = {"gateway": route.gateway} if route.gateway else {}
            netlink.route("add", dst=route.destination, oif=index[route.interface], **via)


def await_running(names: list[str]) -> None:
    """Wait until every interface passes packets.

    An end that comes up first has carrier only when its peer follows, and sends only after the kernel's link watch,
    which runs by itself, has noticed. Until then it drops what it is given, without an error.
    """
    deadline = time.monotonic() + READY_TIMEOUT
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events,
        IPRoute() as netlink,
    ):
        events.bind((0, _RTMGRP_LINK))  # first listen, then look: no change falls in between
        while waiting := _not_running(netlink, names):
            if (left := deadline - time.monotonic()) <= 0:
                raise SystemFault(f"interfaces of the lab did not come up: {', '.join(waiting)}")
            events.settimeout(left)
            try:
                events.recv(65536)
            except TimeoutError:
                continue


def _not_running(netlink: IPRoute, names: list[str]) -> list[str]:
    for name in names:
        link_is_up(name)
    running = {link.get_attr("IFLA_IFNAME") for link in netlink.get_links() if link["flags"] & _IFF_RUNNING}
    return [name for name in names if name not in running]


def _add_address(netlink: IPRoute, index: int, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
    options = {"flags": _IFA_F_NODAD} if address.version == 6 else {}  # noqa: PLR2004 - the version's name is its number
    netlink.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **options)


def _is_bridge(interface: Interface, interfaces: list[Interface]) -> bool:
    return any(other.bridge == interface.name for other in interfaces)
