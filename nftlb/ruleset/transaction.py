"""Transactions: operations on the tables of one name, with their nft text. The kernel carries out all or none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .objects import Chain, Element, NamedObject, Set, Table
from .text import element_text, set_body, table_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .objects import TableFamily


class Verb(StrEnum):
    """The verbs of nft that nftlb uses.

    `ADD` succeeds if the object is there already with the same properties. `CREATE` fails then: another program has
    just made the object. `FLUSH` removes the rules of a chain. `DELETE` fails while something refers to the object.
    """

    ADD = "add"
    CREATE = "create"
    FLUSH = "flush"
    DELETE = "delete"


class Rules(NamedTuple):
    """Rules to add to a chain, after those that it has."""

    chain: str
    rules: tuple[str, ...]


class Elements(NamedTuple):
    """Elements to add to a set or map, or to delete; for a deletion, their keys suffice."""

    set: str
    elements: Sequence[Element]


Object: TypeAlias = Chain | Set | NamedObject | Rules | Elements | Table


class Operation(NamedTuple):
    """A verb and its object in the table of a family; without an object, the table itself.

    A chain is added without its rules, which are a separate object (`Rules`). A set is added with its elements; further
    elements are a separate object (`Elements`). Only a `Table` is created with its whole content. libnftables and the
    kernel take a third less time for one table than for an operation for each chain and rule.
    """

    verb: Verb
    family: TableFamily
    object: Object | None = None

    def text(self, table: str) -> str:
        """Return the operation as nft text, without a newline at the end."""
        where = f"{self.family} {table}"
        match self.object:
            case None | Table() as whole:
                return "\n".join((f"{self.verb} table {where}", *(table_lines(whole) if whole else ())))
            case Chain(name=name, hook=hook):
                declared = f" {{ {hook} }}" if hook and self.verb is Verb.ADD else ""
                return f"{self.verb} chain {where} {name}{declared}"
            case Set(name=name, keyword=keyword) as declaration:
                if self.verb is Verb.ADD:
                    elements = [f"elements = {_elements(declaration.elements)}"] if declaration.elements else []
                    name += f" {{ {'; '.join([*set_body(declaration), *elements])} ; }}"
                return f"{self.verb} {keyword} {where} {name}"
            case NamedObject(kind=kind, name=name, properties=properties):
                declared = f" {{ {'; '.join(properties)} ; }}" if self.verb is Verb.ADD else ""
                return f"{self.verb} {kind} {where} {name}{declared}"
            case Rules(chain=chain, rules=rules):
                return "\n".join(f"{self.verb} rule {where} {chain} {rule}" for rule in rules)
            case Elements(set=name, elements=elements):
                keys = elements if self.verb is Verb.ADD else map(Element, (element.key for element in elements))
                return f"{self.verb} element {where} {name} {_elements(keys)}"


def _elements(elements: Iterable[Element]) -> str:
    return f"{{ {', '.join(map(element_text, elements))} }}"


@dataclass(frozen=True)
class Transaction:
    """Operations on the tables of one name. The kernel carries out all of them or none."""

    table: str
    operations: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)

    @cached_property
    def text(self) -> str:
        """The transaction as text that has the same effect when `nft -f` loads it."""
        return "".join(f"{operation.text(self.table)}\n" for operation in self.operations)
