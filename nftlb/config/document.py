"""Reads a file, and its YAML text as plain data with the place of every value.

Only decimal digits are read as a number. Other forms that YAML 1.1 reads as numbers (010 is octal, 10:30 is 630) stay
the text that the user sees. The text may be hostile: its depth, its size and the expansion of aliases are limited, and
no function here is recursive.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import yaml

from nftlb.errors import ConfigError, Problem
from nftlb.files import NotRegularError, read_regular
from nftlb.printable import show

from . import meant
from .faults import MAX_PROBLEMS, START, Entries, Items, Position, YamlDocument, path_text, position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .faults import Data, Path, Spot

STDIN = "-"
MAX_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_VALUES = 1_000_000
_TOO_DEEP = f"nested too deeply; allowed: at most {MAX_DEPTH} levels"
MAX_WIDTH = 1 << 16  # there are as many ports and as many conntrack zones, so no valid list is longer


def read_file(path: str) -> bytes:
    """Read a file, or standard input for `-`: at most one byte more than a file may have."""
    if path == STDIN:
        if sys.stdin is None:
            raise _fault(path, "is closed; allowed: an open standard input, or the name of a file")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        return read_regular(path, MAX_BYTES + 1)
    except OSError as error:
        raise _fault(path, f"{_reason(path, error)}; allowed: a readable file, or - for standard input") from None
    except ValueError:  # the message of this error differs between versions of Python
        raise _fault(path, "the name contains a NUL character; allowed: the name of a file") from None


def _reason(path: str, error: OSError) -> str:
    """Why a file can't be read, and what may be wrong with its name."""
    found = FilePath(path)
    if isinstance(error, NotRegularError):
        return (
            f"a directory; name a file in it, such as {found / 'nftlb.yaml'}" if found.is_dir() else str(error.strerror)
        )
    if isinstance(error, FileNotFoundError):
        if not path:
            return "the name is empty"
        return "no such file" if found.is_absolute() else f"no such file in the current directory, {FilePath.cwd()}"
    if isinstance(error, PermissionError):
        return "this user may not read the file; run nftlb as root, or as a user who may"
    return error.strerror or str(error)


def _fault(path: str, message: str) -> ConfigError:
    return ConfigError([Problem(path, 0, 0, "", message)])


def read_yaml(text: str | bytes, file: str) -> YamlDocument:
    """Read YAML text. `ConfigError` if the text is not YAML, or is not a mapping."""
    decoded = _decode(text, file)
    builder = _Builder(file)
    try:
        # `yaml.parse` would ask for each event twice.
        parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(decoded)
        builder.add_events(iter(parser.get_event, None))
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, decoded, file)]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: an escape beyond Unicode, in pure Python
        raise ConfigError([Problem(file, *START, "", f"not YAML: {error}")]) from None
    return builder.document()


_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


def _decode(text: str | bytes, file: str) -> str:
    if len(text) > MAX_BYTES:
        raise ConfigError([Problem(file, *START, "", f"larger than {MAX_BYTES >> 20} MiB; allowed: a smaller file")])
    if isinstance(text, bytes):
        text = _from_utf8(text, file)
    text = text.removeprefix("\ufeff")
    if bad := _FORBIDDEN.search(text):
        message = f"character U+{ord(bad[0]):04X} can't be in YAML text; allowed: printable text"
        raise ConfigError([Problem(file, *_place_after(text[: bad.start()]), "", message)])
    return text


