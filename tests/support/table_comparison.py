"""Brings tables to a comparable form: without counters, the order of elements and the base of numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from nftlb.ruleset import Chain, Element, NamedObject, Set, Table, TableFamily, canonical_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

Comparable: TypeAlias = dict[TableFamily, tuple[dict[str, NamedObject], dict[str, Set], dict[str, Chain]]]


def comparable(tables: Mapping[TableFamily, Table]) -> Comparable:
    return {family: (dict(table.objects), _sets(table), _chains(table)) for family, table in tables.items()}


def _sets(table: Table) -> dict[str, Set]:
    def key(element: Element) -> str:
        return element.key

    return {
        name: replace(nft_set, elements=tuple(sorted(nft_set.elements, key=key)))
        for name, nft_set in table.sets.items()
    }


def _chains(table: Table) -> dict[str, Chain]:
    return {name: replace(chain, rules=tuple(map(canonical_rule, chain.rules))) for name, chain in table.chains.items()}
