"""keepalived's lines: comments gone, conditions judged, definitions put in, sequences and lists written out. No I/O.

Comments begin with # or !, but not in double quotes, nor behind a backslash. $NAME=VALUE defines what ${NAME} and
$NAME stand for; a value of several lines ends each but the last with a backslash. `@ID` keeps the rest of its line for
one configuration id, `@^ID` for all others. ~SEQ and ~LST repeat the rest of their line.

What definitions, sequences and included files come to is limited: time and memory grow with the text, and no more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model.reading import show

from .remark import Line, fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .draft import Notes

MAX_DEPTH = 32
MAX_LINE = 1 << 16
MAX_LINES = 1 << 19
MAX_EXPANDED = 1 << 24
MAX_FILES = 1 << 10


class Source(NamedTuple):
    """A file; `directory` is where it will be for keepalived, if that is known."""

    name: str
    text: str
    directory: str | None = None


class UnreadError(Exception):
    """Why an included file is not read."""


@dataclass(frozen=True)
class Reading:
    """`ident` is keepalived's configuration id; `include` opens the files that a pattern of a file means."""

    ident: str | None = None
    include: Callable[[str, Source], list[Source]] | None = None


def lines(source: Source, reading: Reading, notes: Notes) -> Iterator[tuple[Line, str]]:
    """The lines that keepalived makes of a file. What comes of a definition has the line of its use."""
    return _Reader(reading, notes).file(source, ())


HASH, BANG = "\ue000", "\ue001"
"""Private characters for # and ! that begin no comment; `plain` makes them what they stand for."""


def plain(text: str) -> str:
    return text.replace(HASH, "#").replace(BANG, "!")


