"""A stand-in for the tunnels of the kernel, which not every test machine has: this process makes the outer packets.

The interface of a tunnel is one end of a veth pair. What leaves by this end, arrives at the other end, where a packet
socket takes it, and a raw socket sends it in an outer packet to the other end of the tunnel. There `Openers` take the
inner packet out, and give it to the host. So the packets on the wire are those of the kernel's tunnels. The MTU of the
interface, its place in routes and in rules, and its group are those of the real one.
"""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from nftlb.kernel import rtnetlink
from nftlb.kernel.netlink import NLM_F_CREATE, attribute
from nftlb.kernel.tunnels import GROUP, Link, Tunnel, TunnelLinks
from nftlb.lab import links
from nftlb.lab.servers import SocketLoop
from nftlb.model import Encap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.kernel.netlink import Netlink
    from nftlb.lab import Host

_ETH_P_ALL = 0x0003
_OUTGOING = 4  # PACKET_OUTGOING
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT = 10, 0
_IFLA_GROUP, _IFF_NOARP = 27, 0x80
_NUMBER = struct.Struct("=I")
_LARGEST = 65535
_ETHERNET = 1500
_GRE = {4: b"\0\0\x08\x00", 6: b"\0\0\x86\xdd"}
_PROTOCOLS = {(Encap.IPIP, 4): 4, (Encap.IPIP, 6): 41, (Encap.GRE, 4): 47, (Encap.GRE, 6): 47}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True)
class StandInTunnels(TunnelLinks):
    """The tunnels of a host of the lab. Its packets are passed on while the loop runs. `made`: all tunnels ever made.

    `stack` closes the sockets.
    """

    host: Host
    loop: SocketLoop
    stack: ExitStack
    made: dict[str, Tunnel] = field(default_factory=dict)

    def present(self, netlink: Netlink) -> dict[str, Link]:
        found = super().present(netlink)
        for name, tunnel in self.made.items():
            if name in found and found[name].ours:
                same = replace(found[name], kind=tunnel.kind.name, local=tunnel.local, remote=tunnel.remote)
                found[name] = same
        return found

    def add(self, netlink: Netlink, tunnel: Tunnel) -> None:
        far = f"w{tunnel.name[6:]}"
        links.make_veths([links.Veth(tunnel.name, far, self.host.fileno())])
        self.host.sysctl(f"net/ipv6/conf/{far}/disable_ipv6", 1)
        links.set_checksum_offload(tunnel.name, on=False)
        for name, flags in ((far, 0), (tunnel.name, _IFF_NOARP)):
            up = rtnetlink.IFF_UP | flags
            body = rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(name), up, up)
            body += attribute(rtnetlink.IFLA_MTU, _NUMBER.pack(_ETHERNET - tunnel.kind.overhead))
            body += attribute(_IFLA_GROUP, _NUMBER.pack(GROUP if name == tunnel.name else 0))
            netlink.change(rtnetlink.RTM_NEWLINK, body, NLM_F_CREATE)
        links.await_running([far, tunnel.name])
        self.made[tunnel.name] = tunnel
        taken = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        taken.bind((far, _ETH_P_ALL))
        version = tunnel.remote.version
        outer = socket.socket(_FAMILIES[version], socket.SOCK_RAW, _PROTOCOLS[tunnel.encap, version])
        self.stack.callback(outer.close)
        if version == 4:
            outer.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        self.loop.add(taken, partial(_wrap, outer, tunnel))


def _wrap(outer: socket.socket, tunnel: Tunnel, taken: socket.socket) -> None:
    """Send all packets that wait in an outer packet each."""
    with suppress(BlockingIOError):
        while True:
            try:
                packet, (_, _, kind, *_) = taken.recvfrom(_LARGEST)
            except BlockingIOError:
                raise
            except OSError:  # the interface was deleted
                return
            multicast = packet[0] >> 4 == 6 and packet[24] == 0xFF  # what IPv6 sends by itself
            if kind != _OUTGOING and not multicast:
                head = _GRE[packet[0] >> 4] if tunnel.encap is Encap.GRE else b""
                with suppress(OSError):  # no route to the other end
                    outer.sendto(head + packet, (str(tunnel.remote), 0))


class Openers:
    """Open tunnels on hosts of the lab, inside `with`. `opened` has the addresses that outer packets came from."""

    def __init__(self, hosts: Sequence[Host], encap: Encap) -> None:
        self.opened: list[str] = []
        self._hosts, self._encap = hosts, encap
        self._loop = SocketLoop("openers")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for host in self._hosts:
            for version, family in _FAMILIES.items():
                protocol = _PROTOCOLS[self._encap, version]
                outer = host.call(socket.socket, family, socket.SOCK_RAW, protocol)
                inner = host.call(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW)
                self._stack.callback(inner.close)
                self._loop.add(outer, partial(self._open, inner, version))
        self._loop.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.__exit__(*exception)
        self._stack.close()

    def _open(self, inner: socket.socket, version: int, outer: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                packet, source = outer.recvfrom(_LARGEST)
                if version == 4:
                    packet = packet[(packet[0] & 0xF) * 4 :]
                if self._encap is Encap.GRE:
                    packet = packet[len(_GRE[version]) :]
                self.opened.append(source[0])
                place = slice(16, 20) if version == 4 else slice(24, 40)
                inner.sendto(packet, (socket.inet_ntop(_FAMILIES[version], packet[place]), 0))
