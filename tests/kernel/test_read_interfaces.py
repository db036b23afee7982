"""The kinds of interfaces, from the kernel's announcements: a test machine may have no VLANs and VRFs."""

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
LINK, MASTER, LINKINFO, NETNSID = 5, 10, 18, 37
KIND, SLAVE_KIND = 1, 4
NUMBER = struct.Struct("=I")


class Answers:
    """A netlink socket that answers with these interfaces."""

    def __init__(self, links: list[bytes]) -> None:
        self.links = links

    def dump_all(self, kind: int, _: bytes) -> Iterator[bytes]:
        return iter(self.links if kind == rtnetlink.RTM_GETLINK else ())


def link(
    index: int, name: str, kind: str = "", below: int = 0, *, elsewhere: bool = False, master: tuple[int, str] = (0, "")
) -> bytes:
    """An interface as the kernel announces it. `elsewhere`: the interface below is in another network namespace.

    `master`: the index and the kind of the interface that this interface belongs to.
    """
    body = rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 1, index, rtnetlink.IFF_UP, 0)
    body += attribute(rtnetlink.IFLA_IFNAME, name.encode() + b"\0") + attribute(rtnetlink.IFLA_MTU, NUMBER.pack(1500))
    body += attribute(LINK, NUMBER.pack(below)) if below else b""
    body += attribute(NETNSID, NUMBER.pack(0)) if elsewhere else b""
    body += attribute(MASTER, NUMBER.pack(master[0])) if master[0] else b""
    kinds = ((KIND, kind), (SLAVE_KIND, master[1]))
    return body + attribute(LINKINFO, b"".join(attribute(at, text.encode() + b"\0") for at, text in kinds if text))


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


def test_bridges_and_members_of_vrfs() -> None:
    """The ports of a bridge, too, belong to another interface."""
    links = [
        link(2, "br0", "bridge"),
        link(3, "blue", "vrf"),
        link(4, "port", "veth", master=(2, "bridge")),
        link(5, "member", "veth", master=(3, "vrf")),
        link(6, "alone"),
    ]
    found = read_interfaces(cast("Any", Answers(links)))
    assert ["br0"] == [one.name for one in found if one.bridge]
    assert {"member": 3} == {one.name: one.vrf for one in found if one.vrf}
