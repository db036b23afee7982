"""Parses ldirectord.cf into directives: lines, indentation, comments, quotes, and the place of each directive. No I/O.

The rules are those of ldirectord 4.12, which reads the file line by line. Text that ldirectord refuses is an error here
too, with three exceptions: a byte order mark, line ends of Windows, and blanks at the end of a line have no effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from nftlb.printable import show

from .draft import Line, bad_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .draft import Notes

MAX_LINE = 1 << 16
_BLANKS = " \t\r\n\f\v"
_INDENT = 4
_SECRET = {"passwd", "secret"}
_MOST_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Directive:
    """A key and its value. The value has no quotes; of a number it has the digits only."""

    key: str
    value: str
    line: Line

    def __str__(self) -> str:
        return f"{self.key} = {'...' if self.key in _SECRET else self.value}"

    @property
    def number(self) -> int:
        """The value as a number, cut off after ten digits."""
        return int(self.value.lstrip("0")[:_MOST_DIGITS] or "0")


@dataclass
class VirtualBlock:
    """A `virtual` or `virtual6` with the directives that are indented below it."""

    head: Directive
    inner: list[Directive] = field(default_factory=list)


@dataclass
class ParsedDirectives:
    top: list[Directive] = field(default_factory=list)
    blocks: list[VirtualBlock] = field(default_factory=list)


def parse_directives(text: str, file: str) -> ParsedDirectives:
    """Parse a whole file. ConfigError, with its line, for text that ldirectord would refuse."""
    parsed = ParsedDirectives()
    block: VirtualBlock | None = None
    for number, said in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = Line(number, file)
        if len(said) > MAX_LINE:
            raise bad_text(line, f"a line of {len(said)} characters; allowed: {MAX_LINE}")
        if said.lstrip(_BLANKS).startswith("#"):
            continue
        if block is not None:
            inner = _indented(said)
            if inner is not None:
                block.inner.append(_directive(inner, line, VIRTUAL))
                continue
            block = None
        if not said.strip(_BLANKS):
            continue
        if said[0] in _BLANKS:
            what = f"{show(said.strip(_BLANKS))} is indented, but belongs to no virtual"
            raise bad_text(line, f"{what}; allowed: 4 blanks or a tab, with no empty line since the virtual")
        found = _directive(said.rstrip(_BLANKS), line, TOP)
        if found.key in {"virtual", "virtual6"}:
            block = VirtualBlock(found)
            parsed.blocks.append(block)
        else:
            parsed.top.append(found)
    return parsed


def _indented(line: str) -> str | None:
    """Return the directive of a line within a virtual; None for a line outside. # begins a comment, even in quotes."""
    said = line.partition("#")[0].replace("\t", " " * _INDENT).rstrip("\r\n")
    if not said.startswith(" " * _INDENT) or len(said) == _INDENT:
        return None
    return said.strip(_BLANKS)


_ASSIGNED = re.compile(r"(\w+)\s*=\s*(.*)", re.DOTALL)


def _directive(said: str, line: Line, allowed: dict[str, _Read]) -> Directive:
    match = _ASSIGNED.fullmatch(said)
    if match is None and allowed is TOP and said == "supervised":
        return Directive("supervised", "yes", line)
    if match is None or match[1] not in allowed:
        word = match[1] if match else said
        if word in _GONE:
            raise bad_text(line, f"{word} is no longer a directive of ldirectord; allowed: {_GONE[word]}")
        other = "inside a virtual" if allowed is TOP and word in VIRTUAL else ""
        other = "outside of any virtual" if allowed is VIRTUAL and word in TOP else other
        where = f"{show(word)} is not a directive " + ("in a virtual" if allowed is VIRTUAL else "outside of a virtual")
        raise bad_text(line, f"{where}; allowed: {f'{word} {other}' if other else 'DIRECTIVE = VALUE'}")
    key, value = match[1], match[2]
    try:
        return Directive(key, allowed[key](value), line)
    except ValueError as error:
        shown = "..." if key in _SECRET else show(value)
        raise bad_text(line, f"{shown} is not a value for {key}; allowed: {error}") from None


# --- values: each function returns the value as ldirectord reads it; ValueError names the allowed values -------------

_Read: TypeAlias = "Callable[[str], str]"
_STATES = {"none", "all", "starting", "stopping", "running", "reloading"}
CHECKTYPES = {"connect", "negotiate", "ping", "off", "on", "external", "external-perl"}
SERVICES = {
    "dns", "ftp", "http", "https", "http_proxy", "imap", "imaps", "ldap", "ldaps", "nntp", "mysql", "none", "oracle",
    "pop", "pops", "radius", "pgsql", "sip", "smtp", "submission", "simpletcp",
}  # fmt: skip


def _first(pattern: str, allowed: str) -> _Read:
    """Read the first text in the value that matches the pattern; ldirectord ignores the rest."""
    compiled = re.compile(pattern, re.DOTALL)

    def read(value: str) -> str:
        match = compiled.search(value)
        if match is None:
            raise ValueError(allowed)
        return match[0]

    return read


def _one_of(words: set[str], read: _Read = str) -> _Read:
    """Read one of these words."""

    def read_word(value: str) -> str:
        found = read(value)
        if found not in words:
            raise ValueError(", ".join(sorted(words)))
        return found

    return read_word


