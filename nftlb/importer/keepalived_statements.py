"""Parses keepalived.conf into statements: words, and perhaps a block in braces. No I/O.

First, lines are expanded: comments, conditions, definitions, sequences, lists and included files.
Comments begin with # or !, but not in double quotes, nor behind a backslash. $NAME=VALUE defines the value of ${NAME}
and $NAME; in a value of several lines, each line but the last ends with a backslash. `@ID` keeps the rest of its line
for one configuration id, `@^ID` for all others. ~SEQ and ~LST repeat the rest of their line.

The expansion is limited, so that time and memory grow only in proportion to the text.

Then, lines are parsed. Quotes are " and ', with a backslash to escape. A ' without a second ' is a letter, as
keepalived reads it. The parser does not recurse, and the depth of blocks is limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nftlb.printable import show

from .draft import Line, bad_text, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .draft import Notes


MAX_DEPTH = 32
MAX_LINE = 1 << 16
MAX_LINES = 1 << 19
MAX_EXPANDED = 1 << 24
MAX_FILES = 1 << 10


class SourceFile(NamedTuple):
    """A file with its text. `directory` is its directory on keepalived's host, if it is known."""

    name: str
    text: str
    directory: str | None = None


class UnreadError(Exception):
    """The reason why an included file is not read."""


@dataclass(frozen=True)
class ReadContext:
    """`ident` is keepalived's configuration id; `include` reads the files that match a pattern in a file."""

    ident: str | None = None
    include: Callable[[str, SourceFile], list[SourceFile]] | None = None


def expand_lines(source: SourceFile, reading: ReadContext, notes: Notes) -> Iterator[tuple[Line, str]]:
    """Yield the lines of a file after expansion. A line from a definition has the number of the line that uses it."""
    return _Reader(reading, notes).file(source, ())


HASH, BANG = "\ue000", "\ue001"
"""Private characters that stand for a # and ! that begins no comment; `restore_marks` puts # and ! back."""


def restore_marks(text: str) -> str:
    return text.replace(HASH, "#").replace(BANG, "!")


