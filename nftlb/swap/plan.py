"""The steps from the kernel's ruleset to the wanted ruleset, in an order that loses no packet. Pure.

A packet uses the rules of the generation in which it enters a hook, but looks up elements in the present generation;
and it may enter the next hook one generation later. Therefore:

1. *make*: everything new is added, and rules are replaced. A rule only ever starts to use something new. What packets
   in the hooks may still need stays in place, and so do the rules of later hooks.
2. *break*: when these packets have left the hooks, leftovers are deleted: first the elements by which packets enter
   (`entry_leftovers()`), and after another wait the rest.

The data of an element can't be changed in place: the element is missing for a moment. Its map is therefore first built
under another name, and the rules use that map. When no rule uses the first map any more, it is corrected, and the rules
use it again. `waypoints()` tells whether this detour is needed.

A list of a hundred thousand addresses takes seconds. `with_part()` adds such lists before the swap, in parts, to sets
that no rule uses yet, so that other swaps can come between the parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from nftlb.ruleset import (
    MARK,
    UNREADABLE,
    AddressRanges,
    Chain,
    Element,
    Elements,
    Operation,
    Rules,
    Ruleset,
    Set,
    SharedMapping,
    Table,
    TableFamily,
    Transaction,
    Verb,
    canonical_rule,
    is_empty,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

# Two names, because a swap may find the rules on the detour of another swap that did not end.
_DETOURS = ("-next", "-other")
PART = 1000
"""Ranges of addresses that are added in one transaction, in some 20 ms (nft 1.0.6 and Linux 6.18, 2026-11)."""
_REFERENCE = re.compile(r'\b(ct (?:timeout|helper)) set "?([^\s"]+)')
_Named = TypeVar("_Named")


class LeftoverKind(Enum):
    """The kinds of objects that can be left over."""

    TABLE = auto()
    SET = auto()
    ELEMENT = auto()
    OBJECT = auto()
    CHAIN = auto()
    RULE = auto()


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object that the kernel has and the target lacks. `item` is the key of an element, or a rule, of `name`.

    For an object other than tables, chains and sets, `name` is its key.
    """

    kind: LeftoverKind
    family: TableFamily
    name: str = ""
    item: str = ""


def same_rules(left: Chain, right: Chain) -> bool:
    """Whether two chains have the same rules, written or as the kernel lists them."""
    if left is right or left.rules == right.rules:
        return True
    return len(left.rules) == len(right.rules) and all(
        canonical_rule(left_rule) == canonical_rule(right_rule)
        for left_rule, right_rule in zip(left.rules, right.rules, strict=True)
    )


def make(kernel: Ruleset, target: Ruleset, removed: Collection[Leftover] = ()) -> Transaction:
    """All additions and replacements. With these, the kernel does what the target says. Drops the `removed` rules."""
    chains: list[Operation] = []
    objects: list[Operation] = []
    sets: list[Operation] = []
    elements: list[Operation] = []
    rules: list[Operation] = []
    for family, wanted in target.tables.items():
        present = kernel.tables.get(family)
        if present is None:
            chains.append(Operation(Verb.CREATE, family, wanted))
            continue
        if wanted is present:
            continue
        present = _make_objects(present, wanted, objects)
        for chain in _differing(present.chains, wanted.chains):
            before = present.chains.get(chain.name)
            _make_chain(family, before, _with_kept_rules(family, before, chain, removed), chains, rules)
        for set_ in _differing(present.sets, wanted.sets):
            _make_set(family, present.sets.get(set_.name), set_, sets, elements)
    rules += (
        Operation(Verb.FLUSH, family, Chain(name))
        for family, present in kernel.tables.items()
        for name in _shut(present, target)
    )
    return Transaction(target.name, (*chains, *objects, *sets, *elements, *rules))


