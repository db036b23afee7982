"""The difference between the kernel's tables and the wanted tables, as text in the style of `diff -u`. Pure."""

from __future__ import annotations

from difflib import unified_diff
from itertools import islice
from typing import TYPE_CHECKING

from nftlb.ruleset import Chain, Set, TableFamily, canonical_rule, element_text, set_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nftlb.compiler import Hop
    from nftlb.ruleset import NamedObject, Ruleset

_WIDTH = 120


def difference(present: Ruleset, target: Ruleset) -> Iterator[str]:
    """Yield lines in the style of `diff -u`: `-` for text to delete, `+` for text to add.

    Each object that differs has its own section. The order of the elements of a set does not count.
    """
    for family in TableFamily:
        before, after = (_objects(ruleset, family) for ruleset in (present, target))
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            if one is other:  # rulesets of one configuration share the objects that are the same
                continue
            old, new = _lines(one), _lines(other)
            if old != new:
                yield f"@@ table {family} {target.name}: {name} @@"
                yield from _changes(old, new) if old and new else _whole("-" if old else "+", old or new)


def routing_difference(present: Mapping[int, Hop], wanted: Mapping[int, Hop]) -> Iterator[str]:
    """Yield the difference of the routing rules. A wanted hop without a device matches every device."""
    lines = []
    for mark in sorted(present.keys() | wanted.keys()):
        old, new = present.get(mark), wanted.get(mark)
        if old and new and old == new._replace(device=new.device or old.device):
            continue
        lines += [f"{sign}{_hop(mark, hop)}" for sign, hop in (("-", old), ("+", new)) if hop]
    if lines:
        yield "@@ ip rule @@"
        yield from lines


def _changes(old: list[str], new: list[str]) -> Iterator[str]:
    # The first two lines name files. The third line has line numbers, like all later lines that begin with @@.
    lines = islice(unified_diff(old, new, n=2, lineterm=""), 3, None)
    yield from ("  ..." if line.startswith("@@") else line for line in lines)


def _whole(sign: str, lines: list[str]) -> Iterator[str]:
    """Yield the lines of an object to add or delete. Long lines are cut: a rule may have a thousand slots."""
    yield from (sign + (line if len(line) <= _WIDTH else f"{line[: _WIDTH - 4]} ...") for line in lines)


def _objects(ruleset: Ruleset, family: TableFamily) -> Mapping[str, NamedObject | Set | Chain]:
    """The named objects, sets and chains of a table; keys are keyword and name."""
    table = ruleset.tables.get(family)
    if table is None:
        return {}
    objects = {named_object.key: named_object for named_object in table.objects.values()}
    sets = {f"{set_.keyword} {set_.name}": set_ for set_ in table.sets.values()}
    return {**objects, **sets, **{f"chain {chain.name}": chain for chain in table.chains.values()}}


def _lines(found: NamedObject | Set | Chain | None) -> list[str]:
    match found:
        case None:
            return []
        case Chain():
            return _chain_lines(found)
        case Set():
            return _set_lines(found)
    return _object_lines(found)


def _object_lines(named_object: NamedObject) -> list[str]:
    return [named_object.key, *named_object.properties]


def _set_lines(set_: Set) -> list[str]:
    return [f"{set_.keyword} {set_.name}", *set_body(set_), *sorted(map(element_text, set_.elements))]


def _chain_lines(chain: Chain) -> list[str]:
    return [f"chain {chain.name}", *([str(chain.hook)] if chain.hook else []), *map(canonical_rule, chain.rules)]


def _hop(mark: int, hop: Hop) -> str:
    return f"fwmark {mark} {hop}"
