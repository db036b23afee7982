"""What ipvsadm prints to drafts of pools: `ipvsadm -S -n`, or the table of `ipvsadm -L -n`. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nftlb.model import Forward, IPAddress, Protocol
from nftlb.model.reading import show, split_port

from . import read
from .draft import ALL_PORTS, Draft, Listening, Notes, Server
from .listing import PERSISTENT, WITH_VALUE, WITHOUT_VALUE, Listing
from .remark import fault
from .write import write

if TYPE_CHECKING:
    from .imported import Imported
    from .listing import Row

DEFAULT_SCHEDULER = "wlc"
HINT = "ipvsadm knows no health checks: without `health` all backends count as up."
_NUMERIC = "numbers, as `ipvsadm -S -n` prints them"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_MARKS = {"mark", "FWM"}
_METHODS = {
    "-g": "DR", "--gatewaying": "DR", "-i": "TUN", "--ipip": "TUN", "-m": "NAT", "--masquerading": "NAT",
    "Masq": "NAT", "Route": "DR", "Tunnel": "TUN", "Local": "Local",
}  # fmt: skip
_FORWARDS = {"NAT": Forward.NAT, "DR": Forward.DSR, "TUN": Forward.DSR}


def from_ipvsadm(text: str, file: str = "ipvsadm") -> Imported:
    """Make a configuration of ours of LVS's; ConfigError tells the line of what can't be understood."""
    return _Table(file).imported(text)


class _Table:
    def __init__(self, file: str) -> None:
        self._file = file
        self._notes = Notes(file)
        self._drafts: dict[str, Draft | None] = {}
        self._last: Draft | None = None
        self._any = False
        self._forwards: set[int] = set()

    def imported(self, text: str) -> Imported:
        for row in Listing(self._file, self._notes).rows(text):
            if row.command:
                self._command(row.words, row.line)
            elif row.words[0] == "->":
                self._row(row)
            else:
                self._heading(row.words, row.line)
        return write([one for one in self._drafts.values() if one], self._notes, "ipvsadm", "virtual service", HINT)

    # --- the table ------------------------------------------------------------------------------------------------

    def _heading(self, words: list[str], line: int) -> None:
        if len(words) < 3:  # noqa: PLR2004
            raise fault(
                self._file, line, f"{show(' '.join(words))} is no service; allowed: PROTOCOL ADDRESS:PORT SCHEDULER"
            )
        draft = self._service(words[0], words[1], line)
        self._last, self._any = draft, True
        if draft is None:
            return
        draft.scheduler = words[2]
        if words[2].isdecimal():
            found = f"{show(words[2])} is no scheduler: this seems to be a table of counters"
            raise fault(self._file, line, f"{found}; allowed: `ipvsadm -S -n`, or `ipvsadm -L -n`")
        flags = iter(words[3:])
        for flag in flags:
            match flag:
                case "persistent":
                    self._persist(draft, f"persistent {next(flags, '')}".strip(), line)
                case "ops":
                    draft.ops = True
                case "mask" | "pe":
                    draft.notes.missing(line, f"{flag} {next(flags, '')}".strip())
                case _:
                    draft.notes.missing(line, flag)

    def _row(self, row: Row) -> None:
        words, line = row.words, row.line
        if not self._any:
            raise fault(self._file, line, "a server without a service before it; allowed: the whole table")
        where_weight = 4 if row.tunnels else 3
        if len(words) <= where_weight or words[2] not in _METHODS:
            found = show(" ".join(words))
            raise fault(
                self._file, line, f"{found} is no server; allowed: the table of `ipvsadm -L -n`, or `ipvsadm -S -n`"
            )
        if self._last is None:
            return
        server = self._server(self._last, words[1], words[2], words[where_weight], line)
        if server is not None and row.tunnels and words[3] != "n/a":
            server.notes.missing(line, f"tunnel {words[3]}")

    # --- the commands ---------------------------------------------------------------------------------------------

    def _command(self, words: list[str], line: int) -> None:
        what, *rest = words or [""]
        if what not in {"-A", "--add-service", "-a", "--add-server"}:
            raise fault(self._file, line, f"{show(what)} is no command that `ipvsadm -S -n` prints; allowed: -A, -a")
        service, options = self._options(rest, line)
        if service is None:
            raise fault(self._file, line, "no service; allowed: -t, -u or --sctp-service ADDRESS:PORT, or -f MARK")
        if what in {"-A", "--add-service"}:
            self._add_service(service, options, line)
        else:
            self._add_server(service, options, line)

    def _options(self, words: list[str], line: int) -> tuple[tuple[str, str] | None, list[tuple[str, str, str]]]:
        """The service, and each option as its meaning, its value and how it was written."""
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
                    raise fault(self._file, line, f"{show(word)} has no value; allowed: {word} VALUE")
                next(rest)
                kind = WITH_VALUE[word]
                if kind in {"tcp", "udp", "sctp", "mark"}:
                    service = kind, following
                else:
                    options.append((kind, following, f"{word} {following}"))
            else:
                raise fault(self._file, line, f"{show(word)} is no option that `ipvsadm -S -n` prints")
        return service, options

    def _add_service(self, service: tuple[str, str], options: list[tuple[str, str, str]], line: int) -> None:
        draft = self._service(*service, line)
        if draft is None:
            return
        for kind, value, written in options:
            match kind:
                case "scheduler":
                    draft.scheduler = value
                case "persistent":
                    self._persist(draft, written, line)
                case "ops":
                    draft.ops = True
                case "family" | "form":
                    pass
                case _:
                    draft.notes.missing(line, written)

    def _add_server(self, service: tuple[str, str], options: list[tuple[str, str, str]], line: int) -> None:
        key = self._key(*service)
        if key not in self._drafts:
            raise fault(
                self._file, line, f"no service {show(' '.join(service))} was added before; allowed: -A before -a"
            )
        draft = self._drafts[key]
        if draft is None:
            return
        given = {kind: value for kind, value, _ in options}
        if "server" not in given:
            raise fault(self._file, line, "no server; allowed: -r ADDRESS:PORT")
        server = self._server(draft, given["server"], given.get("method", "-g"), given.get("weight", "1"), line)
        for kind, _, written in options:
            if server is not None and kind not in {"server", "method", "weight", "family", "form"}:
                server.notes.missing(line, written)

    # --- both -----------------------------------------------------------------------------------------------------

    def _key(self, word: str, where: str) -> str:
        return f"{_PROTOCOLS.get(word, word)} {where}"

    def _service(self, word: str, where: str, line: int) -> Draft | None:
        key = self._key(word, where)
        if word in _MARKS:
            mark = f"{'firewall mark' if word == 'mark' else word} {where}"
            self._notes.missing(line, f"{mark}, with its servers: pools take packets by address and port, not by mark")
            self._drafts[key] = None
            return None
        if key in self._drafts:
            raise fault(self._file, line, f"service {show(where)} is there already; allowed: each once")
        address, port = self._endpoint(where, line)
        ports = ALL_PORTS if port is None else (port, port)
        draft = Draft(
            written=f"{word.upper()} {where}",
            line=line,
            notes=Notes(self._file),
            protocol=Protocol(_PROTOCOLS.get(word, word)),
            forward=Forward.DSR,
            scheduler=DEFAULT_SCHEDULER,
            listen=[Listening(address, ports, line)],
        )
        self._drafts[key] = draft
        return draft

    def _persist(self, draft: Draft, written: str, line: int) -> None:
        draft.persistent = True
        draft.notes.changed(line, f"{written}: balance: hash keeps a client with its backend, without a time-out")

    def _server(self, draft: Draft, where: str, method: str, weight: str, line: int) -> Server | None:
        address, port = self._endpoint(where, line)
        how = _METHODS[method]
        if how not in _FORWARDS:
            draft.notes.missing(line, f"{where} {method}: a backend is another host than this")
            return None
        server = Server(address, port, line, Notes(self._file))
        server.weight = read.number(weight, self._file, line, 0, 2**31 - 1)
        if not draft.servers:
            draft.forward = _FORWARDS[how]
        elif _FORWARDS[how] is not draft.forward:
            server.notes.missing(line, f"{method}: forward is the same for the whole pool")
        if how == "TUN":
            server.notes.changed(
                line, f"{method}: nftlb has no tunnels; with dsr backends must be on a link of this host"
            )
        draft.servers.append(server)
        return server

    def _endpoint(self, where: str, line: int) -> tuple[IPAddress, int | None]:
        address, port = split_port(where)
        if not re.fullmatch(r"[0-9A-Fa-f.:]+", address) or (port is not None and not port.isdecimal()):
            raise fault(self._file, line, f"{show(where)} is no ADDRESS:PORT; allowed: {_NUMERIC}")
        return read.address(address, self._file, line), None if port is None else read.port(port, self._file, line)
