"""Next hops for the fast path: from the configuration, or else from routes that the caller looked up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import IPAddress

    from .selection import Target


class Hop(NamedTuple):
    """The neighbour that packets are sent to, and the interface that leads to it."""

    via: IPAddress
    device: str


@dataclass(frozen=True)
class Routes:
    """The next hops of destinations, from the host's routing table."""

    hops: Mapping[IPAddress, Hop] = field(default_factory=dict)

    def hop(self, target: Target) -> Hop | None:
        """Return the next hop of a target, first by its `device` and `via`; None if it is not known."""
        known = self.hops.get(target.via or target.address)
        if target.device:
            return Hop(target.via or (known.via if known else target.address), target.device)
        return Hop(target.via or known.via, known.device) if known else None
