"""Versions: how a pool's packets are spread over its targets, the only rules that change with membership.

The entry chain of a pool has one rule, which draws a slot and looks it up in a named map. The name of the map contains
a hash of its content. A swap adds the map of the new version, then replaces the rule, and deletes the map of the old
version when no packet can be in the old rule any more. A map inside the rule would lose packets: its elements go as
soon as the rule is replaced, and a packet that is in the rule at that moment finds no target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, overload

from nftlb.model import Balance, FallbackKind, Protocol, RotationMode
from nftlb.ruleset import Chain, Element, Set

from .doors import COMMENT_BYTES, Body, joined
from .selection import targets
from .slots import hash_size, hash_table, round_robin
from .words import WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
# Any constant. Without it the kernel would draw a new seed at every load, and clients would change backends.
HASH_SEED = "0x6e66746c"


def turns(pool: Pool, family: Family, selection: Selection) -> tuple[int, ...]:
    """Return, for each slot, the index of its target in the selection; empty without targets."""
    weights = tuple(weight for _, weight in selection.targets)
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
    matches: Sequence[tuple[str, str]] = (("", ""),),
) -> Version:
    """Return the entry chain of a pool, and its map if there is one.

    `many`: the configuration has more than `MOST_MAPS` pools. `kind` is the prefix of the targets' chains, and
    `otherwise` are the rules if there is no target. A packet has to satisfy one of the matches. A match ends with a
    space, and comes with what it means.
    """
    about = describe(selection)
    if not selection.targets:
        refused = _with_comment(otherwise, about)
        return Version({entry: Chain(entry, tuple(match + rule for match, _ in matches for rule in refused))})
    choices = [f"goto {kind}/{target.owner}" for target, _ in selection.targets]
    sets = {}
    if len(choices) == 1:
        rules = choices
    else:
        slots = tuple(choices[index] for index in turns(pool, family, selection))
        draw = _draw(pool, family)
        if many and len(slots) <= MOST_RULES and pool.balance is not Balance.HASH:
            rules = [*_by_rules(draw, slots)]
        else:
            slot_map = _slot_map(entry, draw, slots)
            seed = f" seed {HASH_SEED}" if pool.balance is Balance.HASH else ""
            sets[slot_map.name] = slot_map
            rules = [f"{draw} mod {len(slots)}{seed} vmap @{slot_map.name}"]
    entry_chain = Chain(
        entry,
        tuple(match + rule for match, meaning in matches for rule in _with_comment(rules, joined(meaning, about))),
    )
    return Version({entry: entry_chain}, sets, {entry: Body(rules[0], about)} if len(rules) == 1 else {})


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


def _with_comment(rules: Sequence[str], about: str) -> tuple[str, ...]:
    first, *others = rules
    return (f'{first} comment "{about}"', *others)


def _draw(pool: Pool, family: Family) -> str:
    """Return the expression that draws a slot, up to the number of slots."""
    match pool.balance:
        case Balance.HASH:
            return f"jhash {WORDS[family].ip} saddr"
        case Balance.RANDOM:
            return "numgen random"
        case Balance.ROUND_ROBIN:
            return "numgen inc"


def _slot_map(entry: str, draw: str, slots: tuple[str, ...]) -> Set:
    """Return the map from slots to verdicts.

    nft 1.1.7 writes the bytes of these keys in the wrong order, other versions do not. So the map has each slot twice,
    also with its bytes swapped. The key that is wrong in a version never matches, because no slot is so large. (A key
    of two fields, or an interval, would be right in all versions, but costs every packet more time.)
    """
    elements = _SlotElements(slots)
    content = "\n".join((draw, *slots)).encode()
    name = f"{entry}/{blake2b(content, digest_size=4).hexdigest()}"
    return Set(name, f"typeof numgen inc mod {len(slots)}", "verdict", elements=elements, size=len(elements))


@dataclass(frozen=True, slots=True, eq=False)
class _SlotElements(Sequence[Element]):
    """The elements of a map from slots to verdicts. An element is made when it is read: large pools have thousands."""

    slots: tuple[str, ...]

    def __len__(self) -> int:
        return 2 * len(self.slots) - 1

    def __iter__(self) -> Iterator[Element]:
        return map(Element, _slot_keys(len(self.slots)), chain(self.slots, self.slots[1:]))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _SlotElements):
            return self.slots == other.slots
        return tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    @overload
    def __getitem__(self, index: int) -> Element: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Element]: ...
    def __getitem__(self, index: int | slice) -> Element | Sequence[Element]:
        return tuple(self)[index]


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