def _from_utf8(text: bytes, file: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        place = _place_after(text[: error.start].decode())
        message = f"byte 0x{text[error.start]:02x} is not UTF-8; allowed: YAML text in UTF-8"
        raise ConfigError([Problem(file, *place, "", message)]) from None


def _place_after(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if (
        "nesting depth" in (error.problem or "") and mark is not None
    ):  # libyaml 0.2.6 reads up to 1,000 levels without this check
        return Problem(file, mark.line + 1, mark.column + 1, "", _TOO_DEEP)
    what = error.problem or error.context or "the text can't be read"
    if error.context and error.context != what:
        what += f" {error.context}"
    if mark is None:
        return Problem(file, *START, "", f"not YAML: {what}")
    if error.context_mark is not None and error.context_mark.line != mark.line:
        what += f" that begins in line {error.context_mark.line + 1}"
    return Problem(file, mark.line + 1, mark.column + 1, "", f"not YAML: {what}{_hint(what, text, mark)}")


_SAME_INDENT = "indent all keys of a mapping by the same number of spaces"
_HINTS = {
    "mapping values are not allowed": f"{_SAME_INDENT}; quote a value that has a colon and a blank",
    "did not find expected key": _SAME_INDENT,
    "could not find expected ':'": "write a blank behind the colon of a key",
    "end of stream while scanning a quoted scalar": "the closing quote is missing",
}
"""Advice by a part of the message of the YAML parser."""


def _hint(problem: str, text: str, mark: yaml.Mark) -> str:
    lines = text.splitlines()
    written = lines[mark.line] if mark.line < len(lines) else ""
    # The parser points at the character that can't begin a value, and behind the * that begins an alias.
    first = written[mark.column : mark.column + 1]
    if re.match(r" *\t", written):
        return "; indent with spaces, not tabs"
    if "]:" in written or "]/" in written:
        return "; quote an IPv6 address in brackets"
    if "scanning an alias" in problem:
        return "; quote a value that begins with *"
    if "cannot start any token" in problem and first in {"%", "@", "`"}:
        return f"; quote a value that begins with {first}"
    if "mapping values are not allowed" in problem and (advice := _missing_blank(lines[: mark.line])):
        return f"; {advice}"
    return next((f"; {advice}" for part, advice in _HINTS.items() if part in problem), "")


def _missing_blank(lines: list[str]) -> str:
    """Advice if the last of these lines has a key and its value without a blank: YAML joins the next line to it."""
    number, line = next(((number, line) for number, line in enumerate(lines[::-1]) if line.strip()), (0, ""))
    advice = meant.without_blank(line.partition(" #")[0].strip().removeprefix("- "))
    return f"line {len(lines) - number}: {advice}" if advice else ""


_WORDS: dict[str, bool | None] = {
    spelling: value
    for value, words in {None: ("", "~", "null"), True: ("true", "yes", "on"), False: ("false", "no", "off")}.items()
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER_BEGINS = frozenset("-0123456789")
# Further forms that YAML 1.1 reads as numbers and dates. A key must be a string to every reader of YAML.
_NO_TEXT = re.compile(
    r"[-+]?(\.?[0-9][0-9_]*([.:][0-9_]*)*(e[-+][0-9]+)?|0b[01_]+|0x[0-9a-f_]+|\.inf|\.nan)|[0-9]{4}-.*", re.IGNORECASE
)
_NO_TEXT_BEGINS = frozenset("+-.0123456789")
_MERGE = "<<"
_SURROGATE = re.compile("[\ud800-\udfff]")  # libyaml refuses these; the parser written in Python does not


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end event has not arrived yet."""

    container: Entries | Items
    place: Spot
    anchor: str | None
    key: str | None = None
    key_place: Spot = 0
    merged: list[Entries] | None = None
    size: int = 1

    @property
    def awaits_key(self) -> bool:
        return self.key is None and type(self.container) is Entries


class _Builder:
    """Makes data from the events of a YAML parser.

    A file of 10,000 pools has 130,000 scalars. So a scalar takes few calls, and what most scalars do not need is behind
    a cheap condition.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._document = Items()
        # The first level is no part of the text: its only item is the root of the document.
        self._open = [_Open(self._document, 0, None, size=0)]
        self._anchors: dict[str, tuple[Data, int]] = {}
        self._problems: list[Problem] = []
        self._documents = 0

    def document(self) -> YamlDocument:
        root = self._document[0] if self._document else None
        place = position(self._document.places[0]) if self._document else START
        if root is None:
            root = Entries()
        if not isinstance(root, Entries):
            message = f"{show(root)} is not a configuration; allowed: a mapping with the key pools"
            raise ConfigError([Problem(self._file, *place, "", message)])
        return YamlDocument(root, tuple(self._problems), place)

    def add_events(self, events: Iterable[yaml.Event]) -> None:
        for event in events:
            if type(event) is yaml.ScalarEvent:
                self._scalar(event)
            else:
                self._add_event(event)

    def _add_event(self, event: yaml.Event) -> None:
        match event:
            case yaml.MappingStartEvent():
                self._begin(Entries(), event)
            case yaml.CollectionEndEvent():
                self._end()
            case yaml.SequenceStartEvent():
                self._begin(Items(), event)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise self._fatal(_place(event), "a second document begins; allowed: one document in a file")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        place, text, tag = _place(event), event.value, event.tag
        plain = event.implicit[0] and tag is None
        if not text.isascii() and _SURROGATE.search(text):
            raise self._fatal(place, f"{show(text)} contains a surrogate; allowed: Unicode without surrogates")
        if tag is not None:
            self._refuse_tag(event, place, allowed="tag:yaml.org,2002:str")
        level = self._open[-1]
        if level.key is None and type(level.container) is Entries:
            level.key, level.key_place = text, place
            if text in level.container or (plain and (text in _WORDS or text[:1] in _NO_TEXT_BEGINS)):
                self._note_bad_key(level.container, text, place, plain=plain)
            return
        value: Data = text
        if plain:
            value = int(text) if text[:1] in _NUMBER_BEGINS and _NUMBER.fullmatch(text) else _WORDS.get(text, text)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, 1
        self._add(value, place, 1)

    def _note_bad_key(self, container: Entries, text: str, place: Spot, *, plain: bool) -> None:
        if plain and (text in _WORDS or (text[:1] in _NO_TEXT_BEGINS and _NO_TEXT.fullmatch(text))):
            message = f"the key {show(text)} is not a string in YAML; allowed: {json.dumps(text)}, in quotes"
        elif text in container:
            message = f"the key occurs twice, first in line {position(container.places[text][0]).line}; allowed: once"
        else:
            return
        self._problems.append(Problem(self._file, *position(place), path_text(self._path()), message))

    def _begin(self, container: Entries | Items, event: yaml.CollectionStartEvent) -> None:
        place = _place(event)
        if event.tag is not None:
            self._refuse_tag(event, place)
        if self._open[-1].awaits_key:
            raise self._fatal(place, f"{show(container)} is not a key; allowed: text")
        if len(self._open) > MAX_DEPTH:
            raise self._fatal(place, _TOO_DEEP)
        self._open.append(_Open(container, place, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        if done.merged and isinstance(done.container, Entries):
            done.container = _merge(done.container, done.merged)
        if done.anchor is not None:
            self._anchors[done.anchor] = done.container, done.size
        self._add(done.container, done.place, done.size)

    def _alias(self, event: yaml.AliasEvent) -> None:
        place = _place(event)
        if any(level.anchor == event.anchor for level in self._open):
            raise self._fatal(
                place, f"the alias *{event.anchor} is a part of its own anchor; allowed: an alias after its value"
            )
        if event.anchor not in self._anchors:
            raise self._fatal(
                place, f"the alias *{event.anchor} has no anchor; allowed: an alias with &{event.anchor} before it"
            )
        value, size = self._anchors[event.anchor]
        if self._open[-1].awaits_key:
            raise self._fatal(place, f"*{event.anchor} is not a key; allowed: text")
        self._add(value, place, size)

    def _add(self, value: Data, place: Spot, size: int) -> None:
        level = self._open[-1]
        level.size += size
        if level.size > MAX_VALUES:
            raise self._fatal(place, f"too many values, with aliases expanded; allowed: at most {MAX_VALUES}")
        container = level.container
        if len(container) == MAX_WIDTH:
            raise self._fatal(place, f"too many values in one mapping or list; allowed: at most {MAX_WIDTH}")
        if len(self._problems) == MAX_PROBLEMS:
            raise self._fatal(place, "too many faults; the rest of the file is not checked")
        if isinstance(container, Items):
            container.append(value)
            container.places.append(place)
            return
        key, level.key = level.key, None
        if key == _MERGE:
            level.merged = level.merged or []
            level.merged += self._to_merge(value, place)
        elif key is not None:
            container[key] = value
            container.places[key] = level.key_place, place

    def _to_merge(self, value: Data, place: Spot) -> list[Entries]:
        sources = value if isinstance(value, Items) else [value]
        mappings = [source for source in sources if isinstance(source, Entries)]
        if len(mappings) == len(sources):
            return mappings
        raise self._fatal(place, f"{show(value)} can't be merged by <<; allowed: a mapping, or a list of mappings")

    def _refuse_tag(self, event: yaml.NodeEvent, place: Spot, allowed: str | None = None) -> None:
        tag = getattr(event, "tag", None)
        if tag not in {None, "!", allowed}:
            raise self._fatal(place, f"the tag {show(tag)} is not supported; allowed: no tags")

    def _path(self) -> Path:
        return tuple(
            level.key if isinstance(level.container, Entries) else len(level.container)  # type: ignore[misc]
            for level in self._open[1:]
        )

    def _fatal(self, place: Spot, message: str) -> ConfigError:
        problem = Problem(self._file, *position(place), "", message)
        return ConfigError([*self._problems, problem])


def _place(event: yaml.Event) -> Spot:
    mark = event.start_mark
    return (mark.line + 1) << 32 | (mark.column + 1) if mark is not None else 0


def _merge(own: Entries, sources: list[Entries]) -> Entries:
    """Add to `own` the keys that it lacks. An earlier source has precedence over a later source."""
    merged = Entries()
    for source in [*reversed(sources), own]:
        for key, value in source.items():
            merged.put(key, value, source.places[key])
    return merged
