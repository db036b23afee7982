"""nft text, of the two kinds that nftlb writes, as the operations it stands for: for a kernel that is only imagined.

The kinds are the file that `nft -f` loads, and the text of a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.errors import KernelError
from nftlb.ruleset import Chain, Element, Set, Table, TableFamily, parse_table
from nftlb.swap.operations import (
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
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_script(text: str) -> Iterator[tuple[str, Operation]]:
    """Each operation with the name of the table that it is for. KernelError for what can't be read."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("table ") and line.endswith("{"):
            block = [line, *_until_end(lines)]
            yield from _table_operations(parse_table("\n".join(block)).table)
        elif line.strip() and not line.startswith("#"):
            yield _command(line)


def _until_end(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line == "}":
            return
    raise KernelError("nftables refused: syntax error: a table is not closed")


def _table_operations(table: Table) -> Iterator[tuple[str, Operation]]:
    """In nft's own order: what is referred to comes first."""
    family, chains, sets = table.family, table.chains.values(), table.sets.values()
    operations: list[Operation] = [AddTable(family, anew=False)]
    operations += (AddChain(family, chain) for chain in chains)
    operations += (AddSet(family, one) for one in sets)
    operations += (AddElements(family, one.name, one.elements) for one in sets)
    operations += (AddRules(family, chain) for chain in chains)
    yield from ((table.name, operation) for operation in operations)


def _command(line: str) -> tuple[str, Operation]:
    try:
        verb, rest = line.split(" ", 1)
        kind, family_word, table, *other = rest.split(" ", 3) if verb != "table" else ("table", *rest.split(" "))
        family = TableFamily(family_word)
        name, _, body = other[0].partition(" ") if other else ("", "", "")
        return table, _operation("add" if verb == "table" else verb, kind, family, name, body)
    except ValueError:
        raise KernelError(f"nftables refused: syntax error: {line[:200]}") from None


def _operation(verb: str, kind: str, family: TableFamily, name: str, body: str) -> Operation:  # noqa: C901, PLR0911 - a table
    match verb, kind:
        case "add" | "create", "table":
            return AddTable(family, anew=verb == "create")
        case "delete", "table":
            return DeleteTable(family)
        case "add", "chain":
            return AddChain(family, Chain(name, (), _unbraced(body) if body else ""))
        case "flush", "chain":
            return FlushChain(family, name)
        case "add", "rule":
            return AddRules(family, Chain(name, (body,)))
        case "delete", "chain":
            return DeleteChain(family, name)
        case "add", "set" | "map":
            return AddSet(family, _declared(kind, name, *filter(None, map(str.strip, _unbraced(body).split(";")))))
        case "delete", "set" | "map":
            return DeleteSet(family, Set(name, "", "?" if kind == "map" else ""))
        case "add", "element":
            return AddElements(family, name, _elements(body))
        case "delete", "element":
            return DeleteElements(family, name, _elements(body))
    raise ValueError(verb)


def _declared(kind: str, name: str, *lines: str) -> Set:
    """A set by the lines of its declaration, read like those of a listing."""
    body = "".join(f"\t\t{line}\n" for line in lines)
    return parse_table(f"table ip _ {{\n\t{kind} {name} {{\n{body}\t}}\n}}").table.sets[name]


def _elements(body: str) -> tuple[Element, ...]:
    return _declared("set", "_", f"elements = {body}").elements


def _unbraced(body: str) -> str:
    if not (body.startswith("{ ") and body.endswith(" }")):
        raise ValueError(body)
    return body[2:-2]