_some = _first(".+", "a value")
_digits = _first("[0-9]+", "a number")
_word = _first(r"\w+|\Z", "a word")
_yes_or_no = _one_of({"yes", "no"})
_state = _one_of(_STATES)


def _positive(value: str) -> str:
    found = _digits(value)
    if not found.strip("0"):
        raise ValueError("a number above 0")
    return found


def _port(value: str) -> str:
    found = _digits(value).lstrip("0")
    if not 1 <= int(found[:6] or "0") <= 65535:  # noqa: PLR2004
        raise ValueError("1 to 65535")
    return found


def _checktype(value: str) -> str:
    if match := re.search("[0-9]+", value):
        return match[0]
    if value not in CHECKTYPES:
        raise ValueError(f"{', '.join(sorted(CHECKTYPES))}, or a number")
    return value


def _states(value: str) -> str:
    words = {_state(word.strip()) for word in value.split(",")}
    if "none" in words and len(words) > 1:
        raise ValueError("none alone, or others without none")
    return value


def _quoted(value: str) -> str:
    if not value.startswith('"') or '"' not in value[1:]:
        raise ValueError('text in quotes, "...", without # (it begins a comment)')
    return _some(value[1 : value.rindex('"')])


def _quoted_or_empty(value: str) -> str:
    return "" if value.startswith('""') and '"' not in value[2:] else _quoted(value)


def _perhaps_quoted(value: str) -> str:
    return _quoted(value) if value.startswith('"') and '"' in value[1:] else _some(value)


_BOTH: dict[str, _Read] = {
    "checktimeout": _positive,
    "negotiatetimeout": _positive,
    "checkinterval": _positive,
    "checkcount": _positive,
    "failurecount": _positive,
    "fallback": _some,
    "fallback6": _some,
    "quiescent": _yes_or_no,
    "emailalert": lambda value: _some(value[1:-1] if re.fullmatch('"[^"]*"', value) else value),
    "emailalertfreq": _first(r"\A[0-9]+", "a number"),
    "emailalertstatus": _states,
    "cleanstop": _yes_or_no,
    "smtp": _first(r"\A[0-9A-Za-z._+-].*", "an IPv4 address or a name"),
}
TOP: dict[str, _Read] = {
    **_BOTH,
    "virtual": _some,
    "virtual6": _some,
    "fallbackcommand": _some,
    "autoreload": _yes_or_no,
    "callback": _quoted_or_empty,
    "logfile": _quoted_or_empty,
    "execute": str,
    "fork": _yes_or_no,
    "supervised": _yes_or_no,
    "readdquiescent": _yes_or_no,
    "emailalertfrom": _some,
    "maintenancedir": _some,
}
VIRTUAL: dict[str, _Read] = {
    **_BOTH,
    "real": _some,
    "real6": _some,
    "request": _quoted,
    "receive": _quoted,
    "checktype": _checktype,
    "checkcommand": _perhaps_quoted,
    "checkport": _port,
    "login": _quoted,
    "passwd": _quoted,
    "secret": _quoted,
    "database": _quoted,
    "load": _quoted,
    "scheduler": _first("[a-z]+", "lowercase letters"),
    "persistent": _digits,
    "schedflags": _some,
    "netmask": _first(
        r"\A(?:[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|[0-9]{1,3})\Z",
        "a netmask such as 255.255.255.0, for IPv6 a length of 1 to 128",
    ),
    "protocol": _one_of({"tcp", "udp", "fwm"}, _word),
    "ops": _yes_or_no,
    "service": _one_of(SERVICES),
    "httpmethod": _one_of({"GET", "HEAD"}, lambda value: _word(value).upper()),
    "virtualhost": lambda value: value.removeprefix('"').partition('"')[0],
    "fallbackcommand": _perhaps_quoted,
    "monitorfile": _perhaps_quoted,
    "servicename": str,
    "comment": str,
}
_GONE = {
    "connecttimeout": "negotiatetimeout",
    "timeout": "checktimeout and negotiatetimeout",
}


class Options:
    """The directives at the top of a file, or of one virtual. Of several with the same key, the last has an effect."""

    def __init__(self, directives: Iterable[Directive], notes: Notes) -> None:
        self._given: dict[str, Directive] = {}
        self._used: set[str] = set()
        for directive in directives:
            key = str(directive) if directive.key == "execute" else directive.key
            if (before := self._given.get(key)) is not None:
                notes.missing(before.line, f"{before}: line {directive.line} replaces it: {directive}")
            self._given[key] = directive

    def use(self, key: str) -> Directive | None:
        """Return a directive, and count it as used."""
        self._used.add(key)
        return self._given.get(key)

    def has(self, key: str, value: str) -> bool:
        """Whether a directive has this value. It does not count as used."""
        return key in self._given and self._given[key].value == value

    def text(self, key: str, default: str = "") -> str:
        """Return the value of a directive, and count it as used."""
        found = self.use(key)
        return default if found is None else found.value

    def unused(self) -> Iterator[Directive]:
        return (directive for key, directive in self._given.items() if key not in self._used)
