"""What the kernel has against what it should have, as text that people know how to read. Pure."""

from __future__ import annotations

from difflib import unified_diff
from itertools import islice
from typing import TYPE_CHECKING

from nftlb.ruleset import TableFamily, canonical_rule, element_text, set_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nftlb.compiler import Hop
    from nftlb.ruleset import Chain, Ruleset, Set

_WIDTH = 120


def difference(present: Ruleset, target: Ruleset) -> Iterator[str]:
    """Lines in the manner of `diff -u`: what has to go begins with `-`, what has to come with `+`.

    Each object that differs has a part of its own; the order of a set's elements is no difference.
    """
    for family in TableFamily:
        before, after = (_objects(ruleset, family) for ruleset in (present, target))
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name, []), after.get(name, [])
            if old != new:
                yield f"@@ table {family} {target.name}: {name} @@"
                yield from _changes(old, new) if old and new else _whole("-" if old else "+", old or new)


def steering_difference(present: Mapping[int, Hop], wanted: Mapping[int, Hop]) -> Iterator[str]:
    """The same for what is done with marked packets; a wanted hop without a device may have any."""
    lines = []
    for mark in sorted(present.keys() | wanted.keys()):
        old, new = present.get(mark), wanted.get(mark)
        if old and new and old.via == new.via and new.device in ("", old.device):
            continue
        lines += [f"{sign}{_hop(mark, hop)}" for sign, hop in (("-", old), ("+", new)) if hop]
    if lines:
        yield "@@ ip rule @@"
        yield from lines


def _changes(old: list[str], new: list[str]) -> Iterator[str]:
    # The first two lines name files, the third tells line numbers, as does every further one that begins with @@.
    lines = islice(unified_diff(old, new, n=2, lineterm=""), 3, None)
    yield from ("  ..." if line.startswith("@@") else line for line in lines)


def _whole(sign: str, lines: list[str]) -> Iterator[str]:
    """An object that comes or goes; of a rule with a thousand slots the beginning is enough."""
    yield from (sign + (line if len(line) <= _WIDTH else f"{line[: _WIDTH - 4]} ...") for line in lines)


def _objects(ruleset: Ruleset, family: TableFamily) -> Mapping[str, list[str]]:
    """The lines of each set and chain of a table, by keyword and name."""
    table = ruleset.tables.get(family)
    if table is None:
        return {}
    sets = {f"{one.keyword} {one.name}": _set_lines(one) for one in table.sets.values()}
    return sets | {f"chain {chain.name}": _chain_lines(chain) for chain in table.chains.values()}


def _set_lines(one: Set) -> list[str]:
    return [f"{one.keyword} {one.name}", *set_body(one), *sorted(map(element_text, one.elements))]


def _chain_lines(chain: Chain) -> list[str]:
    return [f"chain {chain.name}", *([chain.hook] if chain.hook else []), *map(canonical_rule, chain.rules)]


def _hop(mark: int, hop: Hop) -> str:
    return f"fwmark {mark} via {hop.via}{f' dev {hop.device}' if hop.device else ''}"