def leftovers(kernel: Ruleset, target: Ruleset) -> Iterator[Leftover]:
    """Yield the objects that are left over after `make`."""
    for family, present in kernel.tables.items():
        wanted = target.tables.get(family)
        if wanted is None:
            if not is_empty(present):  # our tables are never empty: another program is about to fill this table
                yield Leftover(LeftoverKind.TABLE, family)
            continue
        if wanted is present:
            continue
        for chain in _differing(wanted.chains, present.chains):
            successor = wanted.chains.get(chain.name)
            if successor is None:
                yield Leftover(LeftoverKind.CHAIN, family, chain.name)
            else:
                yield from (
                    Leftover(LeftoverKind.RULE, family, chain.name, rule) for rule in _kept_rules(chain, successor)
                )
        for present_set in _differing(wanted.sets, present.sets):
            name, wanted_set = present_set.name, wanted.sets.get(present_set.name)
            if wanted_set is None:
                yield Leftover(LeftoverKind.SET, family, name)
                if not present_set.data_type:
                    continue  # its elements lead to no chain, and a list has a hundred thousand of them
            yield from (
                Leftover(LeftoverKind.ELEMENT, family, name, element.key)
                for element in _left_in(present_set, wanted_set)
            )
        yield from (Leftover(LeftoverKind.OBJECT, family, key) for key in present.objects if key not in wanted.objects)


def entry_leftovers(target: Ruleset, left: Iterable[Leftover]) -> list[Leftover]:
    """The leftovers by which packets still enter other leftovers. They have to be deleted first."""
    elements = [
        item
        for item in left
        # The target looks up no set that it does not have, for instance the map of an earlier version.
        if item.kind is LeftoverKind.ELEMENT and item.name in target.tables[item.family].sets
    ]
    if not elements:
        return []
    found = {(family, name) for family, table in target.tables.items() for name in _entry_sets(table)}
    return [item for item in elements if (item.family, item.name) in found]


def removable(kernel: Ruleset, target: Ruleset, left: Collection[Leftover]) -> list[Leftover]:
    """The leftovers that can be deleted, because no object that stays refers to them."""
    referred = (LeftoverKind.SET, LeftoverKind.OBJECT)
    if all(item.kind not in referred for item in left):
        return list(left)
    rest = after(kernel, target, [item for item in left if item.kind not in referred])
    used = {
        (family, name)
        for family, table in rest.tables.items()
        # The chains of the target refer to no leftover, and a table may have ten thousand of them.
        for chain in _differing(target.tables[family].chains if family in target.tables else {}, table.chains)
        for name in (*_looked_up(chain), *_referred(chain))
    }
    return [item for item in left if item.kind not in referred or (item.family, item.name) not in used]


def plan_removal(kernel: Ruleset, left: Collection[Leftover]) -> Transaction:
    """The *break*: deletes leftovers in an order in which no object refers to a deleted object.

    Rules are not deleted here: `make` leaves them out.
    """
    flushes: list[Operation] = []
    elements: dict[tuple[TableFamily, str], list[Element]] = {}
    sets: list[Operation] = []
    objects: list[Operation] = []
    chains: list[Operation] = []
    tables: list[Operation] = []
    whole = {(item.family, item.name) for item in left if item.kind is LeftoverKind.SET}
    for item in sorted(left, key=lambda item: (item.family, item.name, item.item)):
        match item.kind:
            case LeftoverKind.TABLE:
                tables.append(Operation(Verb.DELETE, item.family))
            case LeftoverKind.CHAIN:
                flushes.append(Operation(Verb.FLUSH, item.family, Chain(item.name)))
                chains.append(Operation(Verb.DELETE, item.family, Chain(item.name)))
            case LeftoverKind.SET:
                sets.append(Operation(Verb.DELETE, item.family, kernel.tables[item.family].sets[item.name]))
            case LeftoverKind.OBJECT:
                objects.append(Operation(Verb.DELETE, item.family, kernel.tables[item.family].objects[item.name]))
            case LeftoverKind.ELEMENT if (item.family, item.name) not in whole:
                elements.setdefault((item.family, item.name), []).append(Element(item.item))
    deletions = [
        Operation(Verb.DELETE, family, Elements(name, tuple(keys))) for (family, name), keys in elements.items()
    ]
    return Transaction(kernel.name, (*flushes, *deletions, *sets, *objects, *chains, *tables))


