"""Objects that the kernel lists in another form than they were written, although no other program wrote. Pure.

A future nft may make other expressions from the same text. If these counted as edits by others, nftlb would write its
rules again and again, and `nftlb diff` would never be empty. Therefore the form that is listed right after our own
transaction stands for the form that was written. When the kernel lists a third form, that counts as an edit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from nftlb.ruleset import Chain, Ruleset, Set, SharedMapping, TableFamily, canonical_rule

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Mapping

    from nftlb.ruleset import Table

_Object: TypeAlias = Chain | Set
_Name: TypeAlias = tuple[TableFamily, type[_Object], str]


@dataclass
class Spellings:
    """Pairs of the listed form, read right after our own transaction, and the written form."""

    _written: dict[_Name, tuple[Hashable, _Object]] = field(default_factory=dict)

    @property
    def unrecognised(self) -> tuple[str, ...]:
        """The objects that are listed in another form than they were written."""
        return tuple(
            f"table {family}: {'chain' if kind is Chain else 'set'} {name}" for family, kind, name in self._written
        )

    def learn(self, listed: Ruleset, written: Ruleset) -> None:
        """Record the objects that differ. Call this only if no other program wrote in between."""
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
        """Replace known listed forms in a ruleset by the forms that were written."""
        if not self._written:
            return listed
        tables = dict(listed.tables)
        for (family, _, name), (shown, ours) in self._written.items():
            table = tables.get(family)
            there = _of(table, ours).get(name) if table else None
            if table is None or there is None or _content(there) != shown:
                continue
            if isinstance(ours, Chain):
                tables[family] = replace(table, chains=SharedMapping.of(table.chains).with_changes({name: ours}))
            else:
                tables[family] = replace(table, sets=SharedMapping.of(table.sets).with_changes({name: ours}))
        return Ruleset(listed.name, tables)


def unknown_nft(unrecognised: Collection[str]) -> str:
    """A warning about objects that the kernel lists in another form than they were written."""
    some = "; ".join(list(unrecognised)[:3]) + ("; ..." if len(unrecognised) > 3 else "")  # noqa: PLR2004
    return (
        f"the kernel lists {len(unrecognised)} of our objects in another form than they were just written ({some}): "
        "nftlb does not know this version of nft. It accepts the listed form as long as that does not change; "
        "`nftlb diff` shows a difference"
    )


def _objects(table: Table) -> Iterator[tuple[str, _Object]]:
    yield from table.chains.items()
    yield from table.sets.items()


def _of(table: Table, chain_or_set: _Object) -> Mapping[str, _Object]:
    return table.chains if isinstance(chain_or_set, Chain) else table.sets


def _content(chain_or_set: _Object) -> Hashable:
    """A value that is equal for two objects that mean the same."""
    if isinstance(chain_or_set, Chain):
        return chain_or_set.hook, tuple(map(canonical_rule, chain_or_set.rules))
    return replace(chain_or_set, elements=()), frozenset(chain_or_set.elements)
