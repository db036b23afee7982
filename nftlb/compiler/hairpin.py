"""`hairpin: true`: a backend that is a client of its own `stateless` pool gets what falls to itself. Pure.

A packet from a backend to the service that comes back to the same backend has the backend's own address as its source,
and no host takes such a packet. So its source must change too, and for the way back somebody must remember it: for
these packets alone, conntrack does what it does for `forward: nat`. All others of the pool stay untracked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .words import endpoint, ports, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Family, IPAddress, Pool

    from .membership import Target
    from .part import Part
    from .source_ports import Ports

SERVICES, SERVICE_RANGES, HOSTS = "hairpin-services", "hairpin-ranges", "hairpin-hosts"


def let_pass(ip: str, address: IPAddress) -> str:
    """The rule that begins a backend's chain: what the backend itself sent stays tracked, and as it is."""
    return f"{ip} saddr {write(address)} counter accept"


def add(part: Part, pool: Pool, family: Family, target: Target) -> None:
    """Have conntrack translate what a target sends to itself by way of the pool."""
    address = write(target.address)
    destination = endpoint(target.address, target.port)
    listeners = [one for one in pool.listen if one.family is family]
    name = f"hairpin/{target.owner}"
    if target.port is None:
        part.chain(name, f"dnat to {destination}")
    else:
        protocols = dict.fromkeys(one.protocol for one in listeners)
        part.chain(name, *(f"meta l4proto {protocol} dnat to {destination}" for protocol in protocols))
    for one in listeners:
        of = SERVICES if one.first_port == one.last_port else SERVICE_RANGES
        key = f"{address} . {write(one.address)} . {one.protocol} . {ports(one)}"
        part.add(of, key, f"goto {name}", target.owner)
    part.add(HOSTS, f"{address} . {address}", comment=target.owner)


def destination_rules(ip: str) -> tuple[tuple[str, str], ...]:
    """The sets and rules that find the backend again; only packets that no entry is known of meet them."""
    key = f"{ip} saddr . {ip} daddr . meta l4proto . th dport"
    return tuple((of, f"{key} vmap @{of}") for of in (SERVICES, SERVICE_RANGES))


def source_rules(ip: str, ports: Ports) -> Iterator[str]:
    """The rules that give such a packet this host's address, and a port that is no service's where there is one."""
    match = f"{ip} saddr . {ip} daddr @{HOSTS}"
    for protocol, leave in ports.items():
        yield f"meta l4proto {protocol} {match} masquerade to :{leave}"
    if not ports:
        yield f"{match} masquerade"
