"""From what the kernel has to what it should have, so that no packet notices. Pure.

A packet takes the rules of the generation in which it comes to a hook, but looks elements up in the generation of the
moment; and it may come to the next hook a generation later. Hence:

1. *make*: whatever is new is added, and rules without maps of their own are replaced. A rule is only ever led to
   something new; what packets that are under way still need is left in place, the rules of later hooks among it.
2. *break*: when they are through, what is left over is removed: first the elements by which packets come in
   (`entries()`), and when those packets are through, the rest.

An element that must change its data has to be away for a moment. Its map is therefore first rebuilt under another
name and the rules led there; when nothing looks at the map proper any more, it is put right and the rules are led
back: `waypoints()` says whether that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from nftlb.ruleset import UNREADABLE, Chain, Element, Ruleset, Set, Table, TableFamily, canonical_rule, is_empty, layers

from .operations import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
    Operation,
    Transaction,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

# Two, because a swap may find the rules on a detour that another did not live to end.
_DETOURS = ("-next", "-other")
_Named = TypeVar("_Named")


class Kind(Enum):
    """What can be left over."""

    TABLE = auto()
    SET = auto()
    ELEMENT = auto()
    CHAIN = auto()
    RULE = auto()


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that the kernel has and the target has not; `item` is an element's key, or a rule, of `name`."""

    kind: Kind
    family: TableFamily
    name: str = ""
    item: str = ""


def same_rules(left: Chain, right: Chain) -> bool:
    """Whether two chains do the same, whichever of them was read from the kernel."""
    if left is right or left.rules == right.rules:
        return True
    return len(left.rules) == len(right.rules) and all(
        canonical_rule(one) == canonical_rule(other) for one, other in zip(left.rules, right.rules, strict=True)
    )


def make(kernel: Ruleset, target: Ruleset, removed: Collection[Leftover] = ()) -> Transaction:
    """Everything but removals: after it, the kernel does what the target says. Rules among `removed` are not kept."""
    chains: list[Operation] = []
    sets: list[Operation] = []
    elements: list[Operation] = []
    rules: list[Operation] = []
    for family, wanted in target.tables.items():
        present = kernel.tables.get(family)
        if present is None:
            chains.append(AddTable(family))
            present = Table(family, target.name)
        if wanted is present:
            continue
        for chain in _differing(present.chains, wanted.chains):
            before = present.chains.get(chain.name)
            _make_chain(family, before, _with_kept_rules(family, before, chain, removed), chains, rules)
        for one in _differing(present.sets, wanted.sets):
            _make_set(family, present.sets.get(one.name), one, sets, elements)
    rules += (FlushChain(family, name) for family, present in kernel.tables.items() for name in _shut(present, target))
    return Transaction(target.name, (*chains, *sets, *elements, *rules))


def leftovers(kernel: Ruleset, target: Ruleset) -> Iterator[Leftover]:
    """What stays behind when `make` is done."""
    for family, present in kernel.tables.items():
        wanted = target.tables.get(family)
        if wanted is None:
            if not is_empty(present):  # ours never are: somebody is about to fill this table
                yield Leftover(Kind.TABLE, family)
            continue
        if wanted is present:
            continue
        for chain in _differing(wanted.chains, present.chains):
            successor = wanted.chains.get(chain.name)
            if successor is None:
                yield Leftover(Kind.CHAIN, family, chain.name)
            else:
                yield from (Leftover(Kind.RULE, family, chain.name, rule) for rule in _kept_rules(chain, successor))
        for one in _differing(wanted.sets, present.sets):
            name, other = one.name, wanted.sets.get(one.name)
            if other is None:
                yield Leftover(Kind.SET, family, name)
            yield from (Leftover(Kind.ELEMENT, family, name, element.key) for element in _left_in(one, other))


def entries(target: Ruleset, left: Iterable[Leftover]) -> list[Leftover]:
    """Those leftovers that still let packets in, to what else is left over; they have to go before it."""
    elements = [item for item in left if item.kind is Kind.ELEMENT]
    if not elements:
        return []
    found = {
        (family, name)
        for family, table in target.tables.items()
        for chain in table.chains.values()
        if _is_first(chain)
        for name in _looked_up(chain)
    }
    return [item for item in elements if (item.family, item.name) in found]


def removable(kernel: Ruleset, target: Ruleset, left: Collection[Leftover]) -> list[Leftover]:
    """Those leftovers that nothing else refers to when they are gone; of a part of all leftovers, that may be fewer."""
    if all(item.kind is not Kind.SET for item in left):
        return list(left)  # and no need to look at ten thousand chains
    rest = after(kernel, target, [item for item in left if item.kind is not Kind.SET])
    used = {
        (family, name)
        for family, table in rest.tables.items()
        for chain in table.chains.values()
        for name in _looked_up(chain)
    }
    return [item for item in left if item.kind is not Kind.SET or (item.family, item.name) not in used]


