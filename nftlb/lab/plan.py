"""The names, addresses and routes of the lab's two shapes, as data. No I/O here.

Routed (for `nat` and `stateless`): all packets pass the balancer.

    client1 198.51.100.2/24, 2001:db8:1::2/64 --- .1 [balancer] .1 --- b1 10.0.1.2/24, fd00:1::2/64
    client2 198.51.101.2/24, 2001:db8:2::2/64 --- .1 [        ] .1 --- b2 10.0.2.2/24, fd00:2::2/64   ...

    The balancer has VIP4 and VIP6 on `lo`. Its interfaces are named after the hosts at the other end (`client1`, `b1`).
    Every other host has one interface, `eth0`, and its default route leads to the balancer (`.1`, `::1`).

Switched (for `dsr`): one Ethernet segment, 198.51.100.0/24 and 2001:db8:1::/64, in the namespace `switch`.

    balancer 198.51.100.1, 2001:db8:1::1; has the VIPs on eth0 and is the only host that answers ARP and ND for them
    client1  198.51.100.2, 2001:db8:1::2 (client2 has .3, ::3); sends to the VIPs on the segment
    b1       198.51.100.11, 2001:db8:1::b1 (b2 has .12, ::b2); has the VIPs on `lo`, without ARP and ND
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .links import InterfacePlan, RoutePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

VIP4 = "192.0.2.53"
VIP6 = "2001:db8::53"
MTU = 1500
MOST_BACKENDS = 200
MOST_CLIENTS = 8


@dataclass(frozen=True)
class HostPlan:
    """The wanted state of one host. `ipv4` and `ipv6`: its own addresses, which other hosts can reach."""

    name: str
    ipv4: str
    ipv6: str
    interfaces: tuple[InterfacePlan, ...]
    routes: tuple[RoutePlan, ...] = ()
    forwards: bool = False
    silent_vips: bool = False
    """The host has addresses on `lo` for which it must not answer ARP."""


@dataclass(frozen=True)
class Plan:
    """All hosts. `centre`: the name of the host that is linked with each of the others."""

    hosts: tuple[HostPlan, ...]
    centre: str
    bridge: str = ""

    def host(self, name: str) -> HostPlan:
        """Return the host of that name."""
        return next(host for host in self.hosts if host.name == name)


def routed(backends: int, clients: int, mtu: Mapping[str, int]) -> Plan:
    """Return the routed shape. `mtu`: smaller MTUs of links, by the name of the host."""
    edges = [
        *(_edge(f"client{n}", f"198.51.{99 + n}", f"2001:db8:{n:x}:", mtu) for n in range(1, clients + 1)),
        *(_edge(f"b{n}", f"10.0.{n}", f"fd00:{n:x}:", mtu) for n in range(1, backends + 1)),
    ]
    lo = InterfacePlan("lo", (f"{VIP4}/32", f"{VIP6}/128"))
    near = tuple(
        InterfacePlan(
            edge.name, (f"{_gateway(edge.ipv4, '.')}/24", f"{_gateway(edge.ipv6, ':')}/64"), mtu.get(edge.name, MTU)
        )
        for edge in edges
    )
    balancer = HostPlan("balancer", VIP4, VIP6, (lo, *near), forwards=True)
    return Plan((balancer, *edges), "balancer")


def switched(backends: int, clients: int, mtu: Mapping[str, int]) -> Plan:
    """Return the switched shape. `mtu`: smaller MTUs of links, by the name of the host."""
    gateway4, gateway6 = "198.51.100.1", "2001:db8:1::1"
    vips = (f"{VIP4}/32", f"{VIP6}/128")
    default = (RoutePlan("0.0.0.0/0", "eth0", gateway4), RoutePlan("::/0", "eth0", gateway6))
    to_vips = tuple(RoutePlan(vip, "eth0") for vip in vips)

    def on_segment(name: str, v4: str, v6: str, *more: str) -> tuple[InterfacePlan, ...]:
        return (InterfacePlan("lo"), InterfacePlan("eth0", (f"{v4}/24", f"{v6}/64", *more), mtu.get(name, MTU)))

    hosts = [HostPlan("balancer", gateway4, gateway6, on_segment("balancer", gateway4, gateway6, *vips), forwards=True)]
    for n in range(1, clients + 1):
        name, v4, v6 = f"client{n}", f"198.51.100.{1 + n}", f"2001:db8:1::{1 + n}"
        hosts.append(HostPlan(name, v4, v6, on_segment(name, v4, v6), (*to_vips, *default)))
    for n in range(1, backends + 1):
        name, v4, v6 = f"b{n}", f"198.51.100.{10 + n}", f"2001:db8:1::b{n}"
        _, eth0 = on_segment(name, v4, v6)
        hosts.append(HostPlan(name, v4, v6, (InterfacePlan("lo", vips), eth0), default, silent_vips=True))
    ports = tuple(InterfacePlan(host.name, mtu=mtu.get(host.name, MTU), bridge="br0") for host in hosts)
    switch = HostPlan("switch", "", "", (InterfacePlan("lo"), InterfacePlan("br0"), *ports))
    return Plan((switch, *hosts), "switch", "br0")


def _edge(name: str, net4: str, net6: str, mtu: Mapping[str, int]) -> HostPlan:
    """Return a host with its own subnet and a default route through the balancer."""
    v4, v6 = f"{net4}.2", f"{net6}:2"
    eth0 = InterfacePlan("eth0", (f"{v4}/24", f"{v6}/64"), mtu.get(name, MTU))
    routes = (RoutePlan("0.0.0.0/0", "eth0", f"{net4}.1"), RoutePlan("::/0", "eth0", f"{net6}:1"))
    return HostPlan(name, v4, v6, (InterfacePlan("lo"), eth0), routes)


def _gateway(address: str, separator: str) -> str:
    return address.rpartition(separator)[0] + separator + "1"
