"""Passive detection: rules that log a backend's ICMP port-unreachable for the daemon, as evidence that it is down.

Not every port-unreachable is evidence. The rules log an error only if it

- is about a datagram that we sent to a backend of a pool with `passive: true`: conntrack finds the flow whose addresses
  and ports the error quotes, and the flow's zone belongs to the backend. What the balancer itself exchanges with
  backends has no zone, for instance health checks;
- came from that backend: the zone is looked up together with the source of the error, so that errors of routers and of
  other backends do not count;
- goes in the direction of replies: if a client closes its socket, the error is about the client;
- came in on the backend's interface: a forged packet from outside comes in on another interface.

By default a pool has less: a hint. Every port-unreachable that comes from a backend's address, on the backend's
interface, is logged, and the daemon checks the backend at once. The check decides. So the rule needs no conntrack. It
is behind the look-ups of services in chains that are there anyway: requests never reach it, and a reply costs one more
comparison.

The daemon has to check again what an entry of the log quotes, and finds pool and port from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from nftlb.model import Passive, Protocol

from .allocation import FlowZone, flow_protocols, has_packets
from .selection import SORRY, targets

if TYPE_CHECKING:
    from nftlb.model import Family, Pool

    from .allocation import Allocation
    from .pool_rules import PoolRules
    from .words import Words

WATCHED = "watched"
GROUP = 27746
"""The NFLOG group of the table `nftlb`: an unusual number, because other programs use small numbers.

A group has one listener at most, and a network namespace may have several daemons, each with a table.
"""
_OTHER_GROUPS = range(32768, 65535)
PREFIX = "refused"
"""The prefix of our entries. Other programs may log to the same group with other prefixes."""
HINTING = "hinting"
HINT = "hint"
"""The prefix of entries that are hints."""
# Both IP headers with all their options, an ICMP header and a UDP header are 136 bytes; IPv6's may have extensions.
_QUOTED_BYTES = 160


def watch(part: PoolRules, pool: Pool, family: Family, allocation: Allocation) -> None:
    """Add the zones and addresses of the backends whose errors are logged, for a pool with `passive: true`.

    For a pool with the default, add only the addresses. Sorry servers are never taken out, so they are not added.
    """
    backends = [target for target in targets(pool, family) if target.name != SORRY]
    if pool.refusals is Passive.CHECK:
        for target in backends:
            part.add(HINTING, target.host, comment=target.owner)
        return
    if has_packets(pool, family):
        for target, zone in allocation.zones_of_targets(pool, family):
            if target.name != SORRY:
                part.add(WATCHED, f"{zone} . {target.host}", comment=target.owner)
    if Protocol.UDP in flow_protocols(pool, family):
        zone = allocation.zones[FlowZone(pool.name, family)]
        for target in backends:
            part.add(WATCHED, f"{zone} . {target.host}", comment=target.owner)


def group_of(table: str) -> int:
    """Return the NFLOG group to which the daemon of a table listens."""
    return GROUP if table == "nftlb" else _OTHER_GROUPS[crc32(table.encode()) % len(_OTHER_GROUPS)]


def log_forwarded(table: str, words: Words) -> str:
    """Return the rule for errors that come in, before conntrack translates them."""
    return f"{_refusal(words)} fib saddr . iif oif exists {_log(PREFIX, table)}"


def log_local(table: str, words: Words) -> str:
    """Return the rule for errors of this host itself, because a backend may run on it."""
    return f"{_refusal(words)} {_log(PREFIX, table)}"


def hint_forwarded(table: str, words: Words) -> str:
    """Return the rule for errors that come in from backends of pools with the default, as hints."""
    return f"{_hint(words)} fib saddr . iif oif exists {_LIMITED} {_log(HINT, table)}"


def hint_local(table: str, words: Words) -> str:
    """Return the rule for hints of this host itself."""
    return f"{_hint(words)} {_LIMITED} {_log(HINT, table)}"


def _log(prefix: str, table: str) -> str:
    return f'log prefix "{prefix}" group {group_of(table)} snaplen {_QUOTED_BYTES}'


# Every host in the backends' network can send hints. The limit keeps it from overloading the daemon.
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
