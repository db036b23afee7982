"""The messages for tunnel interfaces, compared with those of iproute2, and what the kernel is asked about them."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from nftlb.compiler.routes import Hop, tunnel_hop
from nftlb.kernel import rtnetlink
from nftlb.kernel.netlink import NETLINK_ROUTE, Netlink, attributes
from nftlb.kernel.tunnels import DOOMED_GROUP, GROUP, KINDS, Tunnel, TunnelLinks, link_body, missing_kinds
from nftlb.lab import Lab
from nftlb.model import Encap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAME = "nftlb-012345678"
TUNNELS = {
    kind.name: Tunnel(NAME, encap, ip_address("10.0.1.2"))
    if version == 4
    else Tunnel(NAME, encap, ip_address("fd00:1::2"), ip_address("fd00:1::1"))
    for (encap, version), kind in KINDS.items()
}
# IFLA_INFO_DATA in the requests of iproute2 6.1 for `Tunnel.command`, by strace.
IPROUTE2 = {
    "ipip": "0500090000000000080003000a00010205000a0000000000050005000100000005000400000000000800010000000000"
    "080014000000000006000f0000000000060010000000000006001100000000000600120000000000",
    "ip6tnl": "050009002900000014000200fd00000100000000000000000000000114000300fd000001000000000000000000000002"
    "050004000000000005000600040000000800070000000000080008000300000008000100000000000800140000000000"
    "06000f0000000000060010000200000006001100000000000600120000000000",
    "gre": "0800040000000000080005000000000006000200000000000600030000000000080007000a00010205000a0000000000"
    "05000900010000000500080000000000080014000000000006000e000000000006000f00000000000600100000000000"
    "0600110000000000",
    "ip6gre": "080004000000000008000500000000000600020000000000060003000000000014000600fd0000010000000000000000"
    "0000000114000700fd000001000000000000000000000002050008000000000005000b000400000008000c0000000000"
    "08000d00030000000800140000000000050016000100000006000e000000000006000f00020000000600100000000000"
    "0600110000000000",
}
LIMITS = {"ip6tnl": 6, "ip6gre": 11}
"""The attribute of the limit of tunnels in tunnels: without the option, iproute2 sends the default of the option."""


@pytest.mark.parametrize("kind", TUNNELS)
def test_the_message_has_the_attributes_of_iproute2(kind: str) -> None:
    """Name, group, type and each option have the number and the bytes that iproute2 sends for the command."""
    body = link_body(TUNNELS[kind])
    found = attributes(body, rtnetlink.IFINFOMSG.size)
    info = attributes(found[18])
    ours, theirs = attributes(info[2]), attributes(bytes.fromhex(IPROUTE2[kind]))

    assert rtnetlink.IFINFOMSG.unpack_from(body) == (0, 0, 0, rtnetlink.IFF_UP, rtnetlink.IFF_UP)
    assert (found[3], found[27], info[1]) == (f"{NAME}\0".encode(), GROUP.to_bytes(4, "little"), kind.encode())
    ours.pop(LIMITS.get(kind, 0), None)
    assert ours == {number: theirs[number] for number in ours}
    assert len(ours) >= 4


def test_the_kernel_is_asked_for_types_without_making_interfaces() -> None:
    """A type is missing exactly where iproute2 can't make an interface of the type, and no interface is made."""
    with Lab(backends=1) as lab:
        before = lab.balancer.run(["ip", "-oneline", "link", "show"])
        missing = lab.balancer.call(missing_kinds, KINDS)
        after = lab.balancer.run(["ip", "-oneline", "link", "show"])
        lacks = set()
        for key, kind in KINDS.items():
            try:
                lab.balancer.run(TUNNELS[kind.name].command.split())
                lab.balancer.run(["ip", "link", "delete", NAME])
            except subprocess.CalledProcessError:
                lacks.add(key)
    assert (frozenset(lacks), before) == (missing, after)


def test_tunnels_over_ipv6_have_the_source_of_the_route() -> None:
    """Over IPv6 the kernel needs the source. Over IPv4 the kernel chooses. An address without a route has no tunnel."""

    def wanted(hop: Hop) -> Tunnel | None:
        with Netlink(NETLINK_ROUTE) as netlink:
            return TunnelLinks().wanted(netlink, hop)

    with Lab(backends=1) as lab:
        far, near, none = (
            lab.balancer.call(wanted, tunnel_hop(Encap.GRE, ip_address(address)))
            for address in ("203.0.113.1", "fd00:1::2", "fd00:9::9")
        )
    assert (far and far.local, near and near.local, none) == (None, ip_address("fd00:1::1"), None)


class CountingNetlink(Netlink):
    """Counts the requests to delete interfaces: the kernel waits some tens of milliseconds for each."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)
        self.deletions = 0

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        self.deletions += kind == rtnetlink.RTM_DELLINK
        super().change(kind, body, flags)

    def change_all(self, kind: int, bodies: Iterable[bytes], flags: int = 0) -> Iterator[OSError | None]:
        each = list(bodies)
        self.deletions += len(each) if kind == rtnetlink.RTM_DELLINK else 0
        return super().change_all(kind, each, flags)


@pytest.mark.parametrize("foreign", [False, True])
def test_interfaces_are_deleted_together(foreign: bool) -> None:
    """Several interfaces take one request, and one that is gone does no harm. A foreign interface always stays."""

    def delete() -> tuple[dict[int, OSError], int]:
        with CountingNetlink() as netlink:
            found = TunnelLinks().present(netlink)
            doomed = [link.index for name, link in found.items() if name.startswith("nftlb-")]
            return TunnelLinks().delete(netlink, [*doomed, max(doomed) + 10]), netlink.deletions

    with Lab(backends=1) as lab:
        group = DOOMED_GROUP if foreign else 0
        for name, number in (("nftlb-1", GROUP), ("nftlb-2", GROUP), ("nftlb-3", DOOMED_GROUP), ("other", group)):
            lab.balancer.run(["ip", "link", "add", name, "group", str(number), "type", "bridge"])
        errors, deletions = lab.balancer.call(delete)
        left = lab.balancer.run(["ip", "-brief", "link", "show", "type", "bridge"])

    assert ({}, ["other"]) == (errors, [line.split()[0] for line in left.splitlines()])
    assert deletions == (4 if foreign else 1)


def test_names_of_tunnels() -> None:
    """The name fits into the kernel's 15 bytes, stays the same, and is another for another kind or address."""
    names = [
        tunnel_hop(encap, ip_address(address)).device
        for encap in (Encap.IPIP, Encap.GRE)
        for address in ("10.8.0.11", "10.8.0.12", "2001:db8::1")
    ]
    assert (6, {15}, "nftlb-eab9b7aab") == (len(set(names)), set(map(len, names)), names[0])
