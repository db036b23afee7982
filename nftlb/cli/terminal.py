"""Text for people: numbers and ages in few characters, colours, and tables that fit the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

UNLIMITED = 100_000
"""Columns of an output that is not a terminal: nothing is cut."""
GAP = "  "
"""Between two columns of a table."""


class Colour(StrEnum):
    """Parameters of ANSI's escape sequence for colours (SGR)."""

    GOOD = "32"
    WARNING = "33"
    BAD = "31"
    FAINT = "2"
    BOLD = "1"


@dataclass(frozen=True, slots=True)
class TextStyle:
    """What the output can show: `width` columns, colours or not, and symbols beyond ASCII or not."""

    width: int = 80
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, colour: Colour | None) -> str:
        """Colour a text if the output shows colours."""
        return f"\x1b[{colour}m{text}\x1b[0m" if colour is not None and self.colour and text.strip() else text

    def symbol(self, unicode: str, plain: str) -> str:
        return unicode if self.unicode else plain

    def cut(self, text: str, width: int) -> str:
        """Shorten a text to `width` columns. An ellipsis shows that something was cut."""
        if len(text) <= width:
            return text
        end = self.symbol("\N{HORIZONTAL ELLIPSIS}", "...")[: max(width, 0)]
        return text[: max(width - len(end), 0)] + end

    def encodable(self, text: str) -> str:
        """Replace characters that the output can't show by question marks."""
        return text if self.unicode else text.encode("ascii", "replace").decode("ascii")


def output_style() -> TextStyle:
    """The style for standard output. Output that is not a terminal is neither coloured nor, without COLUMNS, cut."""
    out = sys.stdout
    terminal = out is not None and out.isatty()
    columns = os.environ.get("COLUMNS", "")
    width = shutil.get_terminal_size().columns if terminal or columns.isdecimal() else UNLIMITED
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    encoding = (getattr(out, "encoding", None) or "ascii").lower().replace("-", "")
    return TextStyle(max(width, 20), colour, encoding.startswith("utf"))


_AGES = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


def age_text(seconds: float) -> str:
    """A duration in its two largest units: `2h13m`."""
    whole = max(int(seconds), 0)
    for unit, name, smaller, small_name in _AGES:
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit}{name}{rest}{small_name}" if rest else f"{whole // unit}{name}"
    return f"{whole}s"


def time_text(moment: datetime) -> str:
    """A moment in local time."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


_THOUSAND = 1000
_UNITS = "kMGTPE"


def number_text(number: float) -> str:
    """A number in at most five characters: `1234`, `12.3k`, `123M`."""
    if abs(number) < 10 * _THOUSAND:
        return f"{number:.0f}"
    number /= _THOUSAND
    power = 0
    while abs(number) >= _THOUSAND - 0.5 and power < len(_UNITS) - 1:
        number /= _THOUSAND
        power += 1
    return f"{number:.1f}{_UNITS[power]}" if abs(number) < 100 - 0.05 else f"{number:.0f}{_UNITS[power]}"


def share_text(share: float) -> str:
    return f"{100 * share:.1f}%"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, `right`-aligned or left-aligned.

    `least` is the width in columns down to which it may be cut; None: it is never cut. A `whole` column is left out
    instead of being cut. Columns with a number in `spare` are left out of a table that is still too wide, the lowest
    number first.
    """

    title: str
    right: bool = False
    least: int | None = None
    whole: bool = False
    spare: int = 0


class Cell(NamedTuple):
    text: str
    colour: Colour | None = None


def aligned_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], style: TextStyle, indent: str = ""
) -> list[str]:
    """The lines of a table, titles first. If it is wider than `style.width`, the last columns are cut first."""
    widths = [max([len(column.title), *(len(row[index].text) for row in rows)]) for index, column in enumerate(columns)]
    smallest = [_smallest(column, width) for column, width in zip(columns, widths, strict=True)]
    kept = list(range(len(columns)))

    def excess(sizes: Sequence[int]) -> int:
        return len(indent) + sum(sizes[index] for index in kept) + len(GAP) * (len(kept) - 1) - style.width

    for _, index in sorted((column.spare, index) for index, column in enumerate(columns) if column.spare):
        if excess(smallest) > 0:
            kept.remove(index)
    # Columns are cut after others were left out, and so no more than the rest needs.
    for index in reversed(kept):
        rest = excess(widths)
        if rest > 0:
            widths[index] = smallest[index] if columns[index].whole else max(widths[index] - rest, smallest[index])
    titles = [Cell(column.title) for column in columns]
    lines = ([(columns[index], widths[index], row[index]) for index in kept] for row in (titles, *rows))
    return [indent + _line(line, style) for line in lines]


def _smallest(column: Column, width: int) -> int:
    """The width down to which a column of this width may be cut."""
    if column.least is None:
        return width
    return 0 if column.whole else min(column.least, width)


def _line(line: Sequence[tuple[Column, int, Cell]], style: TextStyle) -> str:
    cells = []
    for column, width, cell in line:
        text = style.cut(cell.text, width)
        aligned = text.rjust(width) if column.right else text.ljust(width)
        cells.append(aligned.replace(text, style.paint(text, cell.colour), 1) if text.strip() else aligned)
    return GAP.join(cells).rstrip()
