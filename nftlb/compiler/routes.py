"""Next hops, as the fast path needs them: what the configuration says, else what the caller looked up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import IPAddress

    from .membership import Target


@dataclass(frozen=True, slots=True)
class Hop:
    """Where to send a packet: the neighbour's address and the interface it is reached through."""

    via: IPAddress
    device: str


@dataclass(frozen=True)
class Routes:
    """Hops by destination, as the host's routing table has them."""

    hops: Mapping[IPAddress, Hop] = field(default_factory=dict)

    def hop(self, target: Target) -> Hop | None:
        """How to reach a target; the configuration's `device` and `via` come first. None: not known."""
        known = self.hops.get(target.via or target.address)
        if target.device:
            return Hop(target.via or (known.via if known else target.address), target.device)
        return Hop(target.via or known.via, known.device) if known else None