_OUTSIDE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|\\.|[#!]', re.DOTALL)
_ESCAPED = {"\\#": HASH, "\\!": BANG}


def uncommented(line: str) -> str:
    """Cut the comment off."""
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
    reading: Reading
    notes: Notes
    known: dict[str, str] = field(default_factory=lambda: {"_HASH": HASH, "_BANG": BANG})
    given: int = 0
    expanded: int = 0
    files: int = 0

    def file(self, source: Source, within: tuple[str, ...]) -> Iterator[tuple[Line, str]]:
        physical = source.text.replace("\r\n", "\n").split("\n")
        if physical[0].startswith("\ufeff"):
            physical[0] = physical[0][1:]
            self.notes.changed(
                Line(1, source.name), "the byte order mark is left out; keepalived takes it for a part of the word"
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
            for one in self._meant(text, source, line, 0):
                yield line, one

    def _physical(self, text: str, line: Line) -> str:
        if len(text) > MAX_LINE:
            raise fault(line.file, line, f"a line of {len(text)} characters; allowed: at most {MAX_LINE}")
        return uncommented(text)

    def _include(
        self, pattern: str, text: str, source: Source, line: Line, within: tuple[str, ...]
    ) -> Iterator[tuple[Line, str]]:
        written = " ".join(text.split())
        if self.reading.include is None:
            self.notes.missing(line, f"{written}: the file is not read; give --root / to read what is included")
            return
        try:
            found = self.reading.include(plain(pattern).strip("\"'"), source)
        except UnreadError as error:
            self.notes.missing(line, f"{written}: {error}")
            return
        for one in found:
            if one.name in within:
                raise fault(line.file, line, f"{show(one.name)} includes itself; allowed: no circles")
            if len(within) == MAX_DEPTH:
                raise fault(line.file, line, f"includes within includes; allowed: at most {MAX_DEPTH} deep")
            self.files += 1
            if self.files > MAX_FILES:
                raise fault(line.file, line, f"more than {MAX_FILES} included files; allowed: fewer")
            self._spend(len(one.text), line)
            yield from self.file(one, within)

    def _spend(self, characters: int, line: Line) -> None:
        self.expanded += characters
        if self.expanded > MAX_EXPANDED:
            message = f"more than {MAX_EXPANDED >> 20} MiB, definitions and included files put in; allowed: less"
            raise fault(line.file, line, message)

    def _meant(self, text: str, source: Source, line: Line, depth: int) -> Iterator[str]:
        """What one line comes to: none, itself, or many."""
        self.given += 1
        if self.given > MAX_LINES:
            raise fault(line.file, line, f"more than {MAX_LINES} lines, definitions put in; allowed: fewer")
        if depth > MAX_DEPTH:
            raise fault(line.file, line, f"definitions within definitions; allowed: at most {MAX_DEPTH} deep")
        if not any(sign in text for sign in "$@~"):
            yield text
        elif match := _CONDITION.fullmatch(text):
            if self._holds(match, text, line):
                yield from self._meant(match[3], source, line, depth + 1)
        elif match := _DEFINITION.fullmatch(text):
            self.known[match[1]] = match[2].strip()
        elif match := _REPEAT.fullmatch(text):
            yield from self._repeated(match, source, line, depth)
        else:
            put_in = self._put_in(text, source, line)
            if put_in == text:
                yield text
            else:
                self._spend(len(put_in), line)
                for one in put_in.split("\n"):
                    yield from self._meant(one, source, line, depth + 1)

    def _holds(self, match: re.Match[str], text: str, line: Line) -> bool:
        unless, ident = match[1], match[2]
        holds = (ident == self.reading.ident) is not bool(unless)
        written = " ".join(text.split())
        if not holds:
            other = "another id" if self.reading.ident is not None or unless else f"the id {ident}; give --id {ident}"
            self.notes.missing(line, f"{written}: the line is for {other}")
        elif self.reading.ident is None:
            self.notes.changed(line, f"{written}: the line is taken, since no --id is given")
        return holds

    def _repeated(self, match: re.Match[str], source: Source, line: Line, depth: int) -> Iterator[str]:
        kind, inside, rest = match[1], match[2], match[3]
        turns = _list(inside) if kind == "LST" else _sequence(inside, hexadecimal=kind == "SEQx")
        if turns is None:
            self.notes.missing(line, f"~{kind}({inside}): not its form; keepalived ignores the line")
            return
        for turn in turns:
            self.known |= turn
            yield from self._meant(rest, source, line, depth + 1)

    def _put_in(self, text: str, source: Source, line: Line) -> str:
        """Put definitions in, once: what they hold themselves is the next turn's."""
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
                raise fault(line.file, line, f"definitions expand to more than {MAX_LINE} characters; allowed: fewer")
        return "".join((*parts, text[end:]))

    def _value(self, match: re.Match[str], source: Source, line: Line) -> str | None:
        name, limits = match["braced"] or match["bare"], (match["range"] or "").split()
        if name == "_RANDOM":
            self.notes.changed(line, f"{match[0]}: no number by chance here, but always the least")
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
    """Whether a line defines something, perhaps under a condition."""
    if match := _CONDITION.fullmatch(text):
        text = match[3]
    return _DEFINITION.fullmatch(text) is not None


def _sequence(inside: str, *, hexadecimal: bool) -> Iterator[dict[str, str]] | None:
    name, *written = (one.strip() for one in inside.split(","))
    if not re.fullmatch(r"\w+", name) or not all(map(_WHOLE.fullmatch, written)):
        return None
    numbers = [int(one, 0 if "x" in one.lower() else 10) for one in written]
    if not _SEQUENCE_LEAST <= len(numbers) + 1 <= _SEQUENCE_MOST:
        return None
    end = numbers[-1]
    start = numbers[0] if len(numbers) > 1 else (1 if end > 0 else -1)
    step = numbers[1] if len(numbers) == 3 else (1 if end >= start else -1)  # noqa: PLR2004
    if step == 0 or (end - start) * step < 0:
        return None
    form = "x" if hexadecimal else "d"
    return ({name: format(one, form)} for one in range(start, end + (1 if step > 0 else -1), step))


def _list(inside: str) -> Iterator[dict[str, str]] | None:
    groups, at = [], 0
    while match := _GROUP.match(inside, at):
        groups.append([one.strip() for one in match[1].split(",")] if match[1] is not None else [match[2]])
        at = match.end()
        if not match[0].endswith(","):
            break
    if at < len(inside) or len(groups) < 2 or not all(re.fullmatch(_NAME, one) for one in groups[0]):  # noqa: PLR2004
        return None
    names, *values = groups
    if len(names) > MAX_DEPTH:
        return None
    return (dict(zip(names, [*turn, *[""] * len(names)], strict=False)) for turn in values)
