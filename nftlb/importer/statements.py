"""keepalived's syntax: lines to statements, each a line of words with perhaps a block. No I/O.

Quotes are " and ', a backslash in them escapes; a ' without a second one is a letter, as keepalived has it. Nothing
here recurses by what the text says, and its depth is limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .lines import MAX_DEPTH, Reading, Source, lines, plain
from .remark import Line, fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .draft import Notes
SHOWN = 200
"""So many characters of a statement are shown in a remark."""


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


@dataclass(slots=True)
class Statement:
    """`words` is never empty; `block` is None where there are no braces."""

    words: list[str]
    line: Line
    block: list[Statement] | None = None

    @property
    def key(self) -> str:
        return self.words[0]

    @property
    def values(self) -> list[str]:
        return self.words[1:]

    def __str__(self) -> str:
        return shortened(" ".join(self.words))


@dataclass
class _Parser:
    file: str
    root: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: list[tuple[Statement, list[Statement]]] = []
        self._here = self.root
        self._words: list[str] = []
        self._line = Line(0, self.file)

    def take(self, token: str | None, line: Line, *, brace: bool) -> None:
        """Take a word or a brace; None is the end of a line."""
        if token is None:
            self._finish()
        elif not brace:
            if not self._words:
                self._line = line
            self._words.append(token)
        elif token == "{":  # noqa: S105 - no password
            self._enter(line)
        else:
            self._finish()
            if not self._open:
                raise fault(self.file, line, "} closes nothing; allowed: one } for each {")
            self._here = self._open.pop()[1]

    def end(self, line: Line) -> list[Statement]:
        self._finish()
        if self._open:
            opened = self._open[-1][0]
            raise fault(self.file, opened.line, f"the block of {opened.key!r} is not closed by line {line}")
        return self.root

    def _finish(self) -> None:
        if self._words:
            self._here.append(Statement(self._words, self._line))
            self._words = []

    def _enter(self, line: Line) -> None:
        self._finish()
        if not self._here or self._here[-1].block is not None:
            raise fault(self.file, line, "{ follows no keyword; allowed: a keyword before each block")
        if len(self._open) == MAX_DEPTH:
            raise fault(self.file, line, f"blocks within blocks; allowed: at most {MAX_DEPTH} deep")
        opener = self._here[-1]
        opener.block = []
        self._open.append((opener, self._here))
        self._here = opener.block


def buried(statement: Statement) -> Iterator[Statement]:
    """The services and servers somewhere within a statement: those that a } too few, or too many, has put there."""
    waiting = list(reversed(statement.block or []))
    while waiting:
        one = waiting.pop()
        if one.key in {"virtual_server", "real_server"}:
            yield one
        waiting += reversed(one.block or [])


def parse(source: Source, reading: Reading, notes: Notes) -> list[Statement]:
    """Read a whole file; ConfigError tells the line of what is no syntax."""
    parser = _Parser(source.name)
    last = Line(source.text.count("\n") + 1, source.name)
    for line, text in lines(source, reading, notes):
        for token, brace in _tokens(text, line, notes):
            parser.take(token, line, brace=brace)
        parser.take(None, line, brace=False)
    return parser.end(last)


# --- words ------------------------------------------------------------------------------------------------------------

_ESCAPES = {"a": "\a", "b": "\b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|c(.)|(.))", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<brace>[{}])
    |(?P<quoted>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')
    |(?P<open>["'])
    |(?P<plain>\$\{[^{}\s]*\}|[^\s{}"'$\\]+|\\.|[$\\])""",
    re.VERBOSE | re.DOTALL,
)


def _tokens(text: str, line: Line, notes: Notes) -> Iterator[tuple[str, bool]]:
    """Words, and braces, which are told apart from words that look like them."""
    pieces: list[str] = []
    for match in _TOKEN.finditer(text):
        found = match[0]
        match match.lastgroup:
            case "plain":
                pieces.append(found)
                continue
            case "quoted":
                pieces.append(_ESCAPE.sub(_character, found[1:-1]))
                continue
            case "open":
                if found == '"':
                    raise fault(line.file, line, f"{found} is not closed; allowed: quotes that end on their line")
                notes.changed(line, f"{found} is not closed; it is taken for a letter")
                pieces.append(found)
                continue
        if pieces:
            yield plain("".join(pieces)), False
            pieces = []
        if match.lastgroup == "brace":
            yield found, True
    if pieces:
        yield plain("".join(pieces)), False


def _character(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    if match[2]:
        return chr(int(match[2], 8))
    if match[3]:
        return chr(ord(match[3]) & 0x1F)
    return _ESCAPES.get(match[4], match[4])