def after(kernel: Ruleset, target: Ruleset, removed: Collection[Leftover] = ()) -> Ruleset:
    """The ruleset in the kernel after `make` for the target and after the deletion of these leftovers."""
    gone = set(removed)
    tables = {}
    for family in TableFamily:
        present, wanted = kernel.tables.get(family), target.tables.get(family)
        table = wanted or present
        if present is not None and present is not wanted:
            table = _union(present, wanted, gone) if wanted is not None else present
            table = _emptied(table, _shut(present, target))
        if table is None or Leftover(LeftoverKind.TABLE, family) in gone:
            continue
        tables[family] = _without(table, [item for item in gone if item.family is family]) if gone else table
    return Ruleset(target.name, tables)


def waypoints(kernel: Ruleset, target: Ruleset) -> list[Ruleset]:
    """The rulesets to make, in order; the leftovers of each are deleted before the next. The last is the target."""
    around = {}
    for family, wanted in target.tables.items():
        present = kernel.tables.get(family)
        conflicts = {} if present is None or present is wanted else _conflicts(present, wanted)
        around[family] = _detour(present, wanted, conflicts) if present is not None and conflicts else wanted
    steps = [target] if around == target.tables else [Ruleset(target.name, around), target]
    found = []
    for step in steps:
        found += [*_with_new_ranges(kernel, step), step]
        kernel = step
    return found


def with_part(kernel: Ruleset, target: Ruleset) -> Ruleset | None:
    """The kernel's ruleset with further ranges of the target's sets, up to `PART`; None if none is missing.

    Sets that the kernel's rules use stay as they are. A table that the kernel lacks gets nothing but the sets and the
    mark of nftlb.
    """
    tables, room = dict(kernel.tables), PART
    for family, wanted in target.tables.items():
        present = _present(kernel, family)
        grown: dict[str, Set | None] = {}
        for wanted_set, ranges, missing in _incomplete(present, wanted):
            if not room:
                break
            there = len(ranges) - len(missing)
            grown[wanted_set.name] = replace(wanted_set, elements=ranges[: there + room])
            room -= min(room, len(missing))
        if grown:
            tables[family] = replace(present, sets=SharedMapping.of(present.sets).with_changes(grown))
    return None if room == PART else Ruleset(kernel.name, tables)


def _present(kernel: Ruleset, family: TableFamily) -> Table:
    """The kernel's table, or an empty one with the mark of nftlb, to which sets can be added before any rule."""
    return kernel.tables.get(family) or Table(family, kernel.name, chains={MARK.name: MARK})


def _incomplete(present: Table, wanted: Table) -> list[tuple[Set, AddressRanges, AddressRanges]]:
    """The wanted sets of ranges that no present rule uses, each with all its ranges and those that are missing."""
    found = []
    for wanted_set in _differing(present.sets, wanted.sets):
        ranges = wanted_set.elements
        if isinstance(ranges, AddressRanges):
            missing = _missing(present.sets.get(wanted_set.name), ranges)
            if missing is None or missing:
                found.append((wanted_set, ranges, ranges if missing is None else missing))
    there = {wanted_set.name for wanted_set, _, _ in found} & present.sets.keys()  # no rule uses a set that is missing
    used = _used(present, there)
    return [item for item in found if item[0].name not in used]


def _used(table: Table, names: Collection[str]) -> set[str]:
    """The sets to which rules refer, at least those with one of these names. Other chains are not split into words."""
    found = set[str]()
    for chain in table.chains.values() if names else ():
        text = "\n".join(chain.rules)
        if any(name in text for name in names):
            found |= _looked_up(chain)
    return found


def _missing(present: Set | None, ranges: AddressRanges) -> AddressRanges | None:
    """The ranges that a set lacks; None if the set has others than the first of these ranges."""
    there = present.elements if present else ()
    return ranges[len(there) :] if there == ranges[: len(there)] else None


