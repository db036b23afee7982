"""`hairpin: true`: a backend can be a client of a `stateless` pool to which it belongs. Pure.

If a backend's packet to the service is sent to the same backend, its source is the backend's own address, and hosts
drop packets with their own source address. So the source must change as well, and must be restored in the reply. For
these packets alone, conntrack translates as with `forward: nat`. All other packets of the pool stay untracked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .words import format_address, format_endpoint, ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Family, IPAddress, Pool

    from .pool_rules import PoolRules
    from .selection import Target
    from .source_ports import Ports

SERVICES, SERVICE_RANGES, HOSTS = "hairpin-services", "hairpin-ranges", "hairpin-hosts"


def let_pass(ip: str, address: IPAddress) -> str:
    """Return the first rule of a backend's chain: packets of the backend itself stay tracked and unchanged."""
    return f"{ip} saddr {format_address(address)} counter accept"


def add_hairpin(part: PoolRules, pool: Pool, family: Family, target: Target) -> None:
    """Add the elements by which conntrack translates packets that a target sends to itself through the pool."""
    address = target.host
    destination = format_endpoint(target.address, target.port)
    listeners = [listener for listener in pool.listen if listener.family is family]
    name = f"hairpin/{target.owner}"
    if target.port is None:
        part.chain(name, f"dnat to {destination}")
    else:
        protocols = dict.fromkeys(listener.protocol for listener in listeners)
        part.chain(name, *(f"meta l4proto {protocol} dnat to {destination}" for protocol in protocols))
    for listener in listeners:
        of = SERVICES if listener.first_port == listener.last_port else SERVICE_RANGES
        key = f"{address} . {format_address(listener.address)} . {listener.protocol} . {ports(listener)}"
        part.add(of, key, f"goto {name}", target.owner)
    part.add(HOSTS, f"{address} . {address}", comment=target.owner)


def destination_rules(ip: str) -> tuple[tuple[str, str], ...]:
    """Return sets and rules that translate to the backend. Only packets without a conntrack entry pass them."""
    key = f"{ip} saddr . {ip} daddr . meta l4proto . th dport"
    return tuple((of, f"{key} vmap @{of}") for of in (SERVICES, SERVICE_RANGES))


def source_rules(ip: str, ports: Ports) -> Iterator[str]:
    """Yield the rules that give hairpin packets this host's address, and a port from `ports` if there is a range."""
    match = f"{ip} saddr . {ip} daddr @{HOSTS}"
    for protocol, leave in ports.items():
        yield f"meta l4proto {protocol} {match} masquerade to :{leave}"
    if not ports:
        yield f"{match} masquerade"
