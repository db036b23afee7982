"""All that can become of a packet under a ruleset, and under one that changes while the packet is on its way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from configs import INTERFACES
from tracer import Checksum, Packet, Snapshot, Swap, Tracer

from nftlb.compiler.allocation import is_flow
from nftlb.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model import Config, Listener
    from nftlb.ruleset import Ruleset

OWN = {Family.IP: "10.0.0.1", Family.IP6: "2001:db8:1::1"}
CLIENTS = {Family.IP: "198.51.100.7", Family.IP6: "2001:db8:7::7"}
ROUTED_MARKS = frozenset(range(60001, 60101))
SLOTS = range(6)
"""The positions at which wheels are tried."""

BACKENDS = "eth1"
"""The interface that replies come in by."""

Outcome: TypeAlias = tuple[str, object]
"""`to` and where the packet goes, `from` and, for a reply, as whose it comes; these may change at different moments."""


def packets(config: Config) -> dict[Packet, str]:
    """To both ends of each listener, from a client and from the host; and the replies of all servers to the client.

    Beside a packet that begins a connection stands the name of the pool whose connection it is.
    """
    found = {}
    for pool in config.pools:
        servers = [(one.address, one.port) for one in pool.backends]
        servers += [(one.address, one.port) for one in pool.fallback.sorry]
        for one in pool.listen:
            client, own = CLIENTS[one.family], OWN[one.family]
            whose = pool.name if is_flow(pool, one.protocol) else ""
            for port in {one.first_port, one.last_port}:
                found[Packet(client, 40000, str(one.address), port, one.protocol)] = whose
                found[Packet(own, 40000, str(one.address), port, one.protocol, interface="")] = whose
                for address, its in servers:
                    if address.version == one.address.version:
                        found[Packet(str(address), its or port, client, 40000, one.protocol, BACKENDS)] = ""
    return found


def locals_of(configs: Iterable[Config]) -> tuple[str, ...]:
    return (*OWN.values(), *sorted({str(one.address) for config in configs for one in _listeners(config)}))


def _listeners(config: Config) -> Iterator[Listener]:
    for pool in config.pools:
        yield from pool.listen


def outcomes(ruleset: Ruleset | Snapshot, packet: Packet, local: tuple[str, ...]) -> set[Outcome]:
    """Whatever slot the packet gets, and whether it takes a fast path or the ordinary one.

    A listener that is about to get its fast path at one more interface may lend the packet the one that it has.
    """
    ways = {packet}
    if packet.interface:
        ways |= {replace(packet, interface=interface) for interface in ("ordinary", *INTERFACES)}
    return {one for slot in SLOTS for way in ways for one in _outcomes(ruleset, way, local, slot, None)[0]}


def outcomes_between(early: Snapshot, late: Snapshot, packet: Packet, local: tuple[str, ...]) -> set[Outcome]:
    """Whatever slot the packet gets, and whenever the change comes."""
    found = set()
    for slot in SLOTS:
        moment, moments = 0, 1
        while moment < moments:
            met, moments = _outcomes(early, packet, local, slot, Swap(moment, late))
            found |= met
            moment += 1
    return found


def _outcomes(
    ruleset: Ruleset | Snapshot, packet: Packet, local: tuple[str, ...], slot: int, swap: Swap | None
) -> tuple[set[Outcome], int]:
    tracer = Tracer(
        ruleset,
        local,
        routed_marks=ROUTED_MARKS,
        first_slot=slot,
        dice=lambda modulus: slot % modulus,
        hash_of=lambda _, modulus: slot * 37 % modulus,
    )
    journey = tracer.send(packet, swap)
    left = journey.packet
    sent: set[Outcome] = {("to", journey.target), ("checksum", left.checksum is Checksum.WRONG)}
    if packet.interface == BACKENDS:
        sent.add(("from", (left.source, left.sport)))
    return sent, journey.moments