def _with_new_ranges(kernel: Ruleset, target: Ruleset) -> list[Ruleset]:
    """The present ruleset with the new sets of ranges, if there are any that rules of packets at this moment may need.

    The kernel fills a set of ranges a moment after the rules of the same transaction are in force. A packet that meets
    the rules in between does not find its range. So the sets come one transaction before the rules.
    """
    tables = {}
    for family, wanted in target.tables.items():
        present = _present(kernel, family)
        new: dict[str, Set | None] = {
            new_set.name: new_set
            for new_set in _differing(present.sets, wanted.sets)
            if new_set.interval and not new_set.data_type and new_set.name not in present.sets
        }
        new |= {grown.name: grown for grown, _, _ in _incomplete(present, wanted)}
        if new:
            tables[family] = replace(present, sets=SharedMapping.of(present.sets).with_changes(new))
    return [Ruleset(kernel.name, {**kernel.tables, **tables})] if tables else []


def _differing(present: Mapping[str, _Named], wanted: Mapping[str, _Named]) -> list[_Named]:
    """The wanted objects that differ from the present objects. In a swap, most of many thousand are identical."""
    return SharedMapping.of(present).new_values(SharedMapping.of(wanted))


def _is_first(chain: Chain) -> bool:
    """Whether the chain is the first of our chains that packets meet."""
    return chain.hook is not None and chain.hook.is_first


def _entry_sets(table: Table) -> set[str]:
    """The sets that the first chains look up, and the chains that packets jump to from there or by these sets."""
    first = [chain for chain in table.chains.values() if _is_first(chain)]
    found = set[str]().union(*map(_looked_up, first))
    jumps = {rule.partition(" jump ")[2].partition(" ")[0] for chain in first for rule in chain.rules}
    for name in found & table.sets.keys():
        jumps |= {element.data.partition("jump ")[2] for element in table.sets[name].elements}
    return found.union(*(_looked_up(table.chains[name]) for name in jumps & table.chains.keys()))


def _kept_rules(present: Chain, wanted: Chain) -> list[str]:
    """The rules that a later hook keeps for packets that passed an earlier hook under the old rules."""
    if not present.hook or _is_first(present) or present.hook != wanted.hook or same_rules(present, wanted):
        return []
    again = set(map(canonical_rule, wanted.rules))
    rules = (
        rule for rule in present.rules if not rule.startswith(UNREADABLE)
    )  # rules of other programs, which we don't write
    return [rule for rule in rules if canonical_rule(rule) not in again]


def _with_kept_rules(family: TableFamily, present: Chain | None, chain: Chain, removed: Collection[Leftover]) -> Chain:
    kept = [] if present is None else _kept_rules(present, chain)
    kept = [rule for rule in kept if Leftover(LeftoverKind.RULE, family, chain.name, rule) not in removed]
    return replace(chain, rules=(*chain.rules, *kept)) if kept else chain


def _shut(present: Table, target: Ruleset) -> list[str]:
    """The first chains that are left over and still have rules: no packet may enter by them any more."""
    wanted = target.tables.get(present.family)
    if wanted is present:
        return []
    there = wanted.chains if wanted else {}
    left = (chain for chain in _differing(there, present.chains) if chain.name not in there)
    return [chain.name for chain in left if chain.rules and _is_first(chain)]


def _looked_up(chain: Chain) -> set[str]:
    """The names of the sets to which the rules of a chain refer."""
    return {_set_name(word) for rule in chain.rules if "@" in rule for word in rule.split(" ") if word[:1] == "@"}


def _referred(chain: Chain) -> set[str]:
    """The keys of the named objects to which the rules of a chain refer."""
    return {f"{found[1]} {found[2]}" for rule in chain.rules for found in _REFERENCE.finditer(rule)}


def _may_refer(chain: Chain, keys: Collection[str]) -> bool:
    """Whether a rule refers to one of these objects, or can't be read."""
    return not _referred(chain).isdisjoint(keys) or any(rule.startswith(UNREADABLE) for rule in chain.rules)


def _set_name(word: str) -> str:
    """The name in a word that refers to a set. Ports may follow the name: `snat to ... map @sources:1024-2047`."""
    return word[1:].partition(":")[0]


