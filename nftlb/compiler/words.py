"""The words of nft that differ between IPv4 and IPv6, and the text of addresses and ports."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Family
from nftlb.ruleset import TableFamily

if TYPE_CHECKING:
    from nftlb.model import IPAddress, Listener, Protocol


class Words(NamedTuple):
    """The words of one family: `ip` and `icmp` name headers in expressions, `address` is the type of addresses."""

    table: TableFamily
    ip: str
    icmp: str
    address: str

    @property
    def protocol(self) -> str:
        """The field with the protocol.

        `meta l4proto` finds the protocol behind IPv6 extension headers, but takes the kernel twice as long.
        """
        return "ip protocol" if self.table is TableFamily.IP else "meta l4proto"

    def carries(self, protocol: Protocol) -> str:
        """Return a match for the protocol, for a rule with a port; it ends with a space. nft adds the slower match."""
        return f"{self.protocol} {protocol} " if self.table is TableFamily.IP else ""

    @property
    def service_key(self) -> str:
        return f"type {self.address} . inet_proto . inet_service"


WORDS = {
    Family.IP: Words(TableFamily.IP, "ip", "icmp", "ipv4_addr"),
    Family.IP6: Words(TableFamily.IP6, "ip6", "icmpv6", "ipv6_addr"),
}


BY_ZONE = "ct direction . ct original zone"
"""The key of sets and maps that are looked up by zone; `zone_key()` returns the key of an element.

If the key is a zone alone, nft 1.1.7 loads the elements of a map with the bytes of their keys in the wrong order. And
the kernel makes a bitmap of a set whose key is a zone alone; to add an element, it walks over all elements.
"""


def zone_key(zone: int) -> str:
    """Return the key of a zone's element. All packets that are looked up go in the original direction."""
    return f"original . {zone}"


def format_address(address: IPAddress) -> str:
    """Return an address as nft prints it. Python prints some IPv6 addresses in another form."""
    return socket.inet_ntop(socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6, address.packed)


def format_endpoint(address: IPAddress, port: int | None) -> str:
    """Return an address with or without a port, as a dnat statement has it."""
    if port is None:
        return format_address(address)
    return (
        f"{format_address(address)}:{port}"
        if isinstance(address, IPv4Address)
        else f"[{format_address(address)}]:{port}"
    )


def listener_name(listener: Listener) -> str:
    """Return the listener's part of the name of a chain. A name can't contain the colons of IPv6 addresses."""
    return f"{format_address(listener.address).replace(':', '_')}/{listener.protocol}/{ports(listener)}"


def ports(listener: Listener) -> str:
    """Return the port or the range of ports of a listener, as an element's key has it."""
    if listener.first_port == listener.last_port:
        return f"{listener.first_port}"
    return f"{listener.first_port}-{listener.last_port}"
