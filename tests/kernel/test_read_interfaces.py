"""Which interface is below a VLAN or a macvlan, from the kernel's announcements: a test machine may have no VLANs."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, cast

from nftlb.kernel import rtnetlink
from nftlb.kernel.netlink import attribute
from nftlb.kernel.surroundings import read_interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator


# include/uapi/linux/if_link.h
LINK, LINKINFO, NETNSID, KIND = 5, 18, 37, 1
NUMBER = struct.Struct("=I")


class Answers:
    """A netlink socket that answers with these interfaces."""

    def __init__(self, links: list[bytes]) -> None:
        self.links = links

    def dump_all(self, kind: int, _: bytes) -> Iterator[bytes]:
        return iter(self.links if kind == rtnetlink.RTM_GETLINK else ())


def link(index: int, name: str, kind: str = "", below: int = 0, *, elsewhere: bool = False) -> bytes:
    """An interface as the kernel announces it. `elsewhere`: the interface below is in another network namespace."""
    body = rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 1, index, rtnetlink.IFF_UP, 0)
    body += attribute(rtnetlink.IFLA_IFNAME, name.encode() + b"\0") + attribute(rtnetlink.IFLA_MTU, NUMBER.pack(1500))
    body += attribute(LINK, NUMBER.pack(below)) if below else b""
    body += attribute(NETNSID, NUMBER.pack(0)) if elsewhere else b""
    return body + (attribute(LINKINFO, attribute(KIND, kind.encode() + b"\0")) if kind else b"")


def test_interfaces_of_vlans_and_macvlans() -> None:
    """A veth pair has an interface below it too. The index of an interface in another namespace means nothing here."""
    links = [
        link(1, "lo"),
        link(2, "eth0"),
        link(3, "eth0.30", "vlan", 2),
        link(4, "c", "veth", 2),
        link(5, "m", "macvlan", 2),
        link(6, "far", "vlan", 2, elsewhere=True),
        link(7, "away", "macvlan", 2, elsewhere=True),
    ]
    found = read_interfaces(cast("Any", Answers(links)))
    assert {"eth0.30": 2} == {one.name: one.vlan_of for one in found if one.vlan_of}
    assert {"m": 2} == {one.name: one.macvlan_of for one in found if one.macvlan_of}
