"""YAML text to plain data that knows where it was written.

No I/O. Only what can't surprise is a number: decimal digits. All else that YAML 1.1 takes for one (010 is octal to it,
10:30 is 630) stays the text that the user sees. The text comes from outside: its depth, its size and what aliases
expand to are limited, and nothing here recurses.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from nftlb.config.places import START, WHOLE, Entries, Items, Place, path_text
from nftlb.errors import ConfigError, Problem
from nftlb.model.reading import show

if TYPE_CHECKING:
    from nftlb.config.places import Data, Path

MAX_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_VALUES = 1_000_000
_TOO_DEEP = f"nested too deeply; allowed: {MAX_DEPTH} levels"
MAX_WIDTH = 1 << 16  # nothing that a file can list has more: there are as many ports, and conntrack zones
MAX_PROBLEMS = 1000  # more help nobody, and 16 MiB of junk would take minutes


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a file, the faults that could be stepped over while it was read, and where the data begins."""

    root: Entries
    problems: tuple[Problem, ...]
    place: Place = WHOLE


def read(text: str | bytes, file: str) -> Document:
    """Read YAML text; `ConfigError` if it isn't YAML, or no mapping."""
    decoded = _decode(text, file)
    builder = _Builder(file)
    try:
        for event in yaml.parse(decoded, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, decoded, file)]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: an escape beyond Unicode, in pure Python
        raise ConfigError([Problem(file, *START, "", f"not YAML: {error}")]) from None
    return builder.document()


_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


def _decode(text: str | bytes, file: str) -> str:
    if len(text) > MAX_BYTES:
        raise ConfigError([Problem(file, *START, "", f"larger than {MAX_BYTES >> 20} MiB; allowed: less")])
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


