"""Passive detection: a backend's port-unreachable is handed to whoever listens, the daemon, as evidence against it.

Not every such error is evidence. The rules let pass only one that

- is about a datagram which we sent to a backend of a pool with `passive: true`: conntrack finds the exchange that the
  error quotes, addresses and ports, and its zone is one that such a backend's packets go by. What the balancer itself
  exchanges with backends, its health checks for instance, has no zone;
- came from that backend: the address it comes from goes with the zone, so no router, and no other backend;
- goes the way of replies: a client that closed its socket speaks of itself, not of a backend;
- came in where the backend is: an outsider with the backend's address on his packets stands before another interface.

A pool by default has less: a hint. Any port-unreachable from a backend's address, of where the backend is, is told, and
has the backend checked at once; the check decides. So the rule needs no conntrack, and stands behind the look-ups of
services in chains that are there anyway: what goes to a service never reaches it, and a reply pays for one comparison.

Whoever reads the log is to check what the log quotes once more, and to know which pool and which port it speaks of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from nftlb.model import Passive, Protocol

from .allocation import flow_owner, flow_protocols, has_packets
from .membership import SORRY, targets
from .words import write

if TYPE_CHECKING:
    from nftlb.model import Family, Pool

    from .allocation import Allocation
    from .part import Part
    from .words import Words

WATCHED = "watched"
GROUP = 27746
"""The NFLOG group of the table `nftlb`: any number that nobody else is likely to use; people use small ones.

A group has one listener at most, and a network namespace may have a daemon for each of several tables.
"""
_OTHER_GROUPS = range(32768, 65535)
PREFIX = "refused"
"""Tells our entries from what others may log to the same group."""
HINTING = "hinting"
HINT = "hint"
"""The prefix of the hints' entries."""
# Both IP headers with all their options, an ICMP header and a UDP header are 136 bytes; IPv6's may have extensions.
_QUOTED_BYTES = 160


def watch(part: Part, pool: Pool, family: Family, allocation: Allocation) -> None:
    """Add the zones and addresses from which the backends of a pool with `passive: true` may speak against themselves.

    By default, add the addresses alone. A sorry server is nobody's to take out.
    """
    backends = [target for target in targets(pool, family) if target.name != SORRY]
    if pool.refusals is Passive.CHECK:
        for target in backends:
            part.add(HINTING, write(target.address), comment=target.owner)
        return
    if has_packets(pool, family):
        for target in backends:
            zone = allocation.zone(pool, target)
            part.add(WATCHED, f"{zone} . {write(target.address)}", comment=target.owner)
    if Protocol.UDP in flow_protocols(pool, family):
        zone = allocation.zones[flow_owner(pool, family)]
        for target in backends:
            part.add(WATCHED, f"{zone} . {write(target.address)}", comment=target.owner)


def group_of(table: str) -> int:
    """The NFLOG group in which the daemon of a table listens."""
    return GROUP if table == "nftlb" else _OTHER_GROUPS[crc32(table.encode()) % len(_OTHER_GROUPS)]


def log_forwarded(table: str, words: Words) -> str:
    """The rule for errors that come in, before conntrack translates them."""
    return f"{_refusal(words)} fib saddr . iif oif exists {_log(PREFIX, table)}"


def log_local(table: str, words: Words) -> str:
    """The rule for errors of this host itself, on which a backend may run too."""
    return f"{_refusal(words)} {_log(PREFIX, table)}"


def hint_forwarded(table: str, words: Words) -> str:
    """The rule for errors that come in, of backends whose pools take them for hints."""
    return f"{_hint(words)} fib saddr . iif oif exists {_LIMITED} {_log(HINT, table)}"


def hint_local(table: str, words: Words) -> str:
    """The rule for such errors of this host itself."""
    return f"{_hint(words)} {_LIMITED} {_log(HINT, table)}"


def _log(prefix: str, table: str) -> str:
    return f'log prefix "{prefix}" group {group_of(table)} snaplen {_QUOTED_BYTES}'


# Hints are believed of anybody in the backends' network: he is not to keep the daemon busy.
_LIMITED = "limit rate 1000/second burst 1000 packets"


def _hint(words: Words) -> str:
    return f"{_port_unreachable(words)} {words.ip} saddr @{HINTING}"


def _port_unreachable(words: Words) -> str:
    return f"{words.icmp} type destination-unreachable {words.icmp} code port-unreachable"


def _refusal(words: Words) -> str:
    # `ct protocol`: a zone of flows holds TCP too, and a firewall may answer that with a port-unreachable.
    ip = words.ip
    return (
        f"{_port_unreachable(words)} "
        f"ct state related ct direction reply ct protocol udp ct original zone . {ip} saddr @{WATCHED}"
    )
