"""keepalived's syntax: text to statements, each a line of words with perhaps a block. No I/O.

Comments begin with # or !, quotes are ' and ", a backslash in them escapes, $NAME=VALUE defines what ${NAME} and $NAME
stand for. Nothing here recurses by what the text says; depth and what definitions expand to are limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .remark import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 32
MAX_LINE = 1 << 16
MAX_LINES = 1 << 20


@dataclass(slots=True)
class Statement:
    """`words` is never empty; `block` is None where there are no braces."""

    words: list[str]
    line: int
    block: list[Statement] | None = None

    @property
    def key(self) -> str:
        return self.words[0]

    @property
    def values(self) -> list[str]:
        return self.words[1:]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass
class _Parser:
    file: str
    root: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: list[tuple[Statement, list[Statement]]] = []
        self._here = self.root
        self._words: list[str] = []
        self._line = 0

    def take(self, token: str | None, line: int, *, brace: bool) -> None:
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

    def end(self, line: int) -> list[Statement]:
        self._finish()
        if self._open:
            opened = self._open[-1][0]
            raise fault(self.file, opened.line, f"the block of {opened.key!r} is not closed by line {line}")
        return self.root

    def _finish(self) -> None:
        if self._words:
            self._here.append(Statement(self._words, self._line))
            self._words = []

    def _enter(self, line: int) -> None:
        self._finish()
        if not self._here or self._here[-1].block is not None:
            raise fault(self.file, line, "{ follows no keyword; allowed: a keyword before each block")
        if len(self._open) == MAX_DEPTH:
            raise fault(self.file, line, f"blocks within blocks; allowed: at most {MAX_DEPTH} deep")
        opener = self._here[-1]
        opener.block = []
        self._open.append((opener, self._here))
        self._here = opener.block


def parse(text: str, file: str) -> list[Statement]:
    """Read a whole file; ConfigError tells the line of what is no syntax."""
    parser = _Parser(file)
    number = 0
    for number, line in _lines(text, file):
        for token, brace in _tokens(line, number, file):
            parser.take(token, number, brace=brace)
        parser.take(None, number, brace=False)
    return parser.end(number)


# --- lines ------------------------------------------------------------------------------------------------------------

_DEFINITION = re.compile(r"\s*\$([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_USE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)(?=\s|$)")
_BUILT_IN = {"_HASH": "\ue000", "_BANG": "\ue001"}
"""They stand for # and ! that begin no comment; until comments are gone, for these private characters."""


def _lines(text: str, file: str) -> Iterator[tuple[int, str]]:
    """The lines with definitions put in; what a definition of several lines stands for has the line of its use."""
    known = dict(_BUILT_IN)
    physical = text.replace("\r\n", "\n").split("\n")
    number, given = 0, 0
    while number < len(physical):
        line = physical[number]
        number += 1
        first = number
        if match := _DEFINITION.fullmatch(line):
            name, value = match[1], match[2]
            while value.endswith("\\") and number < len(physical):
                value = f"{value[:-1]}\n{physical[number]}"
                number += 1
            known[name] = value.strip()
            continue
        for one in _expanded(line, known, first, file).split("\n"):
            given += 1
            if given > MAX_LINES:
                raise fault(file, first, f"more than {MAX_LINES} lines, definitions put in; allowed: fewer")
            if inner := _DEFINITION.fullmatch(one):
                known[inner[1]] = inner[2].strip()
            else:
                yield first, one


def _expanded(line: str, known: dict[str, str], number: int, file: str) -> str:
    """Put definitions in, also those within definitions."""
    for _ in range(MAX_DEPTH):
        uses = list(_USE.finditer(line)) if "$" in line else []
        put_in = {match[0]: known[name] for match in uses if (name := match[1] or match[2]) in known}
        if not put_in:
            return line
        if sum(len(put_in.get(match[0], "")) for match in uses) > MAX_LINE:
            raise fault(file, number, f"definitions expand to more than {MAX_LINE} characters; allowed: fewer")
        line = _USE.sub(lambda match: put_in.get(match[0], match[0]), line)  # noqa: B023 - it is called at once
    raise fault(file, number, f"definitions within definitions; allowed: at most {MAX_DEPTH} deep")


# --- words ------------------------------------------------------------------------------------------------------------

_ESCAPES = {"a": "\a", "b": "\b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|c(.)|(.))", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<comment>[#!].*)
    |(?P<brace>[{}])
    |(?P<word>(?:\$\{[^}]*\}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s#!{}"'])+)
    |(?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL)


def _tokens(line: str, number: int, file: str) -> Iterator[tuple[str, bool]]:
    """Words, and braces, which are told apart from words that look like them."""
    for match in _TOKEN.finditer(line):
        match match.lastgroup:
            case "word":
                yield _private_back(_unquoted(match[0])), False
            case "brace":
                yield match[0], True
            case "comment":
                return
            case "bad":
                raise fault(file, number, f"{match[0]} is not closed; allowed: quotes that end on their line")


def _unquoted(word: str) -> str:
    if '"' not in word and "'" not in word:
        return word
    pieces = _PIECE.split(word)
    return "".join(_ESCAPE.sub(_character, one[1:-1]) if index % 2 else one for index, one in enumerate(pieces))


def _character(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    if match[2]:
        return chr(int(match[2], 8))
    if match[3]:
        return chr(ord(match[3]) & 0x1F)
    return _ESCAPES.get(match[4], match[4])


def _private_back(word: str) -> str:
    return word.replace("\ue000", "#").replace("\ue001", "!")