def remove(kernel: Ruleset, left: Collection[Leftover]) -> Transaction:
    """The *break*: removes what is left over, in an order in which nothing still refers to what goes.

    Rules are not removed here: `make` leaves them out.
    """
    flushes: list[Operation] = []
    elements: dict[tuple[TableFamily, str], list[Element]] = {}
    sets: list[Operation] = []
    chains: list[Operation] = []
    tables: list[Operation] = []
    whole = {(item.family, item.name) for item in left if item.kind is Kind.SET}
    for item in sorted(left, key=lambda item: (item.family, item.name, item.item)):
        match item.kind:
            case Kind.TABLE:
                tables.append(DeleteTable(item.family))
            case Kind.CHAIN:
                flushes.append(FlushChain(item.family, item.name))
                chains.append(DeleteChain(item.family, item.name))
            case Kind.SET:
                sets.append(DeleteSet(item.family, kernel.tables[item.family].sets[item.name]))
            case Kind.ELEMENT if (item.family, item.name) not in whole:
                elements.setdefault((item.family, item.name), []).append(Element(item.item))
    deletions = [DeleteElements(family, name, tuple(keys)) for (family, name), keys in elements.items()]
    return Transaction(kernel.name, (*flushes, *deletions, *sets, *chains, *tables))


def after(kernel: Ruleset, target: Ruleset, removed: Collection[Leftover] = ()) -> Ruleset:
    """What the kernel has after `make` towards the target and the removal of these leftovers."""
    gone = set(removed)
    tables = {}
    for family in TableFamily:
        present, wanted = kernel.tables.get(family), target.tables.get(family)
        table = wanted or present
        if present is not None and present is not wanted:
            table = _union(present, wanted, gone) if wanted is not None else present
            table = _emptied(table, _shut(present, target))
        if table is None or Leftover(Kind.TABLE, family) in gone:
            continue
        tables[family] = _without(table, [item for item in gone if item.family is family]) if gone else table
    return Ruleset(target.name, tables)


def waypoints(kernel: Ruleset, target: Ruleset) -> list[Ruleset]:
    """The rulesets to make one after the other, with nothing left over in between; the last is the target."""
    around = {}
    for family, wanted in target.tables.items():
        present = kernel.tables.get(family)
        conflicts = {} if present is None or present is wanted else _conflicts(present, wanted)
        around[family] = _detour(present, wanted, conflicts) if present is not None and conflicts else wanted
    return [target] if around == target.tables else [Ruleset(target.name, around), target]


def _differing(present: Mapping[str, _Named], wanted: Mapping[str, _Named]) -> list[_Named]:
    """What is wanted and not there as it is. A swap touches few of many thousand objects: the others are the same."""
    return layers(present).differing(layers(wanted))


def _is_first(chain: Chain) -> bool:
    """Whether packets meet the chain before any other of ours, so that nothing was done to them yet."""
    return " hook ingress " in chain.hook or (" priority raw;" in chain.hook and " hook postrouting " not in chain.hook)


def _kept_rules(present: Chain, wanted: Chain) -> list[str]:
    """The rules that a later hook keeps for packets that were treated according to them in an earlier one."""
    if not present.hook or _is_first(present) or present.hook != wanted.hook or same_rules(present, wanted):
        return []
    again = set(map(canonical_rule, wanted.rules))
    rules = (
        rule for rule in present.rules if not rule.startswith(UNREADABLE)
    )  # somebody else's, and not to be written
    return [rule for rule in rules if canonical_rule(rule) not in again]


def _with_kept_rules(family: TableFamily, present: Chain | None, chain: Chain, removed: Collection[Leftover]) -> Chain:
    kept = [] if present is None else _kept_rules(present, chain)
    kept = [rule for rule in kept if Leftover(Kind.RULE, family, chain.name, rule) not in removed]
    return replace(chain, rules=(*chain.rules, *kept)) if kept else chain


def _shut(present: Table, target: Ruleset) -> list[str]:
    """The first chains that are left over, as long as they have rules: no packet may come in by them any more."""
    wanted = target.tables.get(present.family)
    if wanted is present:
        return []
    there = wanted.chains if wanted else {}
    left = (chain for chain in _differing(there, present.chains) if chain.name not in there)
    return [chain.name for chain in left if chain.rules and _is_first(chain)]


def _looked_up(chain: Chain) -> set[str]:
    """The names of the sets that its rules refer to."""
    return {_set_name(word) for rule in chain.rules if "@" in rule for word in rule.split(" ") if word[:1] == "@"}


def _set_name(word: str) -> str:
    """The name in a word that refers to a set; ports may stand behind it: `snat to ... map @sources:1024-2047`."""
    return word[1:].partition(":")[0]


def _make_chain(
    family: TableFamily, present: Chain | None, chain: Chain, chains: list[Operation], rules: list[Operation]
) -> None:
    if present is not None and present.hook != chain.hook:
        chains += [FlushChain(family, chain.name), DeleteChain(family, chain.name)]
        present = None
    if present is None:
        chains.append(AddChain(family, chain))
    elif same_rules(present, chain):
        return
    elif present.rules:
        rules.append(FlushChain(family, chain.name))
    if chain.rules:
        rules.append(AddRules(family, chain))


