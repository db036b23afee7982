"""How packets find the pool of their service: by rules, by the address first, or by one look-up for all. Pure.

A rule compares fields with constants. The kernel does this inline, at some 6 ns for a comparison, and most packets fail
the first comparison. A look-up of address, protocol and port takes 40 to 60 ns, for any number of services; a look-up
of an IPv4 address takes a third of that. So `choose()` has four forms, by the number of services of a hook:

- a few services: a rule for each;
- a few addresses: a rule for each address, which leads to the chain of the address;
- more addresses: one look-up of the address, which leads to the same chains;
- more addresses and very many pools: one look-up of address, protocol and port.

The chain of an address has a rule for each service, or a look-up if the address has many services. `doors.py` has the
rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .services import ServicePort

MOST_DIRECT = 4
"""The most services of a hook, or of an address, for which rules are used. More rules cost more than a look-up."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The form of the rules for the services of a hook, and the reason.

    `flat` are services with a rule each. `addresses` are the services that are found by the address first;
    `looked_up` are found by one look-up for all.
    """

    why: str = ""
    flat: tuple[ServicePort, ...] = ()
    addresses: Mapping[str, Sequence[ServicePort]] = field(default_factory=dict)
    looked_up: Sequence[ServicePort] = ()

    @property
    def looks_addresses_up(self) -> bool:
        """Whether the address is looked up; otherwise each address has a rule."""
        return len(self.addresses) > MOST_DIRECT

    @property
    def in_maps(self) -> Sequence[ServicePort]:
        """The services that are looked up by address, protocol and port."""
        crowded = (service for services in self.addresses.values() if is_crowded(services) for service in services)
        return (*self.looked_up, *crowded)


def is_crowded(services: Sequence[ServicePort]) -> bool:
    """Whether the services of an address are looked up; otherwise each has a rule in the chain of the address."""
    return len(services) > MOST_DIRECT


def choose(services: Mapping[str, ServicePort], *, many: bool = False) -> Layout:
    """Choose the form for services by their keys; `many`: chains for every address would make loads slow."""
    number = len(services)
    if number <= MOST_DIRECT:
        why = "1 service" if number == 1 else f"1 of {number} services"
        return Layout(why, flat=_ordered(services.values()))
    addresses: dict[str, list[ServicePort]] = {}
    for service in services.values():
        addresses.setdefault(service.address, []).append(service)
    # The reasons are without the numbers: the rules stay the same when a service comes or goes.
    if len(addresses) <= MOST_DIRECT:
        why = f"over {MOST_DIRECT} services, up to {MOST_DIRECT} addresses"
    elif many:
        return Layout("very many pools: one look-up for all", looked_up=(*services.values(),))
    else:
        why = f"over {MOST_DIRECT} addresses"
    return Layout(why, addresses={address: _ordered(found) for address, found in addresses.items()})


def _ordered(services: Iterable[ServicePort]) -> tuple[ServicePort, ...]:
    # Packets for the ports that stand for ports of this host (aliases) are rare, so their rules come last.
    return tuple(sorted(services, key=lambda service: "/" not in service.chain))
