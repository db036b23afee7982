"""All possible outcomes of a packet under a ruleset, and under a ruleset that changes while the packet passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from config_strategies import INTERFACES
from packet_tracer import Checksum, Packet, Snapshot, Swap, Tracer

from nftlb.compiler.allocation import is_flow
from nftlb.model import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nftlb.model import Config, Listener
    from nftlb.ruleset import Ruleset

OWN = {Family.IP: "10.0.0.1", Family.IP6: "2001:db8:1::1"}
CLIENTS = {Family.IP: "198.51.100.7", Family.IP6: "2001:db8:7::7"}
ROUTED_MARKS = frozenset(range(60001, 60101))
SLOTS = range(6)
"""The slots from which turns are tried."""

BACKENDS = "eth1"
"""The interface at which replies arrive."""

Outcome: TypeAlias = tuple[str, object]
"""`to` and the destination of the packet, or `from` and the source of a reply. Both may change at different moments."""


def packets(config: Config) -> dict[Packet, str]:
    """Packets to both ends of each listener, from a client and from the host, and replies of all servers.

    The value of a packet that begins a connection is the name of its pool; other values are empty.
    """
    found = {}
    for pool in config.pools:
        servers = [(backend.address, backend.port) for backend in pool.backends]
        servers += [(server.address, server.port) for server in pool.fallback.sorry]
        for listener in pool.listen:
            client, own = CLIENTS[listener.family], OWN[listener.family]
            whose = pool.name if is_flow(pool, listener.protocol) else ""
            for port in {listener.first_port, listener.last_port}:
                found[Packet(client, 40000, str(listener.address), port, listener.protocol)] = whose
                found[Packet(own, 40000, str(listener.address), port, listener.protocol, interface="")] = whose
                for address, its in servers:
                    if address.version == listener.address.version:
                        found[Packet(str(address), its or port, client, 40000, listener.protocol, BACKENDS)] = ""
    return found


def locals_of(configs: Iterable[Config]) -> tuple[str, ...]:
    return (*OWN.values(), *sorted({str(listener.address) for config in configs for listener in _listeners(config)}))


def _listeners(config: Config) -> Iterator[Listener]:
    for pool in config.pools:
        yield from pool.listen


def outcomes(ruleset: Ruleset | Snapshot, packet: Packet, local: tuple[str, ...]) -> set[Outcome]:
    """The outcomes for all slots, on the fast path and on the ordinary path.

    While a listener gets the fast path on another interface, a packet may take the path of an interface that has it.
    """
    ways = {packet}
    if packet.interface:
        ways |= {replace(packet, interface=interface) for interface in ("ordinary", *INTERFACES)}
    found = set()
    for way in ways:

        def on_this_way(slot: int, way: Packet = way) -> tuple[set[Outcome], set[int]]:
            met, _, moduli = _outcomes(ruleset, way, local, slot, None)
            return met, moduli

        found |= _from_all_slots(on_this_way)
    return found


def outcomes_between(early: Snapshot, late: Snapshot, packet: Packet, local: tuple[str, ...]) -> set[Outcome]:
    """The outcomes for all slots, and for all moments of the change."""

    def at_all_moments(slot: int) -> tuple[set[Outcome], set[int]]:
        found, drawn = set(), set()
        moment, moments = 0, 1
        while moment < moments:
            met, moments, moduli = _outcomes(early, packet, local, slot, Swap(moment, late))
            found |= met
            drawn |= moduli
            moment += 1
        return found, drawn

    return _from_all_slots(at_all_moments)


def _from_all_slots(outcomes_of: Callable[[int], tuple[set[Outcome], set[int]]]) -> set[Outcome]:
    """The outcomes from all slots. `outcomes_of`: those of a slot, and the moduli of the numbers that were drawn.

    A slot in which each draw gives the same number as in an earlier slot has the outcomes of that slot.
    """
    found: set[Outcome] = set()
    drawn: dict[int, set[int]] = {}
    for slot in SLOTS:
        if not any(all(slot % modulus == other % modulus for modulus in moduli) for other, moduli in drawn.items()):
            met, drawn[slot] = outcomes_of(slot)
            found |= met
    return found


def _outcomes(
    ruleset: Ruleset | Snapshot, packet: Packet, local: tuple[str, ...], slot: int, swap: Swap | None
) -> tuple[set[Outcome], int, set[int]]:
    """The outcomes, the number of moments at which a swap can come, and the moduli of the numbers that were drawn."""
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
    return sent, journey.moments, tracer.moduli
