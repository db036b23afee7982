"""Services, and the matches that find their packets: by fields, or by words of 32 bits at the ingress hook. Pure.

At the ingress hook, nft would put a comparison of the protocol before each field, which the kernel does not do inline.
So the rules there compare words, and their comments say what the words mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Family, Protocol
from nftlb.ruleset import Element

from .words import WORDS, format_address, ports

if TYPE_CHECKING:
    from nftlb.model import Listener

SERVICES, LOCAL_SERVICES = "services", "local-services"
"""The services of the ordinary hooks, and those of packets of this host itself if these are others."""
TO_THIS_HOST = "meta pkttype host "
"""A match for the frames that the kernel gives to the ordinary chains too, without frames to other hosts.

The ingress hook gets all frames that an interface receives. In promiscuous mode (tcpdump, a port of a bridge), or in a
virtual machine on a bridge, these may be frames to other hosts, for instance to the other balancer of a pair. The match
costs a packet as much as two comparisons, so it stands only where slots are drawn and where a guard counts.
"""
_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}


class ServicePort(NamedTuple):
    """An address, a protocol and a port, or a range of ports, whose packets go to a chain.

    `key` is that of an element. `match` and `to_address` end with a space, and compare the address and all the rest;
    `meaning` and `address_meaning` are the same matches in nft's words, if the matches compare bits.
    """

    key: str
    to_address: str
    match: str
    chain: str
    owner: str
    ranged: bool = False
    address_meaning: str = ""
    meaning: str = ""

    @property
    def address(self) -> str:
        return self.key.partition(" ")[0]

    @property
    def whole_meaning(self) -> str:
        return f"{self.address_meaning} {self.meaning}".strip()

    @property
    def element(self) -> Element:
        """The element of a map that leads to the chain."""
        return Element(self.key, f"goto {self.chain}", self.owner)


def by_fields(listener: Listener, chain: str, owner: str, port: int = 0) -> ServicePort:
    """Return a listener's service for the ordinary hooks; `port`: another port than its own."""
    words, protocol = WORDS[listener.family], listener.protocol
    address, written = format_address(listener.address), f"{port or ports(listener)}"
    return ServicePort(
        f"{address} . {protocol} . {written}",
        f"{words.ip} daddr {address} ",
        f"{words.carries(protocol)}{protocol} dport {written} ",
        chain,
        owner,
        ranged="-" in written,
    )


def by_words(listener: Listener, chain: str, owner: str, *, rewritten: bool) -> ServicePort:
    """Return a listener's service for the ingress hook. Its match excludes all that the fast path must not forward.

    `rewritten` is as in `fast_match()`.
    """
    match, meaning = fast_match(listener.family, listener.protocol, ports(listener), rewritten=rewritten)
    packed = listener.address.packed
    first = 128 if listener.family is Family.IP else 192
    words = (f"@nh,{first + 8 * at},32 0x{packed[at : at + 4].hex()} " for at in range(0, len(packed), 4))
    address = format_address(listener.address)
    return ServicePort(
        f"{address} . {listener.protocol} . {ports(listener)}",
        "".join(words),
        match,
        chain,
        owner,
        listener.first_port != listener.last_port,
        f"{WORDS[listener.family].ip} daddr {address}",
        meaning,
    )


def fast_match(family: Family, protocol: Protocol, port: str = "", *, rewritten: bool) -> tuple[str, str]:
    """Return a match for the packets that the fast path may forward, which ends with a space; and what it means.

    `port`: the packets are for this port, or for this range of ports; "" for any. `rewritten`: the packets are changed,
    so those with a UDP checksum of zero need other rules.

    The rule does not compare the type of the frame. Only a packet that no host sends, for instance IPv6 with a hop
    limit of 0, has these words at these places in another protocol. The backend's counter counts this packet, and the
    packet takes a turn.
    """
    number = _NUMBERS[protocol]
    if family is Family.IP:
        match = f"@nh,48,32 & 0x3fff00ff == {number:#010x} @nh,64,32 & 0xfe000000 != 0x00000000 "
        meaning = ", ip ttl > 1, no fragment"
    else:
        match = f"@nh,32,32 & 0x0000ff00 == {number << 8:#010x} @nh,32,32 & 0x000000fe != 0x00000000 "
        meaning = ", hoplimit > 1"
    if rewritten and protocol is Protocol.UDP:
        checksum = "@th,48,16 != 0 "
        meaning += ", with checksum"
    else:
        checksum = ""
    return (
        f"{match}{f'th dport {port} ' if port else ''}{checksum}",
        f"{protocol}{f' dport {port}' if port else ''}{meaning}",
    )
