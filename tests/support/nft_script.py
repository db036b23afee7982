"""Parses the two kinds of nft text that nftlb writes to operations, for the fake kernel.

The kinds are the file that `nft -f` loads, and the text of a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nft_listing import parse_hook, parse_table

from nftlb.errors import KernelError
from nftlb.ruleset import Chain, Element, Elements, NamedObject, Object, Operation, Rules, Set, Table, TableFamily, Verb

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_script(text: str) -> Iterator[tuple[str, Operation]]:
    """Yield each operation with the name of its table. Raises KernelError for text that can't be parsed."""
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
    """Yield the operations that add a table, in nft's order: objects come before references to them."""
    family, chains, sets = table.family, table.chains.values(), table.sets.values()
    operations: list[Operation] = [Operation(Verb.ADD, family)]
    operations += (Operation(Verb.ADD, family, chain) for chain in chains)
    operations += (Operation(Verb.ADD, family, one) for one in table.objects.values())
    operations += (Operation(Verb.ADD, family, nft_set) for nft_set in sets)
    operations += (Operation(Verb.ADD, family, Elements(nft_set.name, nft_set.elements)) for nft_set in sets)
    operations += (Operation(Verb.ADD, family, Rules(chain.name, chain.rules)) for chain in chains)
    yield from ((table.name, operation) for operation in operations)


def _command(line: str) -> tuple[str, Operation]:
    try:
        verb, rest = line.split(" ", 1)
        joined = rest.replace("ct ", "ct-", 1) if rest.startswith("ct ") else rest  # `ct timeout` is one kind
        kind, family_word, table, *other = joined.split(" ", 3) if verb != "table" else ("table", *rest.split(" "))
        family = TableFamily(family_word)
        name, _, body = other[0].partition(" ") if other else ("", "", "")
        return table, _operation("add" if verb == "table" else verb, kind, family, name, body)
    except ValueError:
        raise KernelError(f"nftables refused: syntax error: {line[:200]}") from None


def _operation(word: str, kind: str, family: TableFamily, name: str, body: str) -> Operation:
    return Operation(Verb(word), family, _object(word, kind, name, body))


def _object(verb: str, kind: str, name: str, body: str) -> Object | None:  # noqa: PLR0911 - a table of words
    match verb, kind:
        case "add" | "create" | "delete", "table":
            return None
        case "add" | "flush" | "delete", "chain":
            return Chain(name, (), parse_hook(_unbraced(body)) if body else None)
        case "add", "rule":
            return Rules(name, (body,))
        case "add", "set" | "map":
            return _declared(kind, name, *filter(None, map(str.strip, _unbraced(body).split(";"))))
        case "delete", "set" | "map":
            return Set(name, "", "?" if kind == "map" else "")
        case "add" | "delete", "ct-timeout" | "ct-helper":
            lines = filter(None, map(str.strip, _unbraced(body).split(";"))) if body else ()
            return NamedObject(kind.replace("-", " "), name, tuple(lines))
        case "add" | "delete", "element":
            return Elements(name, _elements(body))
    raise ValueError(verb)


def _declared(kind: str, name: str, *lines: str) -> Set:
    """Parse the lines of a declaration of a set, as those of a listing."""
    body = "".join(f"\t\t{line}\n" for line in lines)
    return parse_table(f"table ip _ {{\n\t{kind} {name} {{\n{body}\t}}\n}}").table.sets[name]


def _elements(body: str) -> tuple[Element, ...]:
    return tuple(_declared("set", "_", f"elements = {body}").elements)


def _unbraced(body: str) -> str:
    if not (body.startswith("{ ") and body.endswith(" }")):
        raise ValueError(body)
    return body[2:-2]
