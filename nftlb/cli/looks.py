"""How text for people looks where it goes: how wide, whether in colour, with which symbols."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum

ENDLESS = 100_000


class Style(StrEnum):
    """What ANSI terminals know."""

    GOOD = "32"
    WARNING = "33"
    BAD = "31"
    FAINT = "2"
    BOLD = "1"


@dataclass(frozen=True, slots=True)
class Looks:
    """`width` is in columns; `unicode`: symbols may be other than ASCII."""

    width: int = 80
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, style: Style | None) -> str:
        """Colour a text, if colours are wanted."""
        return f"\x1b[{style}m{text}\x1b[0m" if style is not None and self.colour and text.strip() else text

    def symbol(self, unicode: str, plain: str) -> str:
        return unicode if self.unicode else plain

    def cut(self, text: str, width: int) -> str:
        """Shorten a text to `width` columns, and show that it was."""
        if len(text) <= width:
            return text
        end = self.symbol("\N{HORIZONTAL ELLIPSIS}", "...")[: max(width, 0)]
        return text[: max(width - len(end), 0)] + end

    def fit(self, text: str) -> str:
        """Make a text writable."""
        return text if self.unicode else text.encode("ascii", "replace").decode("ascii")


def looks() -> Looks:
    """What suits standard output: nothing is cut, and nothing coloured, that does not go to a terminal."""
    out = sys.stdout
    terminal = out is not None and out.isatty()
    columns = os.environ.get("COLUMNS", "")
    width = shutil.get_terminal_size().columns if terminal or columns.isdecimal() else ENDLESS
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    encoding = (getattr(out, "encoding", None) or "ascii").lower().replace("-", "")
    return Looks(max(width, 20), colour, encoding.startswith("utf"))


_AGES = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


def age(seconds: float) -> str:
    """How long ago, in the two largest units: `2h13m`."""
    whole = max(int(seconds), 0)
    for unit, name, smaller, small_name in _AGES:
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit}{name}{rest}{small_name}" if rest else f"{whole // unit}{name}"
    return f"{whole}s"


_THOUSAND = 1000
_UNITS = "kMGTPE"


def short(number: float) -> str:
    """A number in at most five characters: `1234`, `12.3k`, `123M`."""
    if abs(number) < 10 * _THOUSAND:
        return f"{number:.0f}"
    number /= _THOUSAND
    power = 0
    while abs(number) >= _THOUSAND - 0.5 and power < len(_UNITS) - 1:
        number /= _THOUSAND
        power += 1
    return f"{number:.1f}{_UNITS[power]}" if abs(number) < 100 - 0.05 else f"{number:.0f}{_UNITS[power]}"


def per_cent(share: float) -> str:
    return f"{100 * share:.1f}%"
