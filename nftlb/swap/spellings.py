"""Objects that the kernel reads back otherwise than they were written, though nobody else wrote. Pure.

A future nft may make other expressions of the same text. Taken for somebody else's edits, its rules would be written
anew at every look, and `diff` would never be clean. So what is read right after our own transaction stands for what
was written, until the kernel shows something else: that is an edit then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from nftlb.ruleset import Chain, Ruleset, Set, TableFamily, canonical_rule, layers

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from nftlb.ruleset import Table

_Object: TypeAlias = Chain | Set
_Name: TypeAlias = tuple[TableFamily, type[_Object], str]


@dataclass
class Spellings:
    """What the kernel showed right after our own transaction, and what had been written."""

    _written: dict[_Name, tuple[Hashable, _Object]] = field(default_factory=dict)

    @property
    def unrecognised(self) -> tuple[str, ...]:
        """The objects that don't read back as they are written."""
        return tuple(
            f"table {family}: {'chain' if kind is Chain else 'set'} {name}" for family, kind, name in self._written
        )

    def learn(self, listed: Ruleset, written: Ruleset) -> None:
        """Note what differs, nobody else having written in between."""
        self._written = {}
        for family, table in written.tables.items():
            shown = listed.tables.get(family)
            if shown is None:
                continue
            for name, ours in _objects(table):
                there = _of(shown, ours).get(name)
                if there is not None and _content(there) != _content(ours):
                    self._written[family, type(ours), name] = _content(there), ours

    def as_written(self, listed: Ruleset) -> Ruleset:
        """The ruleset with what was written in the place of what it is known to read back as."""
        if not self._written:
            return listed
        tables = dict(listed.tables)
        for (family, _, name), (shown, ours) in self._written.items():
            table = tables.get(family)
            there = _of(table, ours).get(name) if table else None
            if table is None or there is None or _content(there) != shown:
                continue
            if isinstance(ours, Chain):
                tables[family] = replace(table, chains=layers(table.chains).changed({name: ours}))
            else:
                tables[family] = replace(table, sets=layers(table.sets).changed({name: ours}))
        return Ruleset(listed.name, tables)


def _objects(table: Table) -> Iterator[tuple[str, _Object]]:
    yield from table.chains.items()
    yield from table.sets.items()


def _of(table: Table, one: _Object) -> Mapping[str, _Object]:
    return table.chains if isinstance(one, Chain) else table.sets


def _content(one: _Object) -> Hashable:
    """What two objects have to have in common to mean the same."""
    if isinstance(one, Chain):
        return one.hook, tuple(map(canonical_rule, one.rules))
    return replace(one, elements=()), frozenset(one.elements)
