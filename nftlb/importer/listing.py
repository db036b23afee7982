"""The text that ipvsadm prints, or that a shell shows around it, as lines of words. No I/O.

What holds no services is told apart here: prompts, the commands that printed the text, and tables of something else.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.model.reading import show

from .remark import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .draft import Notes

MAX_LINE = 1 << 16
SAVED = "`ipvsadm -S -n`"
PROTOCOLS = {"TCP", "UDP", "SCTP", "FWM"}
WITH_VALUE = {
    "-t": "tcp", "--tcp-service": "tcp", "-u": "udp", "--udp-service": "udp", "--sctp-service": "sctp",
    "-f": "mark", "--fwmark-service": "mark", "-s": "scheduler", "--scheduler": "scheduler",
    "-r": "server", "--real-server": "server", "-w": "weight", "--weight": "weight",
    "-x": "thresholds", "--u-threshold": "thresholds", "-y": "thresholds", "--l-threshold": "thresholds",
    "-M": "netmask", "--netmask": "netmask", "--pe": "engine", "-b": "flags", "--sched-flags": "flags",
    "--tun-type": "tunnel", "--tun-port": "tunnel",
}  # fmt: skip
"""Options of services and servers that take a value, and what the value is."""
WITHOUT_VALUE = {
    "-o": "ops", "--ops": "ops", "-6": "family", "--ipv6": "family", "--tun-nocsum": "tunnel", "--tun-csum": "tunnel",
    "--tun-remcsum": "tunnel", "-n": "form", "--numeric": "form",
    **dict.fromkeys(("-g", "--gatewaying", "-i", "--ipip", "-m", "--masquerading"), "method"),
}  # fmt: skip
PERSISTENT = {"-p", "--persistent"}
_LISTS = {"-L", "-l", "--list", "-S", "--save"}
_OTHER_LISTS = {
    "--stats": "counters", "--rate": "rates", "--thresholds": "thresholds",
    "--persistent-conn": "persistent connections", "-c": "connections", "--connection": "connections",
}  # fmt: skip
_LIST_OPTIONS = {
    "-n", "--numeric", "--exact", "--sort", "--nosort", "--tun-info", "--timeout", "--daemon", "-t", "-u", "-f",
    *_OTHER_LISTS,
}  # fmt: skip
_CHANGES = {
    "-E": "changes a service", "--edit-service": "changes a service", "-D": "removes a service",
    "--delete-service": "removes a service", "-e": "changes a server", "--edit-server": "changes a server",
    "-d": "removes a server", "--delete-server": "removes a server",
}  # fmt: skip
_ELSEWHERE = {
    "-C": "nftlb has tables of its own", "--clear": "nftlb has tables of its own",
    "-Z": "counters begin anew anyway", "--zero": "counters begin anew anyway",
    "--set": "conntrack has time-outs of its own", "--timeout": "conntrack has time-outs of its own",
    "--start-daemon": "nftlb has no sync daemon", "--stop-daemon": "nftlb has no sync daemon",
    "-R": "the services are in the text that it reads", "--restore": "the services are in the text that it reads",
    "-h": "", "--help": "", "-v": "", "--version": "",
}  # fmt: skip
"""Commands that add nothing, with why they are left."""
_COLUMNS = {
    "Conns": "counters", "CPS": "rates", "Uthreshold": "thresholds", "PersistConn": "persistent connections",
}  # fmt: skip
_LEFT_OUT = {"...", "…", "[...]", "[…]", "--More--", "(END)"}
_PROMPT = re.compile(r"\S*[#$%>]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table, or with `command` a command without its `ipvsadm`.

    `tunnels`: the table has a column for them.
    """

    words: list[str]
    line: int
    command: bool = False
    tunnels: bool = False


