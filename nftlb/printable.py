r"""Makes text harmless that may hold anything: for logs, terminals and messages. No I/O.

What comes from backends, files and the kernel could else move a cursor, colour, hide or reorder what stands beside it
(U+202E), or begin a line that looks like one of ours. What can't be printed is shown as Python writes it: `\n`, `\x1b`,
`\u202e`, and a byte that was no UTF-8 as `\xff`.
"""

from __future__ import annotations

_BYTES = range(0xDC80, 0xDD00)
"""What bytes become that are no UTF-8 (PEP 383)."""


def printable(text: str, instead: str | None = None) -> str:
    """One line. `instead` stands for each character that can't be printed; without one, its number does."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _shown(one) if instead is None else instead for one in text)


def printable_lines(text: str) -> str:
    """Text whose own line ends and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _shown(character: str) -> str:
    if ord(character) in _BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