def _place_after(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if (
        "nesting depth" in (error.problem or "") and mark is not None
    ):  # libyaml 0.2.6 reads on to 1,000 levels by itself
        return Problem(file, mark.line + 1, mark.column + 1, "", _TOO_DEEP)
    what = error.problem or error.context or "it can't be read"
    if error.context and error.context != what:
        what += f" {error.context}"
    if mark is None:
        return Problem(file, *START, "", f"not YAML: {what}")
    if error.context_mark is not None and error.context_mark.line != mark.line:
        what += f" that begins in line {error.context_mark.line + 1}"
    return Problem(file, mark.line + 1, mark.column + 1, "", f"not YAML: {what}{_hint(text, mark.line)}")


def _hint(text: str, line: int) -> str:
    lines = text.splitlines()
    written = lines[line] if line < len(lines) else ""
    if re.match(r" *\t", written):
        return "; indent with spaces, not tabs"
    if "]:" in written or "]/" in written:
        return "; quote an IPv6 address in brackets"
    return ""


_WORDS: dict[str, bool | None] = {
    spelling: value
    for value, words in {None: ("", "~", "null"), True: ("true", "yes", "on"), False: ("false", "no", "off")}.items()
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
# What YAML 1.1 takes for numbers and dates besides; a key has to be text to every reader of YAML.
_NO_TEXT = re.compile(
    r"[-+]?(\.?[0-9][0-9_]*([.:][0-9_]*)*(e[-+][0-9]+)?|0b[01_]+|0x[0-9a-f_]+|\.inf|\.nan)|[0-9]{4}-.*", re.IGNORECASE
)
_MERGE = "<<"
_SURROGATE = re.compile("[\ud800-\udfff]")  # libyaml refuses these; the parser written in Python does not


def _plain_scalar(text: str) -> Data:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _NUMBER.fullmatch(text) else text


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end has not come yet."""

    container: Entries | Items
    place: Place
    anchor: str | None
    key: str | None = None
    key_place: Place = WHOLE
    merged: list[Entries] = field(default_factory=list)
    size: int = 1


class _Builder:
    """Takes the events of a YAML parser, and makes data of them."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Data, int]] = {}
        self._problems: list[Problem] = []
        self._root: Data = None
        self._root_place = START
        self._documents = 0

    def document(self) -> Document:
        root = Entries() if self._root is None else self._root
        if not isinstance(root, Entries):
            message = f"{show(root)} is not a configuration; allowed: a mapping with the key pools"
            raise ConfigError([Problem(self._file, *self._root_place, "", message)])
        return Document(root, tuple(self._problems), self._root_place)

    def take(self, event: yaml.Event) -> None:
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent():
                self._begin(Entries(), event)
            case yaml.SequenceStartEvent():
                self._begin(Items(), event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise self._fatal(_place(event), "a second document begins; allowed: one document in a file")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        place = _place(event)
        plain = event.implicit[0] and event.tag is None
        if not event.value.isascii() and _SURROGATE.search(event.value):
            raise self._fatal(place, f"{show(event.value)} is no text; allowed: Unicode without surrogates")
        self._refuse_tag(event, place, allowed="tag:yaml.org,2002:str")
        if self._awaits_key():
            self._take_key(event.value, place, plain=plain)
            return
        value = _plain_scalar(event.value) if plain else event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = value, 1
        self._add(value, place, 1)

    def _begin(self, container: Entries | Items, event: yaml.CollectionStartEvent) -> None:
        place = _place(event)
        self._refuse_tag(event, place)
        if self._awaits_key():
            raise self._fatal(place, f"{show(container)} is not a key; allowed: text")
        if len(self._open) == MAX_DEPTH:
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
            raise self._fatal(place, f"*{event.anchor} stands for something that it is a part of; allowed: no circles")
        if event.anchor not in self._anchors:
            raise self._fatal(place, f"*{event.anchor} stands for nothing; allowed: a name that &{event.anchor} gave")
        value, size = self._anchors[event.anchor]
        if self._awaits_key():
            raise self._fatal(place, f"*{event.anchor} is not a key; allowed: text")
        self._add(value, place, size)

    def _awaits_key(self) -> bool:
        return bool(self._open) and self._open[-1].key is None and isinstance(self._open[-1].container, Entries)

    def _take_key(self, text: str, place: Place, *, plain: bool) -> None:
        level = self._open[-1]
        level.key, level.key_place = text, place
        if plain and text != _MERGE and (text in _WORDS or _NO_TEXT.fullmatch(text)):
            message = f"the key {show(text)} is not text to YAML; allowed: {json.dumps(text)}, in quotes"
            self._problems.append(Problem(self._file, *place, path_text(self._path()), message))
        elif text in level.container and isinstance(level.container, Entries):
            message = f"the key is there twice, first in line {level.container.places[text][0].line}; allowed: once"
            self._problems.append(Problem(self._file, *place, path_text(self._path()), message))

    def _add(self, value: Data, place: Place, size: int) -> None:
        if not self._open:
            self._root, self._root_place = value, place
            return
        level = self._open[-1]
        level.size += size
        if level.size > MAX_VALUES:
            raise self._fatal(place, f"too many values, with aliases written out; allowed: {MAX_VALUES}")
        if len(level.container) == MAX_WIDTH:
            raise self._fatal(place, f"too many values in one place; allowed: {MAX_WIDTH}")
        if len(self._problems) == MAX_PROBLEMS:
            raise self._fatal(place, "too many faults; what follows is not looked at")
        if isinstance(level.container, Items):
            level.container.append(value)
            level.container.places.append(place)
            return
        key, level.key = level.key, None
        if key == _MERGE:
            level.merged += self._to_merge(value, place)
        elif key is not None:
            level.container.put(key, value, (level.key_place, place))

    def _to_merge(self, value: Data, place: Place) -> list[Entries]:
        sources = value if isinstance(value, Items) else [value]
        mappings = [source for source in sources if isinstance(source, Entries)]
        if len(mappings) == len(sources):
            return mappings
        raise self._fatal(place, f"{show(value)} can't be merged by <<; allowed: a mapping, or a list of mappings")

    def _refuse_tag(self, event: yaml.NodeEvent, place: Place, allowed: str | None = None) -> None:
        tag = getattr(event, "tag", None)
        if tag not in {None, "!", allowed}:
            raise self._fatal(place, f"the tag {show(tag)} is not supported; allowed: no tags")

    def _path(self) -> Path:
        return tuple(
            level.key if isinstance(level.container, Entries) else len(level.container)  # type: ignore[misc]
            for level in self._open
        )

    def _fatal(self, place: Place, message: str) -> ConfigError:
        problem = Problem(self._file, *place, "", message)
        return ConfigError([*self._problems, problem])


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark is not None else WHOLE


def _merge(own: Entries, sources: list[Entries]) -> Entries:
    """Fill in what `own` lacks; an earlier source wins over a later one."""
    merged = Entries()
    for source in [*reversed(sources), own]:
        for key, value in source.items():
            merged.put(key, value, source.places[key])
    return merged
