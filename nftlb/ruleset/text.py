"""Objects as nft text: a file for `nft -f`, in the layout of `nft -s list ruleset`."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from .objects import TableFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .objects import Chain, Element, NamedObject, Ruleset, Set, Table

# nft aligns elements with the first one, which follows two tabs of 8 columns and `elements = { `.
_ELEMENT_INDENT = "\t\t\t     "
_ELEMENTS_WIDTH = 90
_PIECE_PARTS = 128
_PART_LINES = 16


def file_text(ruleset: Ruleset) -> str:
    """Return the ruleset as a file that replaces all tables of its name in one transaction."""
    return "".join(file_pieces(ruleset))


def file_pieces(ruleset: Ruleset) -> Iterator[str]:
    """Yield `file_text` in pieces of some thousand lines: the whole text may take more memory than the ruleset."""
    parts = file_lines(ruleset)
    while piece := list(islice(parts, _PIECE_PARTS)):
        yield "\n".join((*piece, ""))


def file_lines(ruleset: Ruleset) -> Iterator[str]:
    """Yield the parts of `file_text`, without the newline at their end: a line, some lines of elements, or a chain.

    Each table is added before it is deleted, so that the deletion succeeds also if there was no table.
    """
    yield "#!/usr/sbin/nft -f"
    yield "# Compiled by nftlb. Load it with `nft -f`; `nftlb apply` loads it without a gap."
    yield ""
    for family in TableFamily:
        yield f"table {family} {ruleset.name}"
        yield f"delete table {family} {ruleset.name}"
    for family in TableFamily:
        if family in ruleset.tables:
            yield ""
            yield from table_lines(ruleset.tables[family])


def table_lines(table: Table) -> Iterator[str]:
    """Yield the parts of one table, as `file_lines`: named objects, sets, then chains."""
    yield f"table {table.family} {table.name} {{"
    between = ""
    for block in chain(map(_object_lines, table.objects.values()), map(_set_lines, table.sets.values())):
        if between:
            yield ""
        yield from block
        between = "\n"
    for one_chain in table.chains.values():
        yield between + _chain_text(one_chain)
        between = "\n"
    yield "}"


def element_text(element: Element) -> str:
    """Return an element as nft text."""
    comment = f' comment "{element.comment}"' if element.comment else ""
    data = f" : {element.data}" if element.data else ""
    return f"{element.key}{comment}{data}"


def set_body(set_: Set) -> list[str]:
    """Return the lines between the braces of a set's declaration, without elements."""
    lines = [f"{set_.key_type} : {set_.data_type}" if set_.data_type else set_.key_type]
    if set_.size:
        lines.append(f"size {set_.size}")
    if set_.interval:
        lines.append("flags interval")
    if set_.dynamic:
        lines.append("flags dynamic,timeout")
    if set_.counter:
        lines.append("counter")
    return lines


def _object_lines(named_object: NamedObject) -> Iterator[str]:
    yield f"\t{named_object.key} {{"
    yield from (f"\t\t{line}" for line in named_object.properties)
    yield "\t}"


def _set_lines(set_: Set) -> Iterator[str]:
    yield f"\t{set_.keyword} {set_.name} {{"
    yield from (f"\t\t{line}" for line in set_body(set_))
    if set_.elements:
        # In parts of some lines: a set may have 40,000 elements, and the daemon writes texts in slices.
        filled, begin, part = _filled_lines(set_.elements), "\t\telements = { ", ""
        while lines := f",\n{_ELEMENT_INDENT}".join(islice(filled, _PART_LINES)):
            if part:
                yield f"{part},"
            begin, part = _ELEMENT_INDENT, f"{begin}{lines}"
        yield f"{part} }}"
    yield "\t}"


def _filled_lines(elements: Iterable[Element]) -> Iterator[str]:
    """Yield lines: an element with a comment has a separate line; as many other elements as fit share a line."""
    line = ""
    for key, data, comment in elements:
        if comment:
            if line:
                yield line
                line = ""
            yield f'{key} comment "{comment}" : {data}' if data else f'{key} comment "{comment}"'
            continue
        text = f"{key} : {data}" if data else key
        if not line:
            line = text
        elif len(line) + len(text) <= _ELEMENTS_WIDTH:
            line = f"{line}, {text}"
        else:
            yield line
            line = text
    if line:
        yield line


def _chain_text(chain: Chain) -> str:
    lines = chain.rules if chain.hook is None else (str(chain.hook), *chain.rules)
    body = "\n\t\t".join((f"\tchain {chain.name} {{", *lines))
    return f"{body}\n\t}}"