def _make_set(
    family: TableFamily, present: Set | None, one: Set, sets: list[Operation], elements: list[Operation]
) -> None:
    if present is not None and not present.same_kind(one):
        sets.append(DeleteSet(family, present))
        present = None
    if present is None:
        sets.append(AddSet(family, one))
        present = Set(one.name, one.key_type)
    stale = _in_the_way(present, one)
    if stale:
        elements.append(DeleteElements(family, one.name, stale))
    there = {element.key for element in present.elements} - {element.key for element in stale}
    added = tuple(element for element in one.elements if element.key not in there)
    if added:
        elements.append(AddElements(family, one.name, added))


def _in_the_way(present: Set, one: Set) -> tuple[Element, ...]:
    """The elements that have to go before others can come."""
    if present.elements is one.elements:
        return ()
    wanted = {element.key: element for element in one.elements}
    # Intervals may overlap under different keys.
    every = one.interval and not wanted.keys() <= {element.key for element in present.elements}
    return tuple(
        element
        for element in present.elements
        if (element.key in wanted or every) and wanted.get(element.key) != element
    )


def _left_in(present: Set, wanted: Set | None) -> tuple[Element, ...]:
    """The elements that are still there when the set is as it is wanted, or isn't wanted and left alone."""
    if wanted is None:
        return present.elements
    if not present.same_kind(wanted) or present.elements is wanted.elements:
        return ()
    keys = {element.key for element in (*wanted.elements, *_in_the_way(present, wanted))}
    return tuple(element for element in present.elements if element.key not in keys)


def _conflicts(present: Table, wanted: Table) -> dict[str, Set]:
    """The sets that rules look up, and that can't get to what is wanted without being empty-handed for a moment."""
    found = {
        one.name: one
        for one in _differing(wanted.sets, present.sets)
        if (other := wanted.sets.get(one.name)) is not None and (not one.same_kind(other) or _in_the_way(one, other))
    }
    used = set().union(*map(_looked_up, present.chains.values())) if found else set()
    return {name: one for name, one in found.items() if name in used}


def _detour(present: Table, wanted: Table, conflicts: Mapping[str, Set]) -> Table:
    """The wanted table with its rules led to stand-ins of some sets; of those themselves, what may stay as it is."""
    used = set().union(*map(_looked_up, present.chains.values()))
    free = next(detour for detour in _DETOURS if not used & {name + detour for name in conflicts})
    sets = dict(wanted.sets)
    for name, one in conflicts.items():
        other = sets.pop(name)
        sets[name + free] = replace(other, name=name + free)
        if one.same_kind(other):
            again = set(other.elements)
            sets[name] = replace(one, elements=tuple(element for element in one.elements if element in again))
    led = {}
    for name, chain in wanted.chains.items():
        rules = tuple(_led_around(rule, conflicts, free) for rule in chain.rules)
        if rules != chain.rules:
            led[name] = replace(chain, rules=rules)
    return Table(wanted.family, wanted.name, sets, layers(wanted.chains).changed(led))


def _led_around(rule: str, names: Collection[str], detour: str) -> str:
    if "@" not in rule:
        return rule
    words = rule.split(" ")
    return " ".join(
        f"@{name}{detour}{word[1 + len(name) :]}" if word[:1] == "@" and (name := _set_name(word)) in names else word
        for word in words
    )


def _union(present: Table, wanted: Table, gone: Collection[Leftover]) -> Table:
    sets = {}
    for one in _differing(wanted.sets, present.sets):
        other = wanted.sets.get(one.name)
        left = _left_in(one, other)
        if other is None:
            sets[one.name] = one
        elif left:
            sets[one.name] = replace(other, elements=other.elements + left)
    kept = {}
    for chain in _differing(wanted.chains, present.chains):
        successor = wanted.chains.get(chain.name)
        kept[chain.name] = _with_kept_rules(wanted.family, chain, successor, gone) if successor else chain
    return replace(wanted, sets=layers(wanted.sets).changed(sets), chains=layers(wanted.chains).changed(kept))


def _emptied(table: Table, names: Collection[str]) -> Table:
    chains = {name: replace(table.chains[name], rules=()) for name in names}
    return replace(table, chains=layers(table.chains).changed(chains)) if names else table


def _without(table: Table, gone: Iterable[Leftover]) -> Table:
    chains: dict[str, Chain | None] = {}
    sets: dict[str, Set | None] = {}
    elements: dict[str, set[str]] = {}
    for item in gone:
        if item.kind is Kind.CHAIN:
            chains[item.name] = None
        elif item.kind is Kind.SET:
            sets[item.name] = None
        elif item.kind is Kind.ELEMENT:
            elements.setdefault(item.name, set()).add(item.item)
    for name, keys in elements.items():
        if name not in sets:
            left = tuple(element for element in table.sets[name].elements if element.key not in keys)
            sets[name] = replace(table.sets[name], elements=left)
    return replace(table, sets=layers(table.sets).changed(sets), chains=layers(table.chains).changed(chains))
