"""Reads the output of `ipvsadm -S -n`, or the table of `ipvsadm -L -n`, into drafts of pools. No I/O.

Without `-n`, ipvsadm prints names: those of ports, and of hosts as servers in commands, are taken over too.

The text around the output, in a terminal or a script, is recognised: prompts, the commands that printed the text, and
tables of other things.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.config.reading import split_port
from nftlb.model import UNSPECIFIED, IPAddress, Protocol
from nftlb.model.kinds import family
from nftlb.printable import show

from .draft import (
    ALL_PORTS,
    DIRECT,
    FOLLOWED,
    MARKS,
    MOST_WEIGHT,
    NAT,
    NO_GUE,
    TUNNEL,
    TUNNELS,
    Draft,
    DraftListener,
    DraftServer,
    Line,
    Notes,
    SchedulerFlags,
    bad_text,
    is_host_name,
    parse_address,
    parse_named_port,
    parse_number,
    parse_service_address,
)
from .write import write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .draft import Imported


MAX_LINE = 1 << 16
SAVED = "`ipvsadm -S -n`"
PROTOCOLS = {"TCP", "UDP", "SCTP", "FWM"}
WITH_VALUE = {
    "-t": "tcp", "--tcp-service": "tcp", "-u": "udp", "--udp-service": "udp", "--sctp-service": "sctp",
    "-f": "mark", "--fwmark-service": "mark", "-s": "scheduler", "--scheduler": "scheduler",
    "-r": "server", "--real-server": "server", "-w": "weight", "--weight": "weight",
    "-x": "thresholds", "--u-threshold": "thresholds", "-y": "thresholds", "--l-threshold": "thresholds",
    "-M": "netmask", "--netmask": "netmask", "--pe": "engine", "-b": "flags", "--sched-flags": "flags",
    "--tun-type": "tunnel type", "--tun-port": "tunnel",
}  # fmt: skip
"""Options of services and servers that have a value, with the meaning of the value."""
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
    "-C": "nftlb has its own tables", "--clear": "nftlb has its own tables",
    "-Z": "nftlb's counters start at 0 anyway", "--zero": "nftlb's counters start at 0 anyway",
    "--set": "conntrack has its own time-outs, and a pool may have a `session_timeout`",
    "--timeout": "conntrack has its own time-outs",
    "--start-daemon": "nftlb has no sync daemon", "--stop-daemon": "nftlb has no sync daemon",
    "-R": "import the file that this command reads", "--restore": "import the file that this command reads",
    "-h": "", "--help": "", "-v": "", "--version": "",
}  # fmt: skip
"""Commands that add no service, with the reason why they are not taken over."""
_COLUMNS = {
    "Conns": "counters", "CPS": "rates", "Uthreshold": "thresholds", "PersistConn": "persistent connections",
}  # fmt: skip
_LEFT_OUT = {"...", "…", "[...]", "[…]", "--More--", "(END)"}
_PROMPT = re.compile(r"\S*[#$%>]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True)
class ListingLine:
    """A line of a table, or with `command` the options of an ipvsadm command.

    `tunnels`: the table has a column for tunnels.
    """

    words: list[str]
    line: Line
    command: bool = False
    tunnels: bool = False


class IpvsListing:
    def __init__(self, file: str, notes: Notes) -> None:
        self._file = file
        self._notes = notes
        self._tunnels = False

    def rows(self, text: str) -> Iterator[ListingLine]:
        """Yield the lines about services. ConfigError, with its line, for text that can't be understood."""
        for line, row in self._lines(text):
            words = row.split()
            if words[0] == "Prot":
                self._columns(words, line)
            elif words[0] in PROTOCOLS or (words[0] == "->" and words[1:2] != ["RemoteAddress:Port"]):
                yield ListingLine(words, line, tunnels=self._tunnels)
            elif self._is_command(words, line):
                command = self._command(words, line)
                if command:
                    yield ListingLine(command, line, command=True)

    def _lines(self, text: str) -> Iterator[tuple[Line, str]]:
        """Yield the lines that are not empty; a line that ends with a backslash continues on the next line."""
        begun, first = "", Line(0, self._file)
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            first = first if begun else Line(number, self._file)
            whole = f"{begun} {line.strip()}".strip()
            if len(whole) > MAX_LINE:
                raise bad_text(first, f"a line of {len(whole)} characters; allowed: {MAX_LINE}")
            begun = whole[:-1] if whole.endswith("\\") and not whole.startswith("#") else ""
            if whole and not begun:
                yield first, whole
        if begun:
            yield first, begun

    def _columns(self, words: list[str], line: Line) -> None:
        for column, what in _COLUMNS.items():
            if column in words:
                raise self._other(what, line)
        self._tunnels = False

    def _other(self, what: str, line: Line) -> Exception:
        return bad_text(line, f"a table of {what}, which has no schedulers; allowed: {SAVED}, or `ipvsadm -L -n`")

    def _is_command(self, words: list[str], line: Line) -> bool:
        """Whether a line can be a command. Headings, prompts and comments can't."""
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
                what = "a comment, or the prompt of root; remove the # to import the command"
                self._notes.missing(line, f"{' '.join(words)}: {what}")
            return False
        if words[0] in _LEFT_OUT:
            what = f"{words[0]} stands for lines that are left out"
            raise bad_text(line, f"{what}; allowed: all lines that {SAVED} prints")
        return not (_PROMPT.fullmatch(words[-1]) and not any(_is_program(word) for word in words))

    def _command(self, words: list[str], line: Line) -> list[str]:
        """Return the options of a command that adds a service or server; empty for a command without effect."""
        words = self._arguments(words, line)
        what = words[0] if words else "-L"
        if what in _LISTS:
            for word in words:
                if word in _OTHER_LISTS:
                    raise self._other(_OTHER_LISTS[word], line)
            return []
        if what in _CHANGES:
            found = f"{what} {_CHANGES[what]} that was added before"
            raise bad_text(line, f"{found}; allowed: -A and -a; run the script, and import what {SAVED} prints then")
        if what in _ELSEWHERE:
            why = _ELSEWHERE[what]
            self._notes.missing(line, f"ipvsadm {' '.join(words)}" + (f": {why}" if why else ""))
            return []
        return words

    def _arguments(self, words: list[str], line: Line) -> list[str]:
        """The words after `ipvsadm`, up to a comment."""
        programs = [place for place, word in enumerate(words) if _is_program(word)]
        if not programs and not words[0].startswith("-"):
            raise self._no_command(words, line)
        after = words[programs[0] + 1 :] if programs else words
        said = itertools.takewhile(lambda word: not word.startswith("#"), after)
        found = [part for word in said for part in _parts(word.strip("\"'"))]
        for word in found:
            if "$" in word:
                what = f"{show(word)} is a variable of a shell"
                raise bad_text(line, f"{what}; run the script, and import what {SAVED} prints then")
        return found

    def _no_command(self, words: list[str], line: Line) -> Exception:
        found = f"{show(words[0])} is not a line of {SAVED}"
        if _ASSIGNMENT.match(words[0]) or "$" in words[0]:
            found = f"{show(words[0])} belongs to a script"
        return bad_text(line, f"{found}; run a script first, and import what {SAVED} prints then")