def _make_objects(present: Table, wanted: Table, objects: list[Operation]) -> Table:
    """Add and replace named objects. Returns the table with the chains that are empty by then.

    Only another program can have made an object with one of nftlb's names and other properties. The kernel deletes no
    object that a rule refers to, so the rules of these chains are deleted first, and written again in the same
    transaction.
    """
    new = [
        named_object
        for named_object in wanted.objects.values()
        if present.objects.get(named_object.key) != named_object
    ]
    stale = [present.objects[named_object.key] for named_object in new if named_object.key in present.objects]
    keys = {named_object.key for named_object in stale}
    emptied = [name for name, chain in present.chains.items() if _may_refer(chain, keys)] if keys else []
    objects += (Operation(Verb.FLUSH, present.family, Chain(name)) for name in emptied)
    objects += (Operation(Verb.DELETE, present.family, named_object) for named_object in stale)
    objects += (Operation(Verb.ADD, present.family, named_object) for named_object in new)
    return _emptied(present, emptied)


def _make_chain(
    family: TableFamily, present: Chain | None, chain: Chain, chains: list[Operation], rules: list[Operation]
) -> None:
    if present is not None and present.hook != chain.hook:
        chains += [Operation(Verb.FLUSH, family, chain), Operation(Verb.DELETE, family, chain)]
        present = None
    if present is None:
        chains.append(Operation(Verb.ADD, family, chain))
    elif same_rules(present, chain):
        return
    elif present.rules:
        rules.append(Operation(Verb.FLUSH, family, chain))
    if chain.rules:
        rules.append(Operation(Verb.ADD, family, Rules(chain.name, chain.rules)))


def _make_set(
    family: TableFamily, present: Set | None, wanted: Set, sets: list[Operation], elements: list[Operation]
) -> None:
    if present is not None and _is_replaced(present, wanted):
        sets.append(Operation(Verb.DELETE, family, present))
        present = None
    if present is None:
        # With its elements: for a separate `add element`, libnftables would first read all elements of sets of ranges.
        sets.append(Operation(Verb.ADD, family, wanted))
        return
    if isinstance(wanted.elements, AddressRanges):
        if missing := _missing(present, wanted.elements):
            # Not `add element`, for which libnftables would first read all elements of the set.
            sets.append(Operation(Verb.ADD, family, replace(wanted, elements=missing)))
        return
    if present.elements == wanted.elements:
        return
    stale = _in_the_way(present, wanted)
    if stale:
        elements.append(Operation(Verb.DELETE, family, Elements(wanted.name, stale)))
    there = {element.key for element in present.elements} - {element.key for element in stale}
    added = tuple(element for element in wanted.elements if element.key not in there)
    if added:
        elements.append(Operation(Verb.ADD, family, Elements(wanted.name, added)))


def _is_replaced(present: Set, wanted: Set) -> bool:
    """Whether the set must be deleted and added again, since its kind differs, or it has other ranges of addresses.

    The kernel deletes only ranges that were added like that, and a listing does not show how ranges were added: ranges
    that touch are read as one. A set has other ranges only if another program has changed it.
    """
    return not present.same_kind(wanted) or (
        isinstance(wanted.elements, AddressRanges) and _missing(present, wanted.elements) is None
    )


def _in_the_way(present: Set, wanted: Set) -> tuple[Element, ...]:
    """The elements that have to go before others can come."""
    if isinstance(wanted.elements, AddressRanges) or present.elements == wanted.elements:
        return ()
    new_elements = {element.key: element for element in wanted.elements}
    # Intervals may overlap under different keys.
    every = wanted.interval and not new_elements.keys() <= {element.key for element in present.elements}
    return tuple(
        element
        for element in present.elements
        if (element.key in new_elements or every) and new_elements.get(element.key) != element
    )


def _left_in(present: Set, wanted: Set | None) -> tuple[Element, ...]:
    """The elements that stay after the set has its wanted elements, or that stay in a set that is not wanted."""
    if wanted is None:
        return tuple(present.elements)
    if isinstance(wanted.elements, AddressRanges) or _is_replaced(present, wanted):
        return ()  # a set of ranges grows or is replaced
    if present.elements == wanted.elements:
        return ()
    keys = {element.key for element in (*wanted.elements, *_in_the_way(present, wanted))}
    return tuple(element for element in present.elements if element.key not in keys)


