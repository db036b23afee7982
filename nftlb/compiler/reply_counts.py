"""`passive: replies` and `count_replies`: count the replies of each backend, to compare them with its packets. Pure.

*nat*: conntrack knows which packets are replies, and the zone of the original direction says which backend they come
from. So what the balancer itself exchanges with a backend, for instance health checks, does not count. The packets are
counted in a hook behind conntrack: prerouting, or output for a backend on this host. If the receiver is on this host
too, the packet passes both, but in prerouting it has the address of the service already.

*stateless*: the chain that gives replies the address of the service also counts them. So there is a chain for each
backend, while the backends of other pools share chains.

Packets to backends are counted anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Protocol
from nftlb.ruleset import OF_REPLIES

from .allocation import FlowZone, flow_protocols, has_packets
from .selection import SORRY, targets

if TYPE_CHECKING:
    from nftlb.model import Family, Pool

    from .allocation import Allocation
    from .pool_rules import PoolRules
    from .selection import Target
    from .words import Words

COUNTED, FLOWS_COUNTED = "replies-counted", "flow-replies-counted"
"""The sets that count: by zone and source; and with the port, for flows to backends with a port, which share a zone."""


def add_reply_counts(part: PoolRules, pool: Pool, family: Family, allocation: Allocation) -> None:
    """Add the elements that count the replies of the backends of a `nat` pool."""
    counted: list[tuple[Target, int, bool]] = []
    if has_packets(pool, family):
        counted += [(target, zone, False) for target, zone in allocation.zones_of_targets(pool, family)]
    if Protocol.UDP in flow_protocols(pool, family):
        zone = allocation.zones[FlowZone(pool.name, family)]
        counted += [(target, zone, target.port is not None) for target in targets(pool, family)]
    for target, zone, by_port in counted:
        if target.name != SORRY:
            key = f"{zone} . {target.host}"
            name, key = (FLOWS_COUNTED, f"{key} . {target.port}") if by_port else (COUNTED, key)
            part.add(name, key, comment=f"{target.owner}{OF_REPLIES}")


def counting_rules(words: Words) -> tuple[tuple[str, str], ...]:
    """Return sets and the rules that count in them."""
    # An ICMP error of a backend about a request has the direction and the zone of a reply too.
    source = f"meta l4proto udp ct direction reply ct original zone . {words.ip} saddr"
    return (
        # One address may be two backends, with and without a port: the reply counts for the first.
        (FLOWS_COUNTED, f"{source} . th sport @{FLOWS_COUNTED} accept"),
        (COUNTED, f"{source} @{COUNTED}"),
    )
