"""What the first packet of a flow gives its conntrack entry beside a backend: a time-out and a helper.

The kernel gives an entry both only before it confirms the entry, that is, while the first packet passes the hooks. So
the rules are in chains between the nat chains and the chain that chooses a backend: only first packets get there, and
the other packets of a flow cost nothing more.

A helper expects a flow that the backend begins, for instance the data of TFTP from a new port. conntrack looks for an
expectation only in the zone of the packet. So the packets that backends send get the zone of the pool, in the original
direction. Replies do not change, because conntrack finds replies without a zone. Among the first packets in the zone
there may then be other packets of a backend, so the chain compares the service before a backend is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Protocol, SourceKind
from nftlb.ruleset import NamedObject

from .allocation import FlowZone, flow_protocols, source_of
from .selection import targets
from .services import by_fields
from .words import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Family, Helper, Pool

    from .allocation import Allocation
    from .pool_rules import PoolRules

HELPED = "helped"
"""The map with the addresses of backends that begin flows."""


def add_first_packets(part: PoolRules, pool: Pool, family: Family, allocation: Allocation) -> str:
    """Return the chain to which first packets go; the way from there ends in the chain that chooses a backend."""
    used = list(_objects(pool, family))
    choosing = f"connect/{pool.name}"
    if not used:
        return choosing
    part.objects |= {named_object.key: named_object for named_object in used}
    first = f"first/{pool.name}"
    part.chain(first, *(f'{named_object.kind} set "{named_object.name}"' for named_object in used), f"goto {choosing}")
    if not pool.helper:
        return first
    _add_expected(part, pool, family, allocation.zones[FlowZone(pool.name, family)])
    asked = f"asked/{pool.name}"
    services = (by_fields(listener, first, pool.name) for listener in pool.bound if listener.family == family)
    part.chain(asked, *(f"{service.to_address}{service.match}goto {first}" for service in services))
    return asked


def timeout_object(seconds: int, family: Family) -> NamedObject:
    """Return the time-out of UDP flows. Pools with the same seconds share the object.

    The kernel applies `unreplied` until a reply has come and for two seconds after the first packet, and `replied`
    afterwards. Packets of other protocols ignore the object.
    """
    policy = f"policy = {{ unreplied : {seconds}, replied : {seconds} }}"
    return NamedObject("ct timeout", f"session-{seconds}s", ("protocol udp", f"l3proto {family}", policy))


def helper_object(helper: Helper, family: Family) -> NamedObject:
    return NamedObject("ct helper", f"{helper}", (f'type "{helper}" protocol udp', f"l3proto {family}"))


def _objects(pool: Pool, family: Family) -> Iterator[NamedObject]:
    if Protocol.UDP not in flow_protocols(pool, family):
        return
    if pool.session_timeout:
        yield timeout_object(pool.session_timeout // 1000, family)
    if pool.helper:
        yield helper_object(pool.helper, family)


def _add_expected(part: PoolRules, pool: Pool, family: Family, zone: int) -> None:
    """Give the zone to packets of backends that may begin an expected flow, and to as few other packets as possible.

    An expected flow goes to the address that the backend saw as the client. Requests of backends to services may get
    here too: they keep the zone that the rule of the service has set, because the kernel sets no second zone. But a
    zone would undo `notrack`, so stateless packets end before.
    """
    expected, seen = f"expected/{pool.name}", source_of(pool, family)
    match seen:
        case SourceKind.MASQUERADE:
            client = "fib daddr type local "
        case SourceKind.KEEP:
            client = ""
        case _:
            client = f"{WORDS[family].ip} daddr {seen} "
    part.chain(expected, "ct state untracked accept", f"{client}ct original zone set {zone}")
    for target in targets(pool, family):
        part.add(HELPED, target.host, f"goto {expected}", target.owner)