def _is_program(word: str) -> bool:
    return word.rpartition("/")[2] == "ipvsadm"


def _listed(word: str) -> bool:
    return any(part in _LISTS for part in _parts(word))


def _parts(word: str) -> list[str]:
    """Split a word as ipvsadm does: --scheduler=rr, -srr and -Ln are two words each."""
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


# --- drafts -----------------------------------------------------------------------------------------------------------

_SHORT = {
    word
    for words in (WITH_VALUE, WITHOUT_VALUE, PERSISTENT, _LISTS, _LIST_OPTIONS, _CHANGES, _ELSEWHERE, {"-A", "-a"})
    for word in words
    if len(word) == 2  # noqa: PLR2004
}


DEFAULT_SCHEDULER = "wlc"
HINT = "ipvsadm knows no health checks: without `health` all backends count as up."
_NUMERIC = "numbers, as `ipvsadm -S -n` prints them"
_ADDRESS = re.compile(r"[0-9.]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*")
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_MARKS = {"mark", "FWM"}
_METHODS = {
    "-g": "DR", "--gatewaying": "DR", "-i": "TUN", "--ipip": "TUN", "-m": "NAT", "--masquerading": "NAT",
    "Masq": "NAT", "Route": "DR", "Tunnel": "TUN", "Local": "Local",
}  # fmt: skip
_WAYS = {"NAT": NAT, "DR": DIRECT, "TUN": TUNNEL}


