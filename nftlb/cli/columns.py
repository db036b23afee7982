"""Tables for people: aligned, and cut to the width of the terminal. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.cli.looks import Looks, Style

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """`least` is the width down to which it may be cut; None: it is never cut. `whole`: it vanishes rather."""

    title: str
    right: bool = False
    least: int | None = None
    whole: bool = False


class Cell(NamedTuple):
    text: str
    style: Style | None = None


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], looks: Looks, indent: str = "") -> list[str]:
    """The lines of a table, its titles first. Of columns that may be cut the last ones are cut first."""
    widths = [max([len(column.title), *(len(row[index].text) for row in rows)]) for index, column in enumerate(columns)]
    excess = len(indent) + sum(widths) + len(GAP) * (len(columns) - 1) - looks.width
    for index in reversed(range(len(columns))):
        least = columns[index].least
        if excess > 0 and least is not None:
            cut = widths[index] if columns[index].whole else min(excess, max(widths[index] - least, 0))
            widths[index] -= cut
            excess -= cut
    titles = [Cell(column.title) for column in columns]
    return [indent + _line(columns, widths, row, looks) for row in (titles, *rows)]


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell], looks: Looks) -> str:
    cells = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        text = looks.cut(cell.text, width)
        aligned = text.rjust(width) if column.right else text.ljust(width)
        cells.append(aligned.replace(text, looks.paint(text, cell.style), 1) if text.strip() else aligned)
    return GAP.join(cells).rstrip()