class Listing:
    def __init__(self, file: str, notes: Notes) -> None:
        self._file = file
        self._notes = notes
        self._tunnels = False

    def rows(self, text: str) -> Iterator[Row]:
        """The lines that say something of services; ConfigError tells the line of what can't be understood."""
        for number, line in self._lines(text):
            words = line.split()
            if words[0] == "Prot":
                self._columns(words, number)
            elif words[0] in PROTOCOLS or (words[0] == "->" and words[1:2] != ["RemoteAddress:Port"]):
                yield Row(words, number, tunnels=self._tunnels)
            elif self._says_something(words, number):
                command = self._command(words, number)
                if command:
                    yield Row(command, number, command=True)

    def _lines(self, text: str) -> Iterator[tuple[int, str]]:
        """Lines with something in them; one that ends with a backslash goes on below."""
        begun, first = "", 0
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            first = first if begun else number
            whole = f"{begun} {line.strip()}".strip()
            if len(whole) > MAX_LINE:
                raise fault(self._file, first, f"a line of {len(whole)} characters; allowed: {MAX_LINE}")
            begun = whole[:-1] if whole.endswith("\\") and not whole.startswith("#") else ""
            if whole and not begun:
                yield first, whole
        if begun:
            yield first, begun

    def _columns(self, words: list[str], line: int) -> None:
        for column, what in _COLUMNS.items():
            if column in words:
                raise self._other(what, line)
        self._tunnels = False

    def _other(self, what: str, line: int) -> Exception:
        return fault(
            self._file, line, f"a table of {what}, which has no schedulers; allowed: {SAVED}, or `ipvsadm -L -n`"
        )

    def _says_something(self, words: list[str], line: int) -> bool:
        """Whether a line can be a command; what stands around tables and commands is none."""
        if words[0] == "->":
            self._tunnels = "TunnelInfo" in words
            return False
        if words[:3] == ["IP", "Virtual", "Server"]:
            return False
        if words[:3] == ["IPVS", "connection", "entries"] or words[:2] == ["pro", "expire"]:
            raise self._other("connections", line)
        if words[0] == "Timeout" or words[1:3] == ["sync", "daemon"]:
            why = _ELSEWHERE["--timeout" if words[0] == "Timeout" else "--start-daemon"]
            self._notes.missing(line, f"{' '.join(words)}: {why}")
            return False
        if words[0].startswith("#"):
            if any(_is_program(word) for word in words) and not any(_listed(word) for word in words):
                what = "a comment, or the prompt of root; without the # it would be read"
                self._notes.missing(line, f"{' '.join(words)}: {what}")
            return False
        if words[0] in _LEFT_OUT:
            what = f"{words[0]} stands for lines that are left out"
            raise fault(self._file, line, f"{what}; allowed: all lines that {SAVED} prints")
        return not (_PROMPT.fullmatch(words[-1]) and not any(_is_program(word) for word in words))

    def _command(self, words: list[str], line: int) -> list[str]:
        """A command that adds something; empty for any other that can be left."""
        words = self._arguments(words, line)
        what = words[0] if words else "-L"
        if what in _LISTS:
            for word in words:
                if word in _OTHER_LISTS:
                    raise self._other(_OTHER_LISTS[word], line)
            return []
        if what in _CHANGES:
            found = f"{what} {_CHANGES[what]} that was added before"
            raise fault(self._file, line, f"{found}; allowed: -A and -a, as {SAVED} prints what came of it")
        if what in _ELSEWHERE:
            why = _ELSEWHERE[what]
            self._notes.missing(line, f"ipvsadm {' '.join(words)}" + (f": {why}" if why else ""))
            return []
        return words

    def _arguments(self, words: list[str], line: int) -> list[str]:
        """What follows `ipvsadm`, up to a comment."""
        programs = [place for place, word in enumerate(words) if _is_program(word)]
        if not programs and not words[0].startswith("-"):
            raise self._no_command(words, line)
        after = words[programs[0] + 1 :] if programs else words
        said = itertools.takewhile(lambda word: not word.startswith("#"), after)
        found = [part for word in said for part in _parts(word.strip("\"'"))]
        for word in found:
            if "$" in word:
                what = f"{show(word)} is a variable of a shell"
                raise fault(self._file, line, f"{what}; run the script, and import what {SAVED} prints then")
        return found

    def _no_command(self, words: list[str], line: int) -> Exception:
        found = f"{show(words[0])} is no line of {SAVED}"
        if _ASSIGNMENT.match(words[0]) or "$" in words[0]:
            found = f"{show(words[0])} is of a script"
        return fault(self._file, line, f"{found}; of a script, run it, and import what {SAVED} prints then")


def _is_program(word: str) -> bool:
    return word.rpartition("/")[2] == "ipvsadm"


def _listed(word: str) -> bool:
    return any(part in _LISTS for part in _parts(word))


def _parts(word: str) -> list[str]:
    """A word as ipvsadm takes it: --scheduler=rr and -srr are two words each, -Ln too."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return [name, value] if equals else [word]
    parts = []
    while len(word) > 2 and word.startswith("-") and word[:2] in _SHORT:  # noqa: PLR2004
        parts.append(word[:2])
        takes_value = word[:2] in WITH_VALUE or (word[:2] == "-p" and word[2].isdecimal())
        word = word[2:] if takes_value else f"-{word[2:]}"
        if takes_value:
            break
    return [*parts, word]


_SHORT = {
    word
    for words in (WITH_VALUE, WITHOUT_VALUE, PERSISTENT, _LISTS, _LIST_OPTIONS, _CHANGES, _ELSEWHERE, {"-A", "-a"})
    for word in words
    if len(word) == 2  # noqa: PLR2004
}
