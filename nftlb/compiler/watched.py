"""Passive detection: a backend's port-unreachable is handed to whoever listens, the daemon, as evidence against it.

Not every such error is evidence. The rules let pass only one that

- is about a datagram which we sent to a backend of a pool with `passive: true`: conntrack finds the exchange that the
  error quotes, addresses and ports, and its zone is one that such a backend's packets go by. What the balancer itself
  exchanges with backends, its health checks for instance, has no zone;
- came from that backend: the address it comes from goes with the zone, so no router, and no other backend;
- goes the way of replies: a client that closed its socket speaks of itself, not of a backend;
- came in where the backend is: an outsider with the backend's address on his packets stands before another interface.

Whoever reads the log is to check what the log quotes once more, and to know which pool and which port it speaks of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Protocol

from .allocation import flow_owner, flow_protocols, has_packets, zone_owner
from .membership import SORRY, targets
from .words import write

if TYPE_CHECKING:
    from nftlb.model import Family, Pool

    from .allocation import Allocation
    from .part import Part
    from .words import Words

WATCHED = "watched"
GROUP = 27746
"""The NFLOG group: any number that nobody else is likely to use; people use small ones. It has one listener at most."""
PREFIX = "refused"
"""Tells our entries from what others may log to the same group."""
# Both IP headers with all their options, an ICMP header and a UDP header are 136 bytes; IPv6's may have extensions.
_QUOTED_BYTES = 160


def watch(part: Part, pool: Pool, family: Family, allocation: Allocation) -> None:
    """Add the zones and addresses from which the backends of a pool with `passive: true` may speak against themselves.

    A sorry server is nobody's to take out.
    """
    backends = [target for target in targets(pool, family) if target.name != SORRY]
    if has_packets(pool, family):
        for target in backends:
            zone = allocation.zones[zone_owner(pool, target)]
            part.add(WATCHED, f"{zone} . {write(target.address)}", comment=target.owner)
    if Protocol.UDP in flow_protocols(pool, family):
        zone = allocation.zones[flow_owner(pool, family)]
        for target in backends:
            part.add(WATCHED, f"{zone} . {write(target.address)}", comment=target.owner)


def log_forwarded(words: Words) -> str:
    """The rule for errors that come in, before conntrack translates them."""
    return f"{_refusal(words)} fib saddr . iif oif exists {_LOG}"


def log_local(words: Words) -> str:
    """The rule for errors of this host itself, on which a backend may run too."""
    return f"{_refusal(words)} {_LOG}"


_LOG = f'log prefix "{PREFIX}" group {GROUP} snaplen {_QUOTED_BYTES}'


def _refusal(words: Words) -> str:
    # `ct protocol`: a zone of flows holds TCP too, and a firewall may answer that with a port-unreachable.
    icmp, ip = words.icmp, words.ip
    return (
        f"{icmp} type destination-unreachable {icmp} code port-unreachable "
        f"ct state related ct direction reply ct protocol udp ct original zone . {ip} saddr @{WATCHED}"
    )