_OUTSIDE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|\\.|[#!]', re.DOTALL)
_ESCAPED = {"\\#": HASH, "\\!": BANG}


def strip_comment(line: str) -> str:
    """Remove the comment of a line."""
    if "#" not in line and "!" not in line:
        return line
    kept, end = [], 0
    for match in _OUTSIDE.finditer(line):
        found = match[0]
        if found in {"#", "!"}:
            kept.append(line[end : match.start()])
            return "".join(kept)
        if found in _ESCAPED:
            kept += line[end : match.start()], _ESCAPED[found]
            end = match.end()
    return "".join((*kept, line[end:]))


_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_DEFINITION = re.compile(rf"\s*\$({_NAME})=(.*)", re.DOTALL)
_USE = re.compile(rf"\$\{{(?P<braced>{_NAME})(?P<range>(?:\s+[0-9]+){{0,2}})\s*\}}|\$(?P<bare>{_NAME})(?=\s|$)")
_CONDITION = re.compile(r"\s*@(\^?)(\S*)(.*)", re.DOTALL)
_INCLUDE = re.compile(r"\s*include[rmwba]?\s+(\S.*)")
_REPEAT = re.compile(r"\s*~(SEQx?|LST)\(([^()]*)\)(.*)", re.DOTALL)
_GROUP = re.compile(r"\s*(?:\{([^{}]*)\}|([^\s,{}]*))\s*(?:,|$)")
_WHOLE = re.compile(r"-?(?:0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,9})")
_SEQUENCE_LEAST, _SEQUENCE_MOST = 2, 4


@dataclass
class _Reader:
    reading: ReadContext
    notes: Notes
    known: dict[str, str] = field(default_factory=lambda: {"_HASH": HASH, "_BANG": BANG})
    given: int = 0
    expanded: int = 0
    files: int = 0

    def file(self, source: SourceFile, within: tuple[str, ...]) -> Iterator[tuple[Line, str]]:
        physical = source.text.replace("\r\n", "\n").split("\n")
        if physical[0].startswith("\ufeff"):
            physical[0] = physical[0][1:]
            self.notes.changed(
                Line(1, source.name), "the byte order mark is left out; keepalived reads it as a part of the first word"
            )
        at = 0
        while at < len(physical):
            line = Line(at + 1, source.name)
            text = self._physical(physical[at], line)
            at += 1
            if match := _INCLUDE.fullmatch(text):
                yield from self._include(match[1].strip(), text, source, line, (*within, source.name))
                continue
            if _defines(text):
                value = [text]
                while value[-1].endswith("\\") and at < len(physical):
                    value[-1] = value[-1][:-1]
                    value.append(self._physical(physical[at], Line(at + 1, source.name)))
                    at += 1
                text = "\n".join(value)
            for expanded in self._expanded(text, source, line, 0):
                yield line, expanded

    def _physical(self, text: str, line: Line) -> str:
        if len(text) > MAX_LINE:
            raise bad_text(line, f"a line of {len(text)} characters; allowed: at most {MAX_LINE}")
        return strip_comment(text)

    def _include(
        self, pattern: str, text: str, source: SourceFile, line: Line, within: tuple[str, ...]
    ) -> Iterator[tuple[Line, str]]:
        written = " ".join(text.split())
        if self.reading.include is None:
            self.notes.missing(line, f"{written}: the file is not read; give --root / to read what is included")
            return
        try:
            found = self.reading.include(restore_marks(pattern).strip("\"'"), source)
        except UnreadError as error:
            self.notes.missing(line, f"{written}: {error}")
            return
        for file in found:
            if file.name in within:
                raise bad_text(line, f"{show(file.name)} includes itself; allowed: no circular includes")
            if len(within) == MAX_DEPTH:
                raise bad_text(line, f"includes within includes; allowed: at most {MAX_DEPTH} deep")
            self.files += 1
            if self.files > MAX_FILES:
                raise bad_text(line, f"more than {MAX_FILES} included files; allowed: fewer")
            self._spend(len(file.text), line)
            yield from self.file(file, within)

    def _spend(self, characters: int, line: Line) -> None:
        self.expanded += characters
        if self.expanded > MAX_EXPANDED:
            message = f"more than {MAX_EXPANDED >> 20} MiB with definitions and included files; allowed: less"
            raise bad_text(line, message)

    def _expanded(self, text: str, source: SourceFile, line: Line, depth: int) -> Iterator[str]:
        """Yield the lines that one line expands to: none, itself, or many."""
        self.given += 1
        if self.given > MAX_LINES:
            raise bad_text(line, f"more than {MAX_LINES} lines with definitions expanded; allowed: fewer")
        if depth > MAX_DEPTH:
            raise bad_text(line, f"definitions within definitions; allowed: at most {MAX_DEPTH} deep")
        if not any(sign in text for sign in "$@~"):
            yield text
        elif match := _CONDITION.fullmatch(text):
            if self._holds(match, text, line):
                yield from self._expanded(match[3], source, line, depth + 1)
        elif match := _DEFINITION.fullmatch(text):
            self.known[match[1]] = match[2].strip()
        elif match := _REPEAT.fullmatch(text):
            yield from self._repeated(match, source, line, depth)
        else:
            replaced = self._with_definitions(text, source, line)
            if replaced == text:
                yield text
            else:
                self._spend(len(replaced), line)
                for piece in replaced.split("\n"):
                    yield from self._expanded(piece, source, line, depth + 1)

    def _holds(self, match: re.Match[str], text: str, line: Line) -> bool:
        unless, ident = match[1], match[2]
        holds = (ident == self.reading.ident) is not bool(unless)
        written = " ".join(text.split())
        if not holds:
            other = "another id" if self.reading.ident is not None or unless else f"the id {ident}; give --id {ident}"
            self.notes.missing(line, f"{written}: the line is for {other}")
        elif self.reading.ident is None:
            self.notes.changed(line, f"{written}: the line is used, because no --id is given")
        return holds

    def _repeated(self, match: re.Match[str], source: SourceFile, line: Line, depth: int) -> Iterator[str]:
        kind, inside, rest = match[1], match[2], match[3]
        turns = _list(inside) if kind == "LST" else _sequence(inside, hexadecimal=kind == "SEQx")
        if turns is None:
            self.notes.missing(line, f"~{kind}({inside}): wrong form; keepalived ignores the line")
            return
        for turn in turns:
            self.known |= turn
            yield from self._expanded(rest, source, line, depth + 1)

    def _with_definitions(self, text: str, source: SourceFile, line: Line) -> str:
        """Replace the definitions of a line by their values, once. Definitions in the values are replaced later."""
        if "$" not in text:
            return text
        parts: list[str] = []
        end, size = 0, len(text)
        for match in _USE.finditer(text):
            value = self._value(match, source, line)
            if value is None:
                continue
            parts += text[end : match.start()], value
            end = match.end()
            size += len(value)
            if size > MAX_LINE:
                raise bad_text(line, f"definitions expand to more than {MAX_LINE} characters; allowed: fewer")
        return "".join((*parts, text[end:]))

    def _value(self, match: re.Match[str], source: SourceFile, line: Line) -> str | None:
        name, limits = match["braced"] or match["bare"], (match["range"] or "").split()
        if name == "_RANDOM":
            self.notes.changed(line, f"{match[0]}: nftlb uses the lowest number instead of a random number")
            return limits[0] if limits else "0"
        if limits:
            return None
        if name == "_PWD" and source.directory is not None:
            return source.directory
        if name == "_INSTANCE" and self.reading.ident is not None:
            return self.reading.ident
        if name in {"_PWD", "_INSTANCE"}:
            how = "import the file by its name" if name == "_PWD" else "give --id"
            self.notes.changed(line, f"{match[0]}: not known here; {how}")
        return self.known.get(name)


def _defines(text: str) -> bool:
    """Whether a line is a definition, perhaps with a condition."""
    if match := _CONDITION.fullmatch(text):
        text = match[3]
    return _DEFINITION.fullmatch(text) is not None


def _sequence(inside: str, *, hexadecimal: bool) -> Iterator[dict[str, str]] | None:
    name, *written = (word.strip() for word in inside.split(","))
    if not re.fullmatch(r"\w+", name) or not all(map(_WHOLE.fullmatch, written)):
        return None
    numbers = [int(text, 0 if "x" in text.lower() else 10) for text in written]
    if not _SEQUENCE_LEAST <= len(numbers) + 1 <= _SEQUENCE_MOST:
        return None
    end = numbers[-1]
    start = numbers[0] if len(numbers) > 1 else (1 if end > 0 else -1)
    step = numbers[1] if len(numbers) == 3 else (1 if end >= start else -1)  # noqa: PLR2004
    if step == 0 or (end - start) * step < 0:
        return None
    form = "x" if hexadecimal else "d"
    return ({name: format(number, form)} for number in range(start, end + (1 if step > 0 else -1), step))


def _list(inside: str) -> Iterator[dict[str, str]] | None:
    groups, at = [], 0
    while match := _GROUP.match(inside, at):
        groups.append([name.strip() for name in match[1].split(",")] if match[1] is not None else [match[2]])
        at = match.end()
        if not match[0].endswith(","):
            break
    if at < len(inside) or len(groups) < 2 or not all(re.fullmatch(_NAME, name) for name in groups[0]):  # noqa: PLR2004
        return None
    names, *values = groups
    if len(names) > MAX_DEPTH:
        return None
    return (dict(zip(names, [*turn, *[""] * len(names)], strict=False)) for turn in values)


# --- statements -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Statement:
    """A line of words; `words` is never empty. `block` is None without braces."""

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
        return shorten(" ".join(self.words))


@dataclass
class _Parser:
    file: str
    root: list[Statement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: list[tuple[Statement, list[Statement]]] = []
        self._here = self.root
        self._words: list[str] = []
        self._line = Line(0, self.file)

    def add(self, token: str | None, line: Line, *, brace: bool) -> None:
        """Add a word or a brace. None is the end of a line."""
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
                raise bad_text(line, "} closes nothing; allowed: one } for each {")
            self._here = self._open.pop()[1]

    def end(self, line: Line) -> list[Statement]:
        self._finish()
        if self._open:
            opened = self._open[-1][0]
            raise bad_text(
                opened.line, f"the block of {opened.key!r} is not closed by line {line}; allowed: a }} for each {{"
            )
        return self.root

    def _finish(self) -> None:
        if self._words:
            self._here.append(Statement(self._words, self._line))
            self._words = []

    def _enter(self, line: Line) -> None:
        self._finish()
        if not self._here or self._here[-1].block is not None:
            raise bad_text(line, "{ follows no keyword; allowed: a keyword before each block")
        if len(self._open) == MAX_DEPTH:
            raise bad_text(line, f"blocks within blocks; allowed: at most {MAX_DEPTH} deep")
        opener = self._here[-1]
        opener.block = []
        self._open.append((opener, self._here))
        self._here = opener.block


def hidden_services(statement: Statement) -> Iterator[Statement]:
    """The services and servers at any depth within a statement, where a missing or extra } has put them."""
    waiting = list(reversed(statement.block or []))
    while waiting:
        inner = waiting.pop()
        if inner.key in {"virtual_server", "real_server"}:
            yield inner
        waiting += reversed(inner.block or [])


def parse_statements(source: SourceFile, reading: ReadContext, notes: Notes) -> list[Statement]:
    """Parse a whole file. ConfigError, with its line, for a syntax error."""
    parser = _Parser(source.name)
    last = Line(source.text.count("\n") + 1, source.name)
    for line, text in expand_lines(source, reading, notes):
        for token, brace in _tokens(text, line, notes):
            parser.add(token, line, brace=brace)
        parser.add(None, line, brace=False)
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
    """Yield words and braces, each with whether it is a brace: a quoted brace is a word."""
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
                    raise bad_text(line, f"{found} is not closed; allowed: quotes that end on their line")
                notes.changed(line, f"{found} is not closed; it is read as a letter")
                pieces.append(found)
                continue
        if pieces:
            yield restore_marks("".join(pieces)), False
            pieces = []
        if match.lastgroup == "brace":
            yield found, True
    if pieces:
        yield restore_marks("".join(pieces)), False


def _character(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    if match[2]:
        return chr(int(match[2], 8))
    if match[3]:
        return chr(ord(match[3]) & 0x1F)
    return _ESCAPES.get(match[4], match[4])
