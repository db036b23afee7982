"""Tunnel interfaces for `encap` of `forward: dsr`: one for each address of a backend.

The interfaces have the names of `tunnel_hop()`, and are in a link group of our own, which the kernel sets together with
the name. So an interface is ours or not at every moment, also if this process dies. Other interfaces are never changed.
Before several interfaces are deleted, they move to a second group of our own, which the kernel deletes as a whole. If
this process dies before that, they are still ours, and no longer count as tunnels.

There is one interface for each address, and not one for all with the address in the route (`external`): the kernel then
would open tunnel packets from any sender, look up the route of the outer packet with the mark of the inner packet, and
have no fast path.

Over IPv4 the outer packet has the DF bit, the TTL and the TOS of the inner packet, as with LVS. So a datagram that must
not be fragmented gets an ICMP error, and no other datagram is lost because it is too large. Over IPv6 the sender always
gets the error.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from nftlb.compiler import Hop
from nftlb.compiler.routes import TUNNEL_PREFIX
from nftlb.errors import KernelError
from nftlb.model import Encap

from . import rtnetlink
from .netlink import NETLINK_ROUTE, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, Netlink, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from nftlb.model import IPAddress

GROUP = 0x6E66746C
"""The link group of our interfaces: "nftl" in ASCII."""
DOOMED_GROUP = 0x6E667478
"""The link group of those of our interfaces that are about to be deleted: "nftx" in ASCII."""

# include/uapi/linux/if_link.h, if_tunnel.h, ip6_tunnel.h
_IFLA_LINKINFO, _IFLA_GROUP = 18, 27
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IP6_TNL_F_IGN_ENCAP_LIMIT, _IP6_TNL_F_USE_ORIG_TCLASS = 0x1, 0x2
_IFLA_GRE_IFLAGS, _GRE_VERSION = 2, b"\x00\x07"
_INHERIT_TOS = 1
_NUMBER = struct.Struct("=I")


class TunnelKind(NamedTuple):
    """A type of interface: its name in the kernel, its module and option, and the bytes that it adds to a packet."""

    name: str
    module: str
    option: str
    overhead: int


KINDS = {
    (Encap.IPIP, 4): TunnelKind("ipip", "ipip", "CONFIG_NET_IPIP", 20),
    (Encap.IPIP, 6): TunnelKind("ip6tnl", "ip6_tunnel", "CONFIG_IPV6_TUNNEL", 40),
    (Encap.GRE, 4): TunnelKind("gre", "ip_gre", "CONFIG_NET_IPGRE", 24),
    (Encap.GRE, 6): TunnelKind("ip6gre", "ip6_gre", "CONFIG_IPV6_GRE", 44),
}
"""The types by the tunnel that a pool asks for, and the IP version of the backend."""


class _Numbers(NamedTuple):
    """The numbers of the attributes of a tunnel, which GRE has others for than IP in IP."""

    local: int
    remote: int
    ttl: int
    tos: int
    encap_limit: int
    flags: int
    pmtudisc: int
    proto: int = 0


_NUMBERS = {
    Encap.IPIP: _Numbers(local=2, remote=3, ttl=4, tos=5, encap_limit=6, flags=8, pmtudisc=10, proto=9),
    Encap.GRE: _Numbers(local=6, remote=7, ttl=8, tos=9, encap_limit=11, flags=13, pmtudisc=10),
}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel as it should be. `local`: the source of the outer packets; None lets the kernel choose (IPv4 only)."""

    name: str
    encap: Encap
    remote: IPAddress
    local: IPAddress | None = None

    @property
    def kind(self) -> TunnelKind:
        return KINDS[self.encap, self.remote.version]

    @property
    def hop(self) -> Hop:
        return Hop(self.remote, self.name, self.encap)

    @property
    def command(self) -> str:
        """The iproute2 command that makes the interface."""
        local = f" local {self.local}" if self.local else ""
        more = "ttl inherit tos inherit nopmtudisc"
        if isinstance(self.remote, IPv6Address):
            more = "hoplimit inherit tclass inherit encaplimit none"
            more = f"mode ip6ip6 {more}" if self.encap is Encap.IPIP else more
        return f"ip link add {self.name} up group {GROUP} type {self.kind.name} remote {self.remote}{local} {more}"


