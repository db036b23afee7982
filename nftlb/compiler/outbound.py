"""`outbound: true`: requests that a backend itself sends from its port leave from the address of the service. Pure.

Conntrack translates the source of such a request, and brings the replies back to the backend that asked. Only the first
packet of a flow passes the rule. Packets in a zone of nftlb are balanced requests, whose sources other rules choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Protocol

from .selection import SORRY, targets
from .words import format_address, ports

if TYPE_CHECKING:
    from nftlb.model import Family, Pool

    from .pool_rules import PoolRules

OUTBOUND = "outbound"
"""The map from the address and port of a backend to the address of the service."""


def add_outbound(part: PoolRules, pool: Pool, family: Family) -> None:
    """Add the sources from which the backends of a `nat` pool send requests."""
    for listener in pool.listen:
        if listener.family is not family or listener.protocol is not Protocol.UDP:
            continue
        for target in targets(pool, family):
            if target.name != SORRY:
                key = f"{target.host} . {ports(listener)}"
                part.add(OUTBOUND, key, format_address(listener.address), target.owner)


def outbound_rule(ip: str) -> tuple[str, str]:
    """Return the map, and the rule that looks up the source of a request.

    The port stays, unless another backend asks the same port of the same peer at the same time: with a port in the
    rule, the kernel would drop the packets of the second backend.
    """
    return OUTBOUND, f"ct original zone 0 snat to {ip} saddr . udp sport map @{OUTBOUND}"
