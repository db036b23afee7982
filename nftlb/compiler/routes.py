"""Next hops for the fast path: from the configuration, or else from routes that the caller looked up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2s
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Encap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import IPAddress

    from .selection import Target


TUNNEL_PREFIX = "nftlb-"
"""The names of tunnel interfaces of nftlb begin so."""
_LONGEST_NAME = 15  # IFNAMSIZ without the final zero


class Hop(NamedTuple):
    """The neighbour that packets are sent to, and the interface that leads to it.

    With a tunnel, the interface is that tunnel's, and `via` is its other end.
    """

    via: IPAddress
    device: str
    encap: Encap = Encap.NONE

    def __str__(self) -> str:
        device = f" dev {self.device}" if self.device else ""
        return f"{self.encap} to {self.via}{device}" if self.encap is not Encap.NONE else f"via {self.via}{device}"


def tunnel_hop(encap: Encap, address: IPAddress) -> Hop:
    """Return the hop through the tunnel to an address.

    Each address has one interface, which all pools share: the kernel refuses a second tunnel between the same ends. The
    name depends only on the kind of tunnel and the address, so the rules of the fast path can name the interface before
    it exists. It has as many digits of a hash as fit: two of 1000 addresses have the same name once in 100,000 hosts.
    """
    digest = blake2s(f"{encap} {address}".encode()).hexdigest()
    return Hop(address, f"{TUNNEL_PREFIX}{digest}"[:_LONGEST_NAME], encap)


@dataclass(frozen=True)
class Routes:
    """The next hops of destinations, from the host's routing table."""

    hops: Mapping[IPAddress, Hop] = field(default_factory=dict)

    def hop(self, target: Target) -> Hop | None:
        """Return the next hop of a target: its tunnel, or else by its `device` and `via`; None if it is not known."""
        if target.encap is not Encap.NONE:
            return tunnel_hop(target.encap, target.address)
        known = self.hops.get(target.via or target.address)
        if target.device:
            return Hop(target.via or (known.via if known else target.address), target.device)
        return Hop(target.via or known.via, known.device) if known else None


def steering_hop(target: Target) -> Hop:
    """Return the hop for the packets of a target's mark. For a hop without a device, the kernel finds the device."""
    if target.encap is not Encap.NONE:
        return tunnel_hop(target.encap, target.address)
    return Hop(target.via or target.address, target.device or "")
