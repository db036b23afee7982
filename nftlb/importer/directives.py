"""ldirectord.cf to directives: lines, indentation, comments, quotes, and which directive stands where. No I/O.

The rules are those of ldirectord 4.12, which reads the file line by line. What ldirectord refuses is an error here too,
with three exceptions: a byte order mark, the line ends of Windows, and blanks at the end of a line mean nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.model.reading import show

from .remark import fault

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE = 1 << 16
_BLANKS = " \t\r\n\f\v"
_INDENT = 4
_SECRET = {"passwd", "secret"}
_MOST_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Directive:
    """`value` is without quotes, and for a number its digits alone."""

    key: str
    value: str
    line: int

    def __str__(self) -> str:
        return f"{self.key} = {'...' if self.key in _SECRET else self.value}"

    @property
    def number(self) -> int:
        """A number; one with more than ten digits is as good as one with ten."""
        return int(self.value.lstrip("0")[:_MOST_DIGITS] or "0")


@dataclass
class Block:
    """A `virtual` or `virtual6` with what is indented below."""

    head: Directive
    inner: list[Directive] = field(default_factory=list)


@dataclass
class Parsed:
    top: list[Directive] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def parse(text: str, file: str) -> Parsed:
    """Read a whole file; ConfigError tells the line of what ldirectord would not take."""
    parsed = Parsed()
    block: Block | None = None
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if len(line) > MAX_LINE:
            raise fault(file, number, f"a line of {len(line)} characters; allowed: {MAX_LINE}")
        if line.lstrip(_BLANKS).startswith("#"):
            continue
        if block is not None:
            inner = _indented(line)
            if inner is not None:
                block.inner.append(_directive(inner, number, file, VIRTUAL))
                continue
            block = None
        if not line.strip(_BLANKS):
            continue
        if line[0] in _BLANKS:
            what = f"{show(line.strip(_BLANKS))} is indented, but belongs to no virtual"
            raise fault(file, number, f"{what}; allowed: 4 blanks or a tab, with no empty line since the virtual")
        found = _directive(line.rstrip(_BLANKS), number, file, TOP)
        if found.key in {"virtual", "virtual6"}:
            block = Block(found)
            parsed.blocks.append(block)
        else:
            parsed.top.append(found)
    return parsed


def _indented(line: str) -> str | None:
    """What a line within a virtual says; None if the line is outside. Here # begins a comment, even within quotes."""
    said = line.partition("#")[0].replace("\t", " " * _INDENT).rstrip("\r\n")
    if not said.startswith(" " * _INDENT) or len(said) == _INDENT:
        return None
    return said.strip(_BLANKS)


_ASSIGNED = re.compile(r"(\w+)\s*=\s*(.*)", re.DOTALL)


def _directive(said: str, line: int, file: str, allowed: dict[str, _Read]) -> Directive:
    match = _ASSIGNED.fullmatch(said)
    if match is None and allowed is TOP and said == "supervised":
        return Directive("supervised", "yes", line)
    if match is None or match[1] not in allowed:
        word = match[1] if match else said
        if word in _GONE:
            raise fault(file, line, f"{word} is no longer a directive of ldirectord; allowed: {_GONE[word]}")
        other = "inside a virtual" if allowed is TOP and word in VIRTUAL else ""
        other = "outside of any virtual" if allowed is VIRTUAL and word in TOP else other
        where = f"{show(word)} is no directive " + ("in a virtual" if allowed is VIRTUAL else "outside of a virtual")
        raise fault(file, line, f"{where}; allowed: {f'{word} {other}' if other else 'DIRECTIVE = VALUE'}")
    key, value = match[1], match[2]
    try:
        return Directive(key, allowed[key](value), line)
    except ValueError as error:
        shown = "..." if key in _SECRET else show(value)
        raise fault(file, line, f"{shown} can't stand for {key}; allowed: {error}") from None


# --- values: each returns what the directive means, or raises ValueError with what is allowed -------------------------

_DIGITS = re.compile(r"[0-9]+")
_LETTERS = re.compile(r"[a-z]+")
_WORD = re.compile(r"\w+")
_SERVER = re.compile(r"[0-9A-Za-z._+-]+")
_NETMASK = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|[0-9]{1,3}")
_STATES = {"none", "all", "starting", "stopping", "running", "reloading"}
CHECKTYPES = {"connect", "negotiate", "ping", "off", "on", "external", "external-perl"}
SERVICES = {
    "dns", "ftp", "http", "https", "http_proxy", "imap", "imaps", "ldap", "ldaps", "nntp", "mysql", "none", "oracle",
    "pop", "pops", "radius", "pgsql", "sip", "smtp", "submission", "simpletcp",
}  # fmt: skip