def _conflicts(present: Table, wanted: Table) -> dict[str, Set]:
    """The sets that rules look up, and whose change to the wanted elements would miss elements for a moment."""
    found = {
        present_set.name: present_set
        for present_set in _differing(wanted.sets, present.sets)
        if (wanted_set := wanted.sets.get(present_set.name)) is not None
        and (
            _is_replaced(present_set, wanted_set)
            or _in_the_way(present_set, wanted_set)
            or _too_many(present_set, wanted_set)
        )
    }
    used = set().union(*map(_looked_up, present.chains.values())) if found else set()
    return {name: set_ for name, set_ in found.items() if name in used}


def _too_many(present: Set, wanted: Set) -> bool:
    """Whether the set has no room for the wanted elements beside the present elements, which are deleted later."""
    if not wanted.size:
        return False
    return len({element.key for element in (*present.elements, *wanted.elements)}) > wanted.size


def _detour(present: Table, wanted: Table, conflicts: Mapping[str, Set]) -> Table:
    """The wanted table, whose rules use substitutes of some sets; and these sets with the elements that may stay."""
    used = set().union(*map(_looked_up, present.chains.values()))
    free = next(detour for detour in _DETOURS if not used & {name + detour for name in conflicts})
    sets = dict(wanted.sets)
    for name, present_set in conflicts.items():
        wanted_set = sets.pop(name)
        sets[name + free] = replace(wanted_set, name=name + free)
        if not _is_replaced(present_set, wanted_set):
            again = set(wanted_set.elements)
            sets[name] = replace(
                present_set, elements=tuple(element for element in present_set.elements if element in again)
            )
    led = {}
    for name, chain in wanted.chains.items():
        rules = tuple(_led_around(rule, conflicts, free) for rule in chain.rules)
        if rules != chain.rules:
            led[name] = replace(chain, rules=rules)
    return replace(wanted, sets=sets, chains=SharedMapping.of(wanted.chains).with_changes(led))


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
    for present_set in _differing(wanted.sets, present.sets):
        wanted_set = wanted.sets.get(present_set.name)
        if wanted_set is None:
            sets[present_set.name] = present_set
        elif left := _left_in(present_set, wanted_set):
            sets[present_set.name] = replace(wanted_set, elements=(*wanted_set.elements, *left))
    kept = {}
    for chain in _differing(wanted.chains, present.chains):
        successor = wanted.chains.get(chain.name)
        kept[chain.name] = _with_kept_rules(wanted.family, chain, successor, gone) if successor else chain
    return replace(
        wanted,
        objects={**present.objects, **wanted.objects},
        sets=SharedMapping.of(wanted.sets).with_changes(sets),
        chains=SharedMapping.of(wanted.chains).with_changes(kept),
    )


def _emptied(table: Table, names: Collection[str]) -> Table:
    chains = {name: replace(table.chains[name], rules=()) for name in names}
    return replace(table, chains=SharedMapping.of(table.chains).with_changes(chains)) if names else table


def _without(table: Table, gone: Iterable[Leftover]) -> Table:
    chains: dict[str, Chain | None] = {}
    sets: dict[str, Set | None] = {}
    elements: dict[str, set[str]] = {}
    objects = dict(table.objects)
    for item in gone:
        if item.kind is LeftoverKind.CHAIN:
            chains[item.name] = None
        elif item.kind is LeftoverKind.SET:
            sets[item.name] = None
        elif item.kind is LeftoverKind.OBJECT:
            objects.pop(item.name)
        elif item.kind is LeftoverKind.ELEMENT:
            elements.setdefault(item.name, set()).add(item.item)
    for name, keys in elements.items():
        if name not in sets:
            left = tuple(element for element in table.sets[name].elements if element.key not in keys)
            sets[name] = replace(table.sets[name], elements=left)
    return replace(
        table,
        sets=SharedMapping.of(table.sets).with_changes(sets),
        chains=SharedMapping.of(table.chains).with_changes(chains),
        objects=objects,
    )
