"""Objects as nft text: the file that `nft -f` loads, laid out as `nft -s list ruleset` lays it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .objects import TableFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .objects import Chain, Element, Ruleset, Set, Table

# Columns: `elements = { ` after two tabs of eight, as nft aligns what follows the first line.
_ELEMENT_INDENT = "\t\t\t     "


def file_text(ruleset: Ruleset) -> str:
    """The ruleset as a file that replaces, in one transaction, whatever tables of its name were there before.

    Adding a table before deleting it makes the deletion succeed whether or not the table was there.
    """
    lines = [
        "#!/usr/sbin/nft -f",
        "# Compiled by nftlb. Load it with `nft -f`; `nftlb apply` loads it without a gap.",
        "",
    ]
    for family in TableFamily:
        lines += [f"table {family} {ruleset.name}", f"delete table {family} {ruleset.name}"]
    for family in TableFamily:
        if family in ruleset.tables:
            lines += ["", *table_lines(ruleset.tables[family])]
    return "\n".join(lines) + "\n"


def table_lines(table: Table) -> Iterator[str]:
    """The block of one table: sets, then chains; a chain follows the one whose name its own begins with."""
    yield f"table {table.family} {table.name} {{"
    places = {name: place for place, name in enumerate(table.chains)}
    chains = sorted(table.chains.values(), key=lambda one: places.get(one.name.rpartition("/")[0], places[one.name]))
    blocks = [*map(_set_lines, table.sets.values()), *map(_chain_lines, chains)]
    for number, block in enumerate(blocks):
        if number:
            yield ""
        yield from block
    yield "}"


def element_text(element: Element) -> str:
    comment = f' comment "{element.comment}"' if element.comment else ""
    data = f" : {element.data}" if element.data else ""
    return f"{element.key}{comment}{data}"


def set_body(one: Set) -> list[str]:
    """What stands between the braces of a set's declaration, without its elements."""
    lines = [f"{one.key_type} : {one.data_type}" if one.data_type else one.key_type]
    if one.interval:
        lines.append("flags interval")
    if one.counter:
        lines.append("counter")
    return lines


def _set_lines(one: Set) -> Iterator[str]:
    yield f"\t{one.keyword} {one.name} {{"
    yield from (f"\t\t{line}" for line in set_body(one))
    if one.elements:
        first, *others = map(element_text, one.elements)
        texts = [f"\t\telements = {{ {first}", *(_ELEMENT_INDENT + text for text in others)]
        yield from (f"{text}," for text in texts[:-1])
        yield f"{texts[-1]} }}"
    yield "\t}"


def _chain_lines(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook:
        yield f"\t\t{chain.hook}"
    yield from (f"\t\t{rule}" for rule in chain.rules)
    yield "\t}"
