"""The steps of a transaction, each with its nft text. A transaction happens whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftlb.ruleset import element_text, set_body

if TYPE_CHECKING:
    from nftlb.ruleset import Chain, Element, Set, TableFamily


@dataclass(frozen=True, slots=True)
class AddTable:
    """Makes a table; `anew`: if it is there, all is refused, since then somebody else has just made it."""

    family: TableFamily
    anew: bool = True

    def text(self, table: str) -> str:
        return f"{'create' if self.anew else 'add'} table {self.family} {table}"


@dataclass(frozen=True, slots=True)
class DeleteTable:
    family: TableFamily

    def text(self, table: str) -> str:
        return f"delete table {self.family} {table}"


@dataclass(frozen=True, slots=True)
class AddChain:
    """Adds a chain without its rules."""

    family: TableFamily
    chain: Chain

    def text(self, table: str) -> str:
        hook = f" {{ {self.chain.hook} }}" if self.chain.hook else ""
        return f"add chain {self.family} {table} {self.chain.name}{hook}"


@dataclass(frozen=True, slots=True)
class FlushChain:
    """Removes a chain's rules."""

    family: TableFamily
    name: str

    def text(self, table: str) -> str:
        return f"flush chain {self.family} {table} {self.name}"


@dataclass(frozen=True, slots=True)
class AddRules:
    """Adds a chain's rules, after those it has."""

    family: TableFamily
    chain: Chain

    def text(self, table: str) -> str:
        return "\n".join(f"add rule {self.family} {table} {self.chain.name} {rule}" for rule in self.chain.rules)


@dataclass(frozen=True, slots=True)
class DeleteChain:
    """Deletes a chain that has no rules and that nothing refers to."""

    family: TableFamily
    name: str

    def text(self, table: str) -> str:
        return f"delete chain {self.family} {table} {self.name}"


@dataclass(frozen=True, slots=True)
class AddSet:
    """Adds a set or map without its elements."""

    family: TableFamily
    set: Set

    def text(self, table: str) -> str:
        return f"add {self.set.keyword} {self.family} {table} {self.set.name} {{ {'; '.join(set_body(self.set))} ; }}"


@dataclass(frozen=True, slots=True)
class DeleteSet:
    """Deletes a set that no rule refers to, with its elements."""

    family: TableFamily
    set: Set

    def text(self, table: str) -> str:
        return f"delete {self.set.keyword} {self.family} {table} {self.set.name}"


@dataclass(frozen=True, slots=True)
class AddElements:
    family: TableFamily
    set: str
    elements: tuple[Element, ...]

    def text(self, table: str) -> str:
        elements = ", ".join(map(element_text, self.elements))
        return f"add element {self.family} {table} {self.set} {{ {elements} }}"


@dataclass(frozen=True, slots=True)
class DeleteElements:
    family: TableFamily
    set: str
    elements: tuple[Element, ...]

    def text(self, table: str) -> str:
        keys = ", ".join(element.key for element in self.elements)
        return f"delete element {self.family} {table} {self.set} {{ {keys} }}"


Operation: TypeAlias = (
    AddTable
    | DeleteTable
    | AddChain
    | FlushChain
    | AddRules
    | DeleteChain
    | AddSet
    | DeleteSet
    | AddElements
    | DeleteElements
)


@dataclass(frozen=True)
class Transaction:
    """Operations on the tables of one name, all of which happen or none."""

    table: str
    operations: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)

    @property
    def text(self) -> str:
        """What `nft -f` would load to the same effect."""
        return "".join(f"{operation.text(self.table)}\n" for operation in self.operations)