def _some(value: str) -> str:
    if not value:
        raise ValueError("a value")
    return value


def _any(value: str) -> str:
    return value


def _digits(value: str) -> str:
    """The first number in the value: that is what ldirectord looks for."""
    match = _DIGITS.search(value)
    if match is None:
        raise ValueError("a number")
    return match[0]


def _leading_digits(value: str) -> str:
    match = _DIGITS.match(value)
    if match is None:
        raise ValueError("a number")
    return match[0]


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


def _yes_or_no(value: str) -> str:
    return _one_of(value, {"yes", "no"})


def _one_of(value: str, words: set[str]) -> str:
    if value not in words:
        raise ValueError(", ".join(sorted(words)))
    return value


def _service(value: str) -> str:
    return _one_of(value, SERVICES)


def _protocol(value: str) -> str:
    match = _WORD.search(value)
    return _one_of(match[0] if match else "", {"tcp", "udp", "fwm"})


def _method(value: str) -> str:
    match = _WORD.search(value)
    return _one_of(match[0].upper() if match else "", {"GET", "HEAD"})


def _checktype(value: str) -> str:
    if match := _DIGITS.search(value):
        return match[0]
    if value not in CHECKTYPES:
        raise ValueError(f"{', '.join(sorted(CHECKTYPES))}, or a number")
    return value


def _scheduler(value: str) -> str:
    match = _LETTERS.search(value)
    if match is None:
        raise ValueError("lowercase letters")
    return match[0]


def _netmask(value: str) -> str:
    if not _NETMASK.fullmatch(value):
        raise ValueError("a netmask such as 255.255.255.0, for IPv6 a length of 1 to 128")
    return value


def _states(value: str) -> str:
    words = [word.strip() for word in value.split(",")]
    for word in words:
        _one_of(word, _STATES)
    if "none" in words and len(set(words)) > 1:
        raise ValueError("none alone, or others without none")
    return value


def _mail_address(value: str) -> str:
    return _some(value[1:-1] if re.fullmatch('"[^"]*"', value) else value)


def _mail_server(value: str) -> str:
    if not _SERVER.match(value):
        raise ValueError("an IPv4 address or a name")
    return value


def _quoted(value: str) -> str:
    if not value.startswith('"') or '"' not in value[1:]:
        raise ValueError('text in quotes, "...", without # (it begins a comment)')
    return _some(value[1 : value.rindex('"')])


def _quoted_or_empty(value: str) -> str:
    return "" if value.startswith('""') and '"' not in value[2:] else _quoted(value)


def _perhaps_quoted(value: str) -> str:
    return _quoted(value) if value.startswith('"') and '"' in value[1:] else _some(value)


def _without_quotes(value: str) -> str:
    return value.removeprefix('"').partition('"')[0]


if TYPE_CHECKING:
    _Read = Callable[[str], str]

_BOTH: dict[str, _Read] = {
    "checktimeout": _positive,
    "negotiatetimeout": _positive,
    "checkinterval": _positive,
    "checkcount": _positive,
    "failurecount": _positive,
    "fallback": _some,
    "fallback6": _some,
    "quiescent": _yes_or_no,
    "emailalert": _mail_address,
    "emailalertfreq": _leading_digits,
    "emailalertstatus": _states,
    "cleanstop": _yes_or_no,
    "smtp": _mail_server,
}
TOP: dict[str, _Read] = {
    **_BOTH,
    "virtual": _some,
    "virtual6": _some,
    "fallbackcommand": _some,
    "autoreload": _yes_or_no,
    "callback": _quoted_or_empty,
    "logfile": _quoted_or_empty,
    "execute": _any,
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
    "scheduler": _scheduler,
    "persistent": _digits,
    "schedflags": _some,
    "netmask": _netmask,
    "protocol": _protocol,
    "ops": _yes_or_no,
    "service": _service,
    "httpmethod": _method,
    "virtualhost": _without_quotes,
    "fallbackcommand": _perhaps_quoted,
    "monitorfile": _perhaps_quoted,
    "servicename": _any,
    "comment": _any,
}
_GONE = {
    "connecttimeout": "negotiatetimeout",
    "timeout": "checktimeout and negotiatetimeout",
}
