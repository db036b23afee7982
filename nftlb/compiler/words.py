"""The words in which IPv4 and IPv6 rules differ, and how addresses and protocols are written."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from nftlb.model import Family
from nftlb.ruleset import TableFamily

if TYPE_CHECKING:
    from nftlb.model import IPAddress, Listener


@dataclass(frozen=True, slots=True)
class Words:
    """`ip` and `icmp` are the headers' names in expressions, `address` the type of addresses."""

    table: TableFamily
    ip: str
    icmp: str
    address: str

    @property
    def service_key(self) -> str:
        return f"type {self.address} . inet_proto . inet_service"


WORDS = {
    Family.IP: Words(TableFamily.IP, "ip", "icmp", "ipv4_addr"),
    Family.IP6: Words(TableFamily.IP6, "ip6", "icmpv6", "ipv6_addr"),
}


BY_ZONE = "ct direction . ct original zone"
"""The key of what each zone has in sets and maps; `zone_key()` is the key of an element.

nft 1.1.7 loads the elements of a map with the bytes of their keys swapped where the key is a zone alone. And a set
whose key is a zone alone is a bitmap to the kernel, which walks over all elements to add another.
"""


def zone_key(zone: int) -> str:
    """The key of a zone's element. All packets that are looked up go in the original direction."""
    return f"original . {zone}"


def write(address: IPAddress) -> str:
    """An address as nft prints it; for some IPv6 addresses Python writes another form."""
    return socket.inet_ntop(socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6, address.packed)


def endpoint(address: IPAddress, port: int | None) -> str:
    """An address with or without a port, as the target of a dnat statement."""
    if port is None:
        return write(address)
    return f"{write(address)}:{port}" if isinstance(address, IPv4Address) else f"[{write(address)}]:{port}"


def ports(listener: Listener) -> str:
    """A port, or a range of them, as an element's key."""
    if listener.first_port == listener.last_port:
        return f"{listener.first_port}"
    return f"{listener.first_port}-{listener.last_port}"
