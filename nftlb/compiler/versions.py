"""Versions: how a pool's packets are spread over its targets, the only rules that change with membership.

The entry chain of a pool has one rule, which draws a slot and looks it up in a named map. The name of the map contains
a hash of its content. A swap adds the map of the new version, then replaces the rule, and deletes the map of the old
version when no packet can be in the old rule any more. A map inside the rule would lose packets: its elements go as
soon as the rule is replaced, and a packet that is in the rule at that moment finds no target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import WHOLE, Balance, FallbackKind, Protocol, RotationMode, server_id_places
from nftlb.ruleset import Chain, Element, MadeElements, Set, make_element

from .doors import COMMENT_BYTES, Body, joined
from .key_text import bits, hashed, match, readings
from .selection import MOST_SLOTS, SLOTS_PER_BACKEND, targets, weights_of_parts
from .slots import hash_size, hash_table, round_robin

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from nftlb.model import Family, Pool

    from .selection import Selection

MOST_MAPS = 1000
"""A configuration with more pools uses rules, and not a map, for pools with few slots (`MOST_RULES`).

To the kernel every map is a set of the table. When a set is added, the kernel walks the list of all sets several times.
With a map in each of 10,000 pools, a load takes a hundred times as long as with 1,000 pools. Rules have no such cost.
But a packet passes half of the rules on average, at some 17 ns each, while a map takes 17 ns for any number of slots.
"""
MOST_RULES = 4
"""The most slots for which rules are used. With four slots, rules cost a packet 15 ns more than a map."""


def turns(pool: Pool, family: Family, selection: Selection) -> tuple[int, ...]:
    """Return, for each slot, the index of its target in the selection; empty without targets."""
    weights = tuple([weight for _, weight in selection.targets])
    if pool.balance is Balance.HASH:
        names = tuple(target.owner for target, _ in selection.targets)
        return hash_table(names, weights, hash_size(len(targets(pool, family))))
    return round_robin(weights)


@dataclass(frozen=True)
class Version:
    """The chains and maps, by name, that spread packets for one state of a pool's backends.

    `bodies` has the entry chains that do the same for all packets.
    """

    chains: Mapping[str, Chain] = field(default_factory=dict)
    sets: Mapping[str, Set] = field(default_factory=dict)
    bodies: Mapping[str, Body] = field(default_factory=dict)

    def __or__(self, other: Version) -> Version:
        if not self.chains:
            return other
        return Version({**self.chains, **other.chains}, {**self.sets, **other.sets}, {**self.bodies, **other.bodies})


def version(
    entry: str,
    pool: Pool,
    family: Family,
    selection: Selection,
    *,
    many: bool,
    kind: str = "backend",
    otherwise: Sequence[str],
    first: Sequence[str] = (),
    matches: Sequence[tuple[str, str]] = (("", ""),),
    before: str = "",
    padded: bool = False,
) -> Version:
    """Return the entry chain of a pool, and its maps.

    `many`: the configuration has more than `MOST_MAPS` pools. `kind` is the prefix of the targets' chains, and
    `otherwise` are the rules if there is no target. `first` are rules for packets that take no turn. All others have to
    satisfy one of the matches. A match ends with a space, and comes with what it means. `before` is the part of the
    matches that the rule of a service does not have. `padded`: behind a packet there may be padding of its frame.
    """
    about = describe(selection)
    spread = by_server_id(entry, pool, selection, kind, padded=padded)
    if not selection.targets:
        spread = spread.before(Spread([(rule, "") for rule in otherwise]))
    else:
        spread = spread.before(_spread(entry, pool, family, selection, kind, many=many, padded=padded))
    chains = {}
    if selection.targets and len(spread.rules) > 1 and pool.balance is Balance.HASH and matches[0][0]:
        # One comparison of the match for all rules.
        behind = f"{entry}/keys"
        chains[behind] = Chain(behind, tuple(with_comment(*rule) for rule in spread.rules))
        spread = Spread([(f"goto {behind}", "")], spread.maps)
    spreading = tuple(
        with_comment(f"{fit}{rule}", comment)
        for fit, meaning in matches
        for rule, comment in _commented(spread.rules, meaning if selection.targets else "", about)
    )
    bodies = {}
    if len(spread.rules) == 1 and selection.targets and spread.movable and not first:
        rule, meaning = spread.rules[0]
        bodies[entry] = Body(f"{before}{rule}", joined(about, meaning))
    return Version({entry: Chain(entry, (*first, *spreading)), **chains}, {of.name: of for of in spread.maps}, bodies)


class Spread(NamedTuple):
    """Rules that spread packets, each with what it means, and the maps that the rules look up.

    `movable`: the rule means the same in a rule of a service.
    """

    rules: Sequence[tuple[str, str]]
    maps: tuple[Set, ...] = ()
    movable: bool = True

    def before(self, other: Spread) -> Spread:
        """Return the rules of both, these first."""
        return Spread((*self.rules, *other.rules), (*self.maps, *other.maps), self.movable and other.movable)


def by_server_id(entry: str, pool: Pool, selection: Selection, kind: str, *, padded: bool) -> Spread:
    """Return what leads packets by the server id in their connection id; without such targets, nothing.

    A connection stays with its backend while the backend may finish connections, whatever packets else it gets.
    """
    ids = {target.server_id: target for target in selection.identified if target.server_id is not None}
    if not ids:
        return Spread(())
    elements = tuple(
        Element(f"{int.from_bytes(server_id, 'big')}", f"goto {kind}/{target.owner}", target.name)
        for server_id, target in ids.items()
    )
    places = server_id_places(pool.quic_lb_config, len(next(iter(ids))))
    name = _map_name(entry, "server ids", *(f"{element.key} {element.data}" for element in elements))
    slot = Set(name, f"typeof {bits(places[0])}", "verdict", elements=elements, size=len(elements))
    rules = [
        (f"{match(place, padded=padded)}{bits(place)} vmap @{name}", f"server id, {place.about}") for place in places
    ]
    return Spread(rules, (slot,))


def _spread(
    entry: str, pool: Pool, family: Family, selection: Selection, kind: str, *, many: bool, padded: bool
) -> Spread:
    """Return what spreads packets over the targets, of which there are some."""
    choices = [f"goto {kind}/{target.owner}" for target, _ in selection.targets]
    if len(choices) == 1:
        return Spread([(choices[0], "")])
    slots = tuple(map(choices.__getitem__, turns(pool, family, selection)))
    if pool.balance is not Balance.HASH:
        return _in_turn(entry, "numgen random" if pool.balance is Balance.RANDOM else "numgen inc", slots, many=many)
    key = pool.key
    draws = [
        (f"{before}jhash {part} mod {len(slots)} seed {pool.seed:#x} vmap @", meaning)
        for before, part, meaning in readings(key, family, padded=padded)
    ]
    by_key = _slot_map(entry, f"jhash {hashed(key, family)}", slots)
    found = Spread([(f"{draw}{by_key.name}", meaning) for draw, meaning in draws], (by_key,), movable=not key.port)
    if not key.places:
        return found
    # Weights of a hash table are exact, but a cycle of turns has to be short.
    weights = tuple(weight for _, weight in selection.targets)
    most = max(MOST_SLOTS, SLOTS_PER_BACKEND * len(weights))
    cycle = round_robin(weights_of_parts(weights, (WHOLE,) * len(weights), most))
    rest = _in_turn(entry, "numgen inc", tuple(choices[index] for index in cycle), many=many)
    return found.before(Spread([(rule, "without a key: in turn") for rule, _ in rest.rules], rest.maps))


def _in_turn(entry: str, draw: str, slots: tuple[str, ...], *, many: bool) -> Spread:
    if many and len(slots) <= MOST_RULES:
        return Spread([(rule, "") for rule in _by_rules(draw, slots)])
    slot_map = _slot_map(entry, draw, slots)
    return Spread([(f"{draw} mod {len(slots)} vmap @{slot_map.name}", "")], (slot_map,))


def with_comment(text: str, comment: str) -> str:
    """Return a rule with a comment, unless the comment is empty."""
    return f'{text} comment "{comment}"' if comment else text


def _commented(rules: Sequence[tuple[str, str]], matched: str, about: str) -> Iterator[tuple[str, str]]:
    """Yield each rule with its comment: the first says what the match means, and what packets are spread over."""
    for index, (rule, meaning) in enumerate(rules):
        yield rule, joined(*((matched, about, meaning) if index == 0 else (meaning,)))


def refuse(selection: Selection, protocols: Collection[Protocol]) -> list[str]:
    """Return the rules of a pool without a target: drop packets, or reject them with an ICMP error or a reset."""
    if selection.verdict is FallbackKind.DROP:
        return ["counter drop"]
    reset = ["meta l4proto tcp counter reject with tcp reset"] if Protocol.TCP in protocols else []
    return [*reset, "counter reject"]


def describe(selection: Selection) -> str:
    """Return the selection as a comment of a rule, for instance `ns1 x5, ns2 x3`, or `priority 2: ns3`."""
    if not selection.targets:
        return f"no backend: {selection.verdict}"
    equal = len({weight for _, weight in selection.targets}) == 1
    text = ", ".join(target.name if equal else f"{target.name} x{weight}" for target, weight in selection.targets)
    which = str(selection.mode)
    if selection.mode is RotationMode.HEALTHY and len(selection.priorities) > 1:
        which = "all priorities" if selection.priority is None else f"priority {selection.priority}"
    if selection.mode is not RotationMode.HEALTHY or len(selection.priorities) > 1:
        text = f"{which}: {text}"
    return text if len(text) <= COMMENT_BYTES else f"{which}: {len(selection.targets)} backends"


def _slot_map(entry: str, draw: str, slots: tuple[str, ...]) -> Set:
    """Return the map from slots to verdicts.

    nft 1.1.7 writes the bytes of these keys in the wrong order, other versions do not. So the map has each slot twice,
    also with its bytes swapped. The key that is wrong in a version never matches, because no slot is so large. (A key
    of two fields, or an interval, would be right in all versions, but costs every packet more time.)
    """
    elements = _SlotElements(slots)
    return Set(
        _map_name(entry, draw, *slots),
        f"typeof numgen inc mod {len(slots)}",
        "verdict",
        elements=elements,
        size=len(elements),
    )


def _map_name(entry: str, *content: str) -> str:
    """Return the name of a map: maps of other content have other names."""
    return f"{entry}/{blake2b(chr(10).join(content).encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True, eq=False)
class _SlotElements(MadeElements):
    """The elements of a map from slots to verdicts. An element is made when it is read: large pools have thousands."""

    slots: tuple[str, ...]

    def __len__(self) -> int:
        return 2 * len(self.slots) - 1

    def __iter__(self) -> Iterator[Element]:
        return map(make_element, zip(_slot_keys(len(self.slots)), chain(self.slots, self.slots[1:]), repeat("")))

    @property
    def source(self) -> object:
        return self.slots


@lru_cache(maxsize=256)
def _slot_keys(slots: int) -> tuple[str, ...]:
    """Return the keys of all slots, then those of all slots but the first with their bytes swapped."""
    numbers = range(slots)
    return (*map(str, numbers), *(str(int.from_bytes(number.to_bytes(4, "little"), "big")) for number in numbers[1:]))


def _by_rules(draw: str, slots: Sequence[str]) -> tuple[str, ...]:
    """Return a rule for each slot. Of three slots, the first takes 1 of 3 packets, the second 1 of 2 of the rest.

    Order and shares are those of a map. The comparison is with 0, which is the same in any byte order.
    """
    left = range(len(slots), 1, -1)
    return (*(f"{draw} mod {count} 0 {choice}" for count, choice in zip(left, slots, strict=False)), slots[-1])
