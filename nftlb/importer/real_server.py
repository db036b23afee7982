"""The inside of keepalived's real_server, and words that it has in common with its virtual_server. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Forward
from nftlb.model.reading import show

from . import checks, read, timing
from .draft import Notes, Server
from .left_out import note_left_out
from .said import Said, ignoring, name_of, truth, value
from .statements import buried

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import IPAddress

    from .statements import Statement
    from .timing import Timing

METHODS = {"NAT": Forward.NAT, "DR": Forward.DSR, "TUN": Forward.DSR}
MOST_WEIGHT = 2**31 - 1
INHIBITED = "keepalived leaves connections to a server that is down; here they end, and clients reach another"
_SCRIPT_WORDS = 2


class Defaults(NamedTuple):
    """What a virtual_server hands to its real servers."""

    timing: Timing
    virtualhost: str | None
    weight: int


class RealServer:
    """Reads one real_server; `method` is the statement that gives it a method of its own."""

    def __init__(self, statement: Statement, defaults: Defaults, notes: Notes) -> None:
        self._statement = statement
        self._defaults = defaults
        self._notes = Notes(notes.file)
        self._file = notes.file
        self._said = Said(self._notes)
        self._level = timing.Level(self._notes, self._said, least_retry=1)
        self._virtualhost = defaults.virtualhost
        self.method: Statement | None = None
        address, port = endpoint(statement, self._notes)
        self.server = Server(address, port, statement.line, self._notes, weight=defaults.weight)

    def read(self) -> RealServer:
        """The settings first: checks get them wherever they are written."""
        inner = self._statement.block or []
        for one in inner:
            if one.block is not None and one.key not in checks.KINDS:
                self._notes.missing(one.line, f"{one}: its block")
                note_buried(one, self._notes)
            if one.key in _READERS:
                _READERS[one.key](self, one)
            elif one.key in timing.KEYS and one.key != "nb_get_retry":
                self._level.take(one)
            elif one.key not in checks.KINDS:
                note_left_out(one, "real_server", self._notes)
        for one in inner:
            if one.key in checks.KINDS:
                level = self._defaults.timing.inner(self._level.values)
                self.server.checks += checks.checks(one, level, self._virtualhost, self.server)
        return self

    def weight(self, one: Statement) -> None:
        text = value(one, self._file)
        with ignoring(self._notes, one):
            self.server.weight = read.number(text, self._file, one.line, 0, MOST_WEIGHT)
            self._said.last("weight", one)

    def virtualhost(self, one: Statement) -> None:
        if name := name_of(one, self._notes):
            self._virtualhost = name
            self._said.last("virtualhost", one)

    def notify_up(self, one: Statement) -> None:
        program = script(one, self._notes)
        if self._said.first("notify_up", one):
            self.server.up = program

    def notify_down(self, one: Statement) -> None:
        program = script(one, self._notes)
        if self._said.first("notify_down", one):
            self.server.down = program

    def lvs_method(self, one: Statement) -> None:
        if method_of(one, self._notes, "the service's") is not None:
            self._said.last("lvs_method", one)
            self.method = one

    def inhibit(self, one: Statement) -> None:
        with ignoring(self._notes, one):
            if truth(one, self._file):
                self._notes.changed(one.line, f"{one}: {INHIBITED}")


_READERS: dict[str, Callable[[RealServer, Statement], None]] = {
    "weight": RealServer.weight,
    "virtualhost": RealServer.virtualhost,
    "notify_up": RealServer.notify_up,
    "notify_down": RealServer.notify_down,
    "lvs_method": RealServer.lvs_method,
    "inhibit_on_failure": RealServer.inhibit,
}


def endpoint(one: Statement, notes: Notes) -> tuple[IPAddress, int | None]:
    address = read.address(value(one, notes.file), notes.file, one.line)
    port = read.port(one.values[1], notes.file, one.line) if len(one.values) > 1 else None
    if one.values[2:]:
        notes.missing(one.line, f"{one}: {' '.join(one.values[2:])}, which keepalived does not look at")
    return address, port


def method_of(one: Statement, notes: Notes, otherwise: str) -> str | None:
    """NAT, DR or TUN; None, with a note, for what keepalived passes over."""
    method = value(one, notes.file)
    if method == "FNAT":
        what = f"it is a word of dpvs', not of keepalived's, which takes {otherwise}; dpvs' full NAT is"
        notes.missing(one.line, f"{one}: {what} `forward: nat` with `source: masquerade`")
        return None
    if method not in METHODS:
        what = f"{show(method)} is not a method; allowed: {', '.join(METHODS)}; keepalived takes {otherwise}"
        notes.missing(one.line, f"{one}: {what}")
        return None
    if method == "TUN":
        notes.changed(one.line, f"{one}: nftlb has no tunnels; with dsr backends must be on a link of this host")
    elif one.values[1:]:
        notes.missing(one.line, f"{one}: {' '.join(one.values[1:])}")
    return method


def script(one: Statement, notes: Notes) -> tuple[str, ...]:
    """A program with its arguments; none if it can't be run here."""
    program = tuple(checks.argv(value(one, notes.file)))
    if len(one.values) >= _SCRIPT_WORDS:
        notes.missing(one.line, f"{one}: the user {one.values[1]}")
    if not program or not all(word and word.isprintable() for word in program):
        notes.missing(one.line, f"{one}")
        return ()
    return program


def note_buried(statement: Statement, notes: Notes) -> None:
    """Name the services and servers within a statement that has none for keepalived."""
    for one in buried(statement):
        notes.missing(one.line, f"{one}: it is within {statement.key}, where keepalived looks for none")
