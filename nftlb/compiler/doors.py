"""The chains and maps by which packets enter pools, for the layout that `layout.py` has chosen. Pure.

The rule of a service can draw the slot itself, without a chain in between. `drawing()` says which rules do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from nftlb.ruleset import Chain, Element, Set

from .layout import MOST_DIRECT, is_crowded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from .layout import Layout
    from .services import ServicePort
    from .words import Words

COMMENT_BYTES = 120
"""The longest comment of a rule. nft stores 128 bytes, including the final zero."""


class Body(NamedTuple):
    """The action of an entry chain that does the same for all packets, and its comment."""

    action: str
    about: str


class Entry(NamedTuple):
    """The rule of a service in one chain. `match` ends with a space, if it is not empty."""

    match: str
    chain: str
    owner: str
    about: str

    def rule(self, body: Body | None) -> str:
        """Return the rule, which does what `body` says, or leads to the chain of the service without a body."""
        action, about = (f"goto {self.chain}", self.owner) if body is None else (body.action, body.about)
        return f'{self.match}{action} comment "{joined(self.about, about)}"'


class Door(NamedTuple):
    """A chain with rules of services, which can draw slots themselves. `chain` has only its other rules."""

    chain: Chain
    entries: tuple[Entry, ...] = ()

    def open(self, entry: str = "", body: Body | None = None) -> Chain:
        """Return the chain, with the body of `entry`, if there is one, in the place of the way to that chain."""
        rules = (service.rule(body if service.chain == entry else None) for service in self.entries)
        return replace(self.chain, rules=(*rules, *self.chain.rules))


class Entrance(NamedTuple):
    """The doors of one kind of hook, and the chains that its maps lead to."""

    doors: tuple[Door, ...]
    in_maps: frozenset[str]

    @property
    def chains(self) -> frozenset[str]:
        """All chains that packets may go to from here."""
        return self.in_maps.union(service.chain for door in self.doors for service in door.entries)

    def drawing(self, fixed: Collection[str]) -> Iterator[tuple[str, Door]]:
        """Yield the doors that can draw slots, each with its entry chain. `fixed`: the chains that no swap changes.

        The services of a pool share its turns, so a pool with several services needs a chain that all of them go to. A
        swap replaces all rules of a door, and a replaced rule begins with the first slot again. So a door draws the
        slots of one pool only: otherwise, a swap of one pool would change the turns of the others.
        """
        entries = [[service.chain for service in door.entries if service.chain not in fixed] for door in self.doors]
        times = Counter(chain for of_door in entries for chain in of_door)
        for door, of_door in zip(self.doors, entries, strict=True):
            if len(of_door) == 1 and times[of_door[0]] == 1 and of_door[0] not in self.in_maps:
                yield of_door[0], door


class Drawn(NamedTuple):
    """An entry chain whose body is in the rules of these doors. `only`: no other packets go to the chain."""

    doors: tuple[Door, ...]
    only: bool

    def chains(self, entry: str, body: Body | None) -> Mapping[str, Chain | None]:
        """Return the chains of the doors, and None for the entry chain if no rule or map leads there."""
        found: dict[str, Chain | None] = {door.chain.name: door.open(entry, body) for door in self.doors}
        return found | {entry: None} if body and self.only else found


def drawing(entrances: Collection[Entrance], fixed: Collection[str]) -> Mapping[str, Drawn]:
    """Return the entry chains whose slots are drawn by doors. `fixed`: the chains that no swap changes."""
    doors: dict[str, list[Door]] = {}
    needed: set[str] = set()
    for entrance in entrances:
        found = dict(entrance.drawing(fixed))
        for chain, door in found.items():
            doors.setdefault(chain, []).append(door)
        needed |= entrance.chains - found.keys()
    return {chain: Drawn(tuple(of_chain), chain not in needed) for chain, of_chain in doors.items()}


class Finder(NamedTuple):
    """How a hook finds its services in one family.

    `prefix` and `suffix` are parts of the names of maps and chains; a chain of an address has the suffix only if the
    address is one of `own`. With `raw`, rules compare bits of the packet, and `raw` is the place of the destination.
    """

    words: Words
    layout: Layout
    prefix: str = ""
    suffix: str = ""
    raw: str = ""
    own: frozenset[str] = frozenset()

    def entries(self) -> tuple[Entry, ...]:
        """Return the rules of services in the base chain."""
        return tuple(
            Entry(
                f"{service.to_address}{service.match}",
                service.chain,
                service.owner,
                joined(self.layout.why, service.whole_meaning),
            )
            for service in self.layout.flat
        )

    def rules(self) -> tuple[str, ...]:
        """Return the rules of the base chain that find the other services."""
        layout = self.layout
        if layout.looks_addresses_up:
            field = f"{self.words.ip} daddr"
            comment = joined(layout.why, field if self.raw else "")
            return (f'{self.raw or field} vmap @{self._addresses} comment "{comment}"',)
        rules = (
            f'{found[0].to_address}jump {self._chain(address)} comment "{joined(layout.why, found[0].address_meaning)}"'
            for address, found in layout.addresses.items()
        )
        return (*rules, *self._look_ups(layout.looked_up, layout.why))

    def doors(self) -> Iterator[Door]:
        """Yield the chains of addresses. A packet for another port of the address goes on in the base chain."""
        for address, services in self.layout.addresses.items():
            name = self._chain(address)
            if is_crowded(services):
                yield Door(Chain(name, self._look_ups(services, f"over {MOST_DIRECT} services at the address")))
            else:
                entries = (Entry(service.match, service.chain, service.owner, service.meaning) for service in services)
                yield Door(Chain(name), tuple(entries))

    def sets(self) -> Iterator[Set]:
        """Yield the maps that the rules look up."""
        if self.layout.looks_addresses_up:
            # Without comments, an element stays the same when a service of the address comes or goes.
            elements = tuple(
                Element(f"{int(ip_address(address))}" if self.raw else address, f"jump {self._chain(address)}")
                for address in self.layout.addresses
            )
            key_type = f"typeof {self.raw}" if self.raw else f"type {self.words.address}"
            yield Set(self._addresses, key_type, "verdict", elements=elements, size=_room(elements))
        for name, ranged in self._maps:
            elements = tuple(service.element for service in self.layout.in_maps if service.ranged is ranged)
            if elements:
                size = 0 if ranged else _room(elements)
                yield Set(name, self.words.service_key, "verdict", interval=ranged, elements=elements, size=size)

    @property
    def in_maps(self) -> frozenset[str]:
        """The chains that the maps by address, protocol and port lead to."""
        return frozenset(service.chain for service in self.layout.in_maps)

    @property
    def _addresses(self) -> str:
        return f"{self.prefix}addresses{self.suffix}"

    @property
    def _maps(self) -> tuple[tuple[str, bool], ...]:
        """The names of the maps by address, protocol and port, and whether their keys have ranges of ports."""
        return (f"{self.prefix}services{self.suffix}", False), (f"{self.prefix}service-ranges{self.suffix}", True)

    def _chain(self, address: str) -> str:
        """Return the name of the chain of an address. A name can't contain the colons of IPv6 addresses."""
        suffix = self.suffix if address in self.own else ""
        return f"{self.prefix}address/{address.replace(':', '_')}{suffix}"

    def _look_ups(self, services: Sequence[ServicePort], why: str) -> tuple[str, ...]:
        key = f"{self.words.ip} daddr . {self.words.protocol} . th dport"
        kinds = {service.ranged for service in services}
        return tuple(f'{key} vmap @{name} comment "{why}"' for name, ranged in self._maps if ranged in kinds)


def _room(elements: Collection[Element]) -> int:
    """Return a size at least twice the number of elements: a set can't grow, and a new set is seldom needed."""
    return 2 << len(elements).bit_length()


def joined(*parts: str) -> str:
    """Return a comment of these parts, as long as a comment may be."""
    text = "; ".join(part for part in parts if part)
    return text if len(text) <= COMMENT_BYTES else f"{text[: COMMENT_BYTES - 3]}..."