@dataclass(frozen=True, slots=True)
class Link:
    """An interface of this host whose name or group is that of a tunnel of ours.

    `ours`: the group is one of ours. `doomed`: the group is that of interfaces to delete. `kind`, `local` and `remote`
    are None or empty for an interface of another type.
    """

    index: int
    ours: bool
    up: bool
    kind: str = ""
    local: IPAddress | None = None
    remote: IPAddress | None = None
    doomed: bool = False

    def leads_to(self, hop: Hop) -> bool:
        """Whether this is the interface of a hop's tunnel, and is up, whatever its own address."""
        same = (self.kind, self.remote) == (KINDS[hop.encap, hop.via.version].name, hop.via)
        return self.ours and not self.doomed and self.up and same

    def is_like(self, tunnel: Tunnel) -> bool:
        """Whether this is the interface of the tunnel, and is up."""
        return self.leads_to(tunnel.hop) and self.local == tunnel.local

    def encap(self) -> Encap:
        return next((encap for (encap, _), kind in KINDS.items() if kind.name == self.kind), Encap.NONE)


class TunnelLinks:
    """The tunnel interfaces of this thread's network namespace. Stores nothing. The methods raise OSError."""

    def wanted(self, netlink: Netlink, hop: Hop) -> Tunnel | None:
        """Return the tunnel of a hop; None if this host has no source address for a tunnel over IPv6.

        Over IPv6 the kernel needs the source in advance.
        """
        if isinstance(hop.via, IPv4Address):
            return Tunnel(hop.device, hop.encap, hop.via)
        route = rtnetlink.route_to(netlink, hop.via)
        return Tunnel(hop.device, hop.encap, hop.via, route.source) if route and route.source else None

    def present(self, netlink: Netlink) -> dict[str, Link]:
        """Return the interfaces of this host by name."""
        return dict(map(_read_link, netlink.dump_all(rtnetlink.RTM_GETLINK, _ifinfo(0))))

    def add(self, netlink: Netlink, tunnel: Tunnel) -> None:
        """Make an interface that is up. OSError with EOPNOTSUPP if the kernel lacks the type."""
        netlink.change(rtnetlink.RTM_NEWLINK, link_body(tunnel), NLM_F_CREATE | NLM_F_EXCL)

    def delete(self, netlink: Netlink, indices: Collection[int]) -> dict[int, OSError]:
        """Delete interfaces of ours, and with them the routes that lead to them. Return the errors by index.

        For each request the kernel waits some tens of milliseconds, so several interfaces are deleted as a group. If
        the group has an interface that is not among these, they are deleted one after the other.
        """
        if len(indices) > 1 and self._gather(netlink, indices):
            with suppress(OSError):
                whole_group = _ifinfo(0) + attribute(_IFLA_GROUP, _NUMBER.pack(DOOMED_GROUP))
                netlink.change(rtnetlink.RTM_DELLINK, whole_group)
                return {}
        errors = netlink.change_all(rtnetlink.RTM_DELLINK, map(_ifinfo, indices))
        found = zip(indices, errors, strict=True)
        return {index: error for index, error in found if error and error.errno != errno.ENODEV}

    def _gather(self, netlink: Netlink, indices: Collection[int]) -> bool:
        """Move interfaces into the group of those to delete. Return whether the group consists of them."""
        group = attribute(_IFLA_GROUP, _NUMBER.pack(DOOMED_GROUP))
        for error in netlink.change_all(rtnetlink.RTM_NEWLINK, [_ifinfo(index) + group for index in indices]):
            if error and error.errno != errno.ENODEV:
                return False
        return {link.index for link in self.present(netlink).values() if link.doomed} <= set(indices)


def read_tunnels() -> dict[str, Link]:
    """Return the interfaces with names of tunnels, by name, in the network namespace of this thread.

    Raises KernelError if the kernel refuses.
    """
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            present = TunnelLinks().present(netlink)
    except OSError as error:
        raise KernelError(f"the tunnels of this host can't be read: {error.strerror}") from error
    return {name: link for name, link in present.items() if name.startswith(TUNNEL_PREFIX)}