def from_ipvsadm(text: str, file: str = "ipvsadm") -> Imported:
    """Translate a configuration of LVS. ConfigError, with its line, for text that can't be understood."""
    notes = Notes()
    drafts = _Table(notes).drafts(IpvsListing(file, notes).rows(text))
    return write_config(drafts, notes, file, "ipvsadm", "virtual service", HINT)


class _Table:
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._drafts: dict[str, Draft | None] = {}
        self._last: Draft | None = None
        self._any = False

    def drafts(self, rows: Iterable[ListingLine]) -> list[Draft]:
        for row in rows:
            if row.command:
                self._command(row.words, row.line)
            elif row.words[0] == "->":
                self._row(row)
            else:
                self._heading(row.words, row.line)
        return [draft for draft in self._drafts.values() if draft]

    # --- the table ------------------------------------------------------------------------------------------------

    def _heading(self, words: list[str], line: Line) -> None:
        if len(words) < 3:  # noqa: PLR2004
            raise bad_text(line, f"{show(' '.join(words))} is not a service; allowed: PROTOCOL ADDRESS:PORT SCHEDULER")
        draft = self._service(words[0], words[1], line)
        self._last, self._any = draft, True
        if draft is None:
            return
        draft.scheduler = words[2]
        if words[2].isdecimal():
            found = f"{show(words[2])} is not a scheduler: this seems to be a table of counters"
            raise bad_text(line, f"{found}; allowed: `ipvsadm -S -n`, or `ipvsadm -L -n`")
        flags = iter(words[3:])
        for flag in flags:
            match flag:
                case "persistent":
                    draft.make_persistent(line, f"persistent {next(flags, '')}".strip())
                case "ops":
                    draft.ops = True
                case _ if flag.startswith("(") and flag.endswith(")"):
                    draft.flags.append(SchedulerFlags(tuple(flag[1:-1].split(",")), flag, line))
                case "mask" | "pe":
                    draft.notes.missing(line, f"{flag} {next(flags, '')}".strip())
                case _:
                    draft.notes.missing(line, flag)

    def _row(self, row: ListingLine) -> None:
        words, line = row.words, row.line
        if not self._any:
            raise bad_text(line, "a server without a service before it; allowed: the whole table")
        where_weight = 4 if row.tunnels else 3
        if len(words) <= where_weight or words[2] not in _METHODS:
            found = show(" ".join(words))
            raise bad_text(line, f"{found} is not a server; allowed: the table of `ipvsadm -L -n`, or `ipvsadm -S -n`")
        if self._last is None:
            return
        tunnel = words[3] if row.tunnels else "n/a"
        server = self._server(self._last, words[1], words[2], words[where_weight], line, tunnel, names=False)
        if server is not None and tunnel not in {"n/a", *TUNNELS}:
            server.notes.missing(line, f"tunnel {tunnel}: {NO_GUE}")

    # --- the commands ---------------------------------------------------------------------------------------------

    def _command(self, words: list[str], line: Line) -> None:
        what, *rest = words or [""]
        if what not in {"-A", "--add-service", "-a", "--add-server"}:
            raise bad_text(line, f"{show(what)} is not a command that `ipvsadm -S -n` prints; allowed: -A, -a")
        service, options = self._options(rest, line)
        if service is None:
            raise bad_text(line, "no service; allowed: -t, -u or --sctp-service ADDRESS:PORT, or -f MARK")
        if what in {"-A", "--add-service"}:
            self._add_service(service, options, line)
        else:
            self._add_server(service, options, line)

    def _options(self, words: list[str], line: Line) -> tuple[tuple[str, str] | None, list[tuple[str, str, str]]]:
        """Return the service, and each option with its meaning, its value and its text."""
        service, options = None, []
        rest = iter(range(len(words)))
        for index in rest:
            word = words[index]
            following = words[index + 1] if index + 1 < len(words) else None
            if word in PERSISTENT:
                timeout = following if following is not None and following.isdecimal() else ""
                if timeout:
                    next(rest)
                options.append(("persistent", timeout, f"{word} {timeout}".strip()))
            elif word in WITHOUT_VALUE:
                options.append((WITHOUT_VALUE[word], word, word))
            elif word in WITH_VALUE:
                if following is None:
                    raise bad_text(line, f"{show(word)} has no value; allowed: {word} VALUE")
                next(rest)
                kind = WITH_VALUE[word]
                if kind in {"tcp", "udp", "sctp", "mark"}:
                    service = kind, following
                else:
                    options.append((kind, following, f"{word} {following}"))
            else:
                raise bad_text(line, f"{show(word)} is not an option; allowed: those that `ipvsadm -S -n` prints")
        return service, options

    def _add_service(self, service: tuple[str, str], options: list[tuple[str, str, str]], line: Line) -> None:
        draft = self._service(*service, line)
        if draft is None:
            return
        for kind, value, written in options:
            match kind:
                case "scheduler":
                    draft.scheduler = value
                case "persistent":
                    draft.make_persistent(line, written)
                case "ops":
                    draft.ops = True
                case "flags":
                    draft.flags.append(SchedulerFlags(tuple(value.split(",")), written, line))
                case "family" | "form":
                    pass
                case _:
                    draft.notes.missing(line, written)

    def _add_server(self, service: tuple[str, str], options: list[tuple[str, str, str]], line: Line) -> None:
        key = self._key(*service)
        if key not in self._drafts:
            raise bad_text(line, f"no service {show(' '.join(service))} was added before; allowed: -A before -a")
        draft = self._drafts[key]
        if draft is None:
            return
        given = {kind: value for kind, value, _ in options}
        if "server" not in given:
            raise bad_text(line, "no server; allowed: -r ADDRESS:PORT")
        method, tunnel = given.get("method", "-g"), given.get("tunnel type", "ipip")
        weight = given.get("weight", "1")
        server = self._server(draft, given["server"], method, weight, line, tunnel, names=True)
        known = {"server", "method", "weight", "family", "form"}
        if tunnel in TUNNELS and _METHODS[method] == "TUN":
            known.add("tunnel type")
        for kind, value, written in options:
            if server is not None and kind not in known:
                gue = kind == "tunnel type" and value not in TUNNELS
                server.notes.missing(line, f"{written}: {NO_GUE}" if gue else written)

    # --- both -----------------------------------------------------------------------------------------------------

    def _key(self, word: str, where: str) -> str:
        return f"{_PROTOCOLS.get(word, word)} {where}"

    def _service(self, word: str, where: str, line: Line) -> Draft | None:
        key = self._key(word, where)
        if word in _MARKS:
            mark = f"{'firewall mark' if word == 'mark' else word} {where}"
            self._notes.missing(line, f"{mark}, with its servers: {MARKS}")
            self._drafts[key] = None
            return None
        if key in self._drafts:
            raise bad_text(line, f"service {show(where)} is there already; allowed: each service once")
        address, port = self._endpoint(where, line, parse_service_address)
        ports = ALL_PORTS if port is None else (port, port)
        draft = Draft(
            written=f"{word.upper()} {where}",
            line=line,
            notes=Notes(),
            protocol=Protocol(_PROTOCOLS.get(word, word)),
            way=DIRECT,
            scheduler=DEFAULT_SCHEDULER,
            listen=[DraftListener(address, ports, line)],
        )
        self._drafts[key] = draft
        return draft

    def _server(
        self, draft: Draft, where: str, method: str, weight: str, line: Line, tunnel: str, *, names: bool
    ) -> DraftServer | None:
        """Add a server. `tunnel` is its type of tunnel, which has an effect only with the method of tunnels.

        `names`: the server may be a host name. Tables need addresses: `ipvsadm -L` cuts long names off.
        """
        name, port = split_port(where)
        host = name if names and is_host_name(name) else ""
        if host:
            address = UNSPECIFIED[family(draft.listen[0].address)]
            number = None if port is None else parse_named_port(port, line)
        else:
            address, number = self._endpoint(where, line)
        how = _METHODS[method]
        if how not in _WAYS:
            draft.notes.missing(line, f"{where} {method}: a backend must be another host")
            return None
        server = DraftServer(address, number, line, Notes(), host=host)
        if host:
            server.notes.changed(line, f"{where}: {FOLLOWED}")
        server.weight = parse_number(weight, line, 0, MOST_WEIGHT)
        way = _WAYS[how]
        draft.add_server(server, TUNNELS.get(tunnel, way) if way == TUNNEL else way, method)
        return server

    def _endpoint(
        self, where: str, line: Line, read: Callable[[str, Line], IPAddress] = parse_address
    ) -> tuple[IPAddress, int | None]:
        address, port = split_port(where)
        if not _ADDRESS.fullmatch(address):
            raise bad_text(line, f"{show(where)} is not ADDRESS:PORT; allowed: {_NUMERIC}")
        return read(address, line), None if port is None else parse_named_port(port, line)
