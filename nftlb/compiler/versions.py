"""Who gets a pool's packets now: the only chains that change with membership.

An entry chain leads to the chain of the present version, which picks the chain of a backend. Rules with maps must never
be replaced: a packet on its way through the old rule would look for elements that have just gone. So they live in a
chain whose name tells its content, made before and removed after the rule of the entry chain, which has no map, is
replaced.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from nftlb.model import Balance, FallbackKind, Protocol
from nftlb.ruleset import Chain

from .membership import Why, targets
from .slots import hash_size, hash_table, round_robin
from .words import WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from nftlb.model import Family, Pool

    from .membership import Selection

# nft keeps 128 bytes of a comment, its closing zero among them.
_COMMENT_BYTES = 120
MOST_MAPS = 1000
"""A configuration with more pools tells few slots (`MOST_RULES`) apart by rules, and not by a map.

To the kernel every map is a set of the table. When a set is added, the kernel walks the list of all sets several times,
and for a map inside a rule the list of all changes of the transaction: with a map in each of 10,000 pools, a load takes
a hundred times as long as with 1,000. Rules have no such cost. But a packet meets half of the rules on average, at some
17 ns each, while a map takes 17 ns for any number of slots.
"""
MOST_RULES = 4
"""The most slots that rules tell apart: with four, rules cost a packet 15 ns more than a map."""
# Any constant: without one the kernel would draw a new seed at every load, and the clients would change places.
HASH_SEED = "0x6e66746c"


def wheel(pool: Pool, family: Family, selection: Selection) -> tuple[int, ...]:
    """For each slot, the index of its target in the selection; empty without targets."""
    weights = tuple(weight for _, weight in selection.targets)
    if pool.balance is Balance.HASH:
        names = tuple(target.owner for target, _ in selection.targets)
        return hash_table(names, weights, hash_size(len(targets(pool, family))))
    return round_robin(weights)


def versions(
    entry: str,
    pool: Pool,
    family: Family,
    selection: Selection,
    *,
    many: bool,
    kind: str = "backend",
    otherwise: Sequence[str],
    guards: Sequence[str] = ("",),
) -> dict[str, Chain]:
    """The entry chain and the chain of this version, by name.

    `many`: whether the configuration has more than `MOST_MAPS` pools. `kind` is the prefix of the targets' chains,
    `otherwise` the rules where there is no target. A packet enters past one of the guards (matches that end with a
    blank).
    """
    rules = _pick(pool, family, selection, kind, many=many) if selection.targets else tuple(otherwise)
    version = f"{entry}/{blake2b(chr(10).join(rules).encode(), digest_size=4).hexdigest()}"
    jump = f'goto {version} comment "{describe(selection)}"'
    return {entry: Chain(entry, tuple(guard + jump for guard in guards)), version: Chain(version, rules)}


def refuse(selection: Selection, protocols: Collection[Protocol]) -> list[str]:
    """The rules of a pool without a target."""
    if selection.verdict is FallbackKind.DROP:
        return ["counter drop"]
    reset = ["meta l4proto tcp counter reject with tcp reset"] if Protocol.TCP in protocols else []
    return [*reset, "counter reject"]


def describe(selection: Selection) -> str:
    """The selection as a rule's comment: `ns1 x5, ns2 x3`."""
    if not selection.targets:
        return f"no backend: {selection.verdict}"
    equal = len({weight for _, weight in selection.targets}) == 1
    text = ", ".join(target.name if equal else f"{target.name} x{weight}" for target, weight in selection.targets)
    if selection.why is not Why.HEALTHY:
        text = f"{selection.why}: {text}"
    return text if len(text) <= _COMMENT_BYTES else f"{selection.why}: {len(selection.targets)} backends"


def _pick(pool: Pool, family: Family, selection: Selection, kind: str, *, many: bool) -> tuple[str, ...]:
    """The rules that lead a packet to its slot's target."""
    choices = [f"goto {kind}/{target.owner}" for target, _ in selection.targets]
    if len(choices) == 1:
        return (choices[0],)
    slots = [choices[index] for index in wheel(pool, family, selection)]
    match pool.balance:
        case Balance.HASH:
            return (_by_map(f"jhash {WORDS[family].ip} saddr mod {len(slots)} seed {HASH_SEED}", slots),)
        case Balance.RANDOM:
            draw = "numgen random mod"
        case Balance.ROUND_ROBIN:
            draw = "numgen inc mod"
    if many and len(slots) <= MOST_RULES:
        return _by_rules(draw, slots)
    return (_by_map(f"{draw} {len(slots)}", slots),)


def _by_map(draw: str, slots: Sequence[str]) -> str:
    elements = ", ".join(f"{slot} : {choice}" for slot, choice in enumerate(slots))
    return f"{draw} vmap {{ {elements} }}"


def _by_rules(draw: str, slots: Sequence[str]) -> tuple[str, ...]:
    """A rule for each slot: of three slots, the first takes one packet in three, the second one in two of the rest.

    The order is that of a map, and so are the shares. The comparison is with 0, which is the same in any byte order.
    """
    left = range(len(slots), 1, -1)
    return (*(f"{draw} {count} 0 {choice}" for count, choice in zip(left, slots, strict=False)), slots[-1])