def missing_kinds(wanted: Iterable[tuple[Encap, int]]) -> frozenset[tuple[Encap, int]]:
    """Return the types of tunnels that the kernel lacks, of these keys of `KINDS`. The kernel may load modules.

    Makes no interface: the kernel refuses a request with a wrong option as invalid if it has the type. Without the
    permission to make interfaces, nothing is known to be missing. Raises KernelError if there is no netlink.
    """
    missing = set()
    keys = set(wanted)
    if not keys:
        return frozenset()
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            for encap, version in keys:
                try:
                    netlink.change(rtnetlink.RTM_NEWLINK, _wrong_body(encap, version), NLM_F_CREATE | NLM_F_EXCL)
                except OSError as error:
                    if error.errno == errno.EOPNOTSUPP:
                        missing.add((encap, version))
    except OSError as error:
        raise KernelError(f"can't ask the kernel for types of interfaces: {error.strerror}") from error
    return frozenset(missing)


def _wrong_body(encap: Encap, version: int) -> bytes:
    """Return a request for a tunnel with an option that no kernel accepts: a version of GRE, or a carried protocol."""
    number = _NUMBERS[encap]
    wrong = attribute(_IFLA_GRE_IFLAGS, _GRE_VERSION) if encap is Encap.GRE else attribute(number.proto, b"\xff")
    kind = KINDS[encap, version].name.encode()
    info = attribute(_IFLA_INFO_KIND, kind) + attribute(_IFLA_INFO_DATA | NLA_F_NESTED, wrong)
    return _ifinfo(0) + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)


def _ifinfo(index: int) -> bytes:
    """Return the header of a message about the interface of this index; 0 for none."""
    return rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def link_body(tunnel: Tunnel) -> bytes:
    """Return the body of the RTM_NEWLINK message that makes the interface of a tunnel."""
    number = _NUMBERS[tunnel.encap]
    data = attribute(number.remote, tunnel.remote.packed)
    if tunnel.local:
        data += attribute(number.local, tunnel.local.packed)
    data += attribute(number.ttl, b"\0")  # that of the inner packet
    if isinstance(tunnel.remote, IPv4Address):
        data += attribute(number.tos, bytes([_INHERIT_TOS])) + attribute(number.pmtudisc, b"\0")
    else:
        # Without the option for the limit of tunnels in tunnels, which costs 8 bytes.
        flags = _IP6_TNL_F_IGN_ENCAP_LIMIT | _IP6_TNL_F_USE_ORIG_TCLASS
        data += attribute(number.encap_limit, b"\0") + attribute(number.flags, _NUMBER.pack(flags))
        data += attribute(number.proto, bytes([socket.IPPROTO_IPV6])) if number.proto else b""
    info = attribute(_IFLA_INFO_KIND, tunnel.kind.name.encode()) + attribute(_IFLA_INFO_DATA | NLA_F_NESTED, data)
    return (
        rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, rtnetlink.IFF_UP, rtnetlink.IFF_UP)
        + attribute(rtnetlink.IFLA_IFNAME, tunnel.name.encode() + b"\0")
        + attribute(_IFLA_GROUP, _NUMBER.pack(GROUP))
        + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)
    )


def _read_link(body: bytes) -> tuple[str, Link]:
    _, _, index, flags, _ = rtnetlink.IFINFOMSG.unpack_from(body)
    found = attributes(body, rtnetlink.IFINFOMSG.size)
    name = found[rtnetlink.IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
    up, group = bool(flags & rtnetlink.IFF_UP), found.get(_IFLA_GROUP)
    doomed = group == _NUMBER.pack(DOOMED_GROUP)
    ours = doomed or group == _NUMBER.pack(GROUP)
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    encap = Link(index, ours, up, kind).encap()
    if encap is Encap.NONE:
        return name, Link(index, ours, up, kind, doomed=doomed)
    data, number = attributes(info.get(_IFLA_INFO_DATA, b"")), _NUMBERS[encap]
    ends = _address(data.get(number.local)), _address(data.get(number.remote))
    return name, Link(index, ours, up, kind, *ends, doomed)


def _address(packed: bytes | None) -> IPAddress | None:
    """Decode an address; None for none, which the kernel also writes as zeros."""
    return ip_address(packed) if packed and any(packed) else None
