"""keepalived's virtual_server blocks, with their real_server blocks, to drafts of pools. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Protocol
from nftlb.printable import show

from .draft import (
    ANOTHER_FORWARD,
    DIRECT,
    MOST_WEIGHT,
    NAT,
    NO_GUE,
    TUNNEL,
    TUNNELS,
    DraftServer,
    Netmask,
    Notes,
    SchedulerFlags,
    SorryServer,
    Way,
    bad_text,
    parse_address,
    parse_number,
    parse_port,
)
from .fit_to_pool_rules import BALANCES, COUNTING
from .keepalived_checks import CHECK_KINDS, read_checks, split_program
from .keepalived_statements import hidden_services
from .keepalived_values import (
    TIMING_KEYS,
    EffectiveStatements,
    Timing,
    TimingReader,
    ignoring_bad_value,
    is_on,
    note_without_counterpart,
    optional_name,
    optional_number,
    required_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from nftlb.model import IPAddress

    from .draft import Draft
    from .keepalived_statements import Statement

    _Readers = Mapping[str, Callable[[Statement], None]]

METHODS = {"NAT": NAT, "DR": DIRECT, "TUN": TUNNEL}
SCHEDULERS = {*BALANCES, *COUNTING}
INHIBITED = "keepalived keeps connections to a server that is down; nftlb ends them, and clients reach another server"
_LIMITS = {"quorum": (1, 2**32 - 1), "hysteresis": (0, 2**32 - 1), "weight": (1, MOST_WEIGHT)}
"""The numbers of a virtual_server, with the lowest and the highest value that keepalived accepts."""
_FLAGS = ("flag-1", "flag-2", "flag-3", "mh-fallback", "mh-port", "sh-fallback", "sh-port")
_LONGEST_PERSISTENCE = 2_678_400
_SCRIPT_WORDS = 2


class _BlockReader:
    """What the readers of virtual_server and real_server have in common."""

    def __init__(self, notes: Notes, *, alpha_has_value: bool = True) -> None:
        self._notes = notes
        self._effective = EffectiveStatements(notes)
        self._timing = TimingReader(notes, self._effective, least_retry=1, alpha_has_value=alpha_has_value)
        self._virtualhost: str | None = None

    def _read_settings(self, block: str, inner: list[Statement], nested: Container[str], readers: _Readers) -> None:
        """Read all statements of a block but those of `nested`; note the statements that are not taken over."""
        for statement in inner:
            if statement.block is not None and statement.key not in nested:
                self._notes.missing(statement.line, f"{statement}: its block")
                note_hidden_services(statement, self._notes)
            if statement.key in readers:
                readers[statement.key](statement)
            elif statement.key in TIMING_KEYS and statement.key != "nb_get_retry":
                self._timing.read(statement)
            elif statement.key not in nested:
                note_without_counterpart(statement, block, self._notes)

    def _last_number(self, statement: Statement, low: int, high: int) -> int | None:
        """Return the number of a statement, which replaces an earlier statement of the same keyword."""
        found = optional_number(statement, self._notes, low, high)
        if found is not None:
            self._effective.keep_last(statement.key, statement)
        return found

    def _read_virtualhost(self, statement: Statement) -> None:
        if name := optional_name(statement, self._notes):
            self._virtualhost = name
            self._effective.keep_last("virtualhost", statement)

    def _first_script(self, statement: Statement) -> tuple[str, ...] | None:
        """Return a program with its arguments; None if an earlier statement names another program."""
        program = read_script(statement, self._notes)
        return program if self._effective.keep_first(statement.key, statement) else None


class ServiceDefaults(NamedTuple):
    """The values of a virtual_server that its real servers have too, where they set no other."""

    timing: Timing
    virtualhost: str | None
    weight: int


class RealServerReader(_BlockReader):
    """Reads one real_server. `method` is its own statement of a forwarding method, if any, and `way` the meaning."""

    def __init__(self, statement: Statement, defaults: ServiceDefaults) -> None:
        super().__init__(Notes())
        self._inner = statement.block or []
        self._defaults = defaults
        self._virtualhost = defaults.virtualhost
        self.method: Statement | None = None
        self.way: Way | None = None
        address, port = server_endpoint(statement, self._notes)
        self.server = DraftServer(address, port, statement.line, self._notes, weight=defaults.weight)

    def read(self) -> RealServerReader:
        """Read the settings, then the checks: checks have the settings wherever these are written."""
        readers: _Readers = {
            "weight": self._weight,
            "virtualhost": self._read_virtualhost,
            "notify_up": self._notify,
            "notify_down": self._notify,
            "lvs_method": self._lvs_method,
            "inhibit_on_failure": self._inhibit,
        }
        self._read_settings("real_server", self._inner, CHECK_KINDS, readers)
        timing = self._defaults.timing.inner(self._timing.values)
        for statement in self._inner:
            if statement.key in CHECK_KINDS:
                self.server.checks += read_checks(statement, timing, self._virtualhost, self.server)
        return self

    def _weight(self, statement: Statement) -> None:
        if (found := self._last_number(statement, 0, MOST_WEIGHT)) is not None:
            self.server.weight = found

    def _notify(self, statement: Statement) -> None:
        if (program := self._first_script(statement)) is None:
            return
        if statement.key == "notify_up":
            self.server.up = program
        else:
            self.server.down = program

    def _lvs_method(self, statement: Statement) -> None:
        if (way := read_method(statement, self._notes, "the service's")) is not None:
            self._effective.keep_last("lvs_method", statement)
            self.method, self.way = statement, way

    def _inhibit(self, statement: Statement) -> None:
        with ignoring_bad_value(self._notes, statement):
            if is_on(statement):
                self._notes.changed(statement.line, f"{statement}: {INHIBITED}")


class VirtualServerReader(_BlockReader):
    """Reads the inside of one virtual_server into a draft."""

    def __init__(self, draft: Draft, inner: list[Statement]) -> None:
        super().__init__(draft.notes, alpha_has_value=False)
        self._draft = draft
        self._inner = inner
        self._numbers = {"quorum": 1, "hysteresis": 0, "weight": 1}
        self._protocol: Protocol | None = None
        self._way: Way | None = None
        self._sorry_method: tuple[Statement, Way] | None = None
        self._real: list[RealServerReader] = []

    def read(self) -> None:
        """Read the settings, then the real servers: these have the settings wherever they are written."""
        readers: _Readers = {
            "lvs_sched": self._read_scheduler,
            "lb_algo": self._read_scheduler,
            "lvs_method": self._read_method,
            "lb_kind": self._read_method,
            "protocol": self._read_protocol,
            "ops": self._read_ops,
            **dict.fromkeys(_FLAGS, self._read_flag),
            "persistence_timeout": self._read_persistence,
            "persistence_granularity": self._read_granularity,
            **dict.fromkeys(_LIMITS, self._read_number),
            "virtualhost": self._read_virtualhost,
            "inhibit_on_failure": self._read_inhibit,
            "quorum_up": self._read_hook,
            "quorum_down": self._read_hook,
            "sorry_server": self._read_sorry_server,
            "sorry_server_lvs_method": self._read_sorry_method,
        }
        self._read_settings("virtual_server", self._inner, {"real_server"}, readers)
        self._draft.quorum, self._draft.hysteresis = self._numbers["quorum"], self._numbers["hysteresis"]
        self._draft.protocol = self._protocol or Protocol.UDP
        if self._protocol is None:
            self._notes.changed(self._draft.line, "no protocol is given: the pool uses udp, as keepalived 2.2 does")
        defaults = ServiceDefaults(Timing.of_service(self._timing.values), self._virtualhost, self._numbers["weight"])
        self._real = [
            RealServerReader(statement, defaults).read() for statement in self._inner if statement.key == "real_server"
        ]
        self._draft.servers += [real.server for real in self._real]
        self._set_forward()

    def _read_protocol(self, statement: Statement) -> None:
        word = required_value(statement).lower()
        with ignoring_bad_value(self._notes, statement):
            if word not in set(Protocol):
                raise bad_text(statement.line, f"{show(word)} is not a protocol; allowed: TCP, UDP, SCTP")
            self._effective.keep_last("protocol", statement)
            self._protocol = Protocol(word)

    def _read_scheduler(self, statement: Statement) -> None:
        word = required_value(statement)
        if word not in SCHEDULERS:
            what = f"{show(word)} is not a scheduler of keepalived; keepalived uses {self._draft.scheduler}"
            self._notes.missing(statement.line, f"{statement}: {what}")
            return
        self._effective.keep_last("lvs_sched", statement)
        self._draft.scheduler = word

    def _read_method(self, statement: Statement) -> None:
        if (way := read_method(statement, self._notes, "NAT")) is None:
            return
        self._effective.keep_last("lvs_method", statement)
        self._way = way

    def _read_ops(self, _: Statement) -> None:
        self._draft.ops = True

    def _read_flag(self, statement: Statement) -> None:
        self._draft.flags.append(SchedulerFlags((statement.key,), f"{statement}", statement.line))

    def _read_persistence(self, statement: Statement) -> None:
        with ignoring_bad_value(self._notes, statement):
            if statement.values:
                parse_number(statement.values[0], statement.line, 1, _LONGEST_PERSISTENCE)
            self._effective.keep_last("persistence_timeout", statement)
            self._draft.make_persistent(statement.line, str(statement))

    def _read_granularity(self, statement: Statement) -> None:
        """A service with this keyword alone is persistent, too."""
        self._draft.persistent = True
        if statement.values:
            self._draft.netmask = Netmask(statement.values[0], f"{statement}", statement.line)

    def _read_number(self, statement: Statement) -> None:
        if (found := self._last_number(statement, *_LIMITS[statement.key])) is not None:
            self._numbers[statement.key] = found

    def _read_inhibit(self, statement: Statement) -> None:
        self._notes.changed(statement.line, f"{statement}: {INHIBITED}")

    def _read_hook(self, statement: Statement) -> None:
        if (program := self._first_script(statement)) is not None:
            self._draft.hooks[statement.key] = program

    def _read_sorry_server(self, statement: Statement) -> None:
        address, port = server_endpoint(statement, self._notes)
        self._effective.keep_last("sorry_server", statement)
        self._draft.sorry = SorryServer(address, port, statement.line)

    def _read_sorry_method(self, statement: Statement) -> None:
        if (way := read_method(statement, self._notes, "the service's")) is not None:
            self._effective.keep_last("sorry_server_lvs_method", statement)
            self._sorry_method = statement, way

    def _set_forward(self) -> None:
        """Set the method of the service; or that of its real servers, if all of them set the same method."""
        service = self._way or NAT
        own = {real.way or service for real in self._real}
        self._draft.way = own.pop() if len(own) == 1 else service
        for real in self._real:
            if real.method is not None and real.way != self._draft.way:
                real.server.notes.missing(real.method.line, f"{real.method}: {ANOTHER_FORWARD}")
        if self._sorry_method is not None:
            statement, way = self._sorry_method
            if way != self._draft.way:
                self._notes.missing(statement.line, f"{statement}: {ANOTHER_FORWARD}")


def server_endpoint(statement: Statement, notes: Notes) -> tuple[IPAddress, int | None]:
    """Return the address and the port of a real_server or sorry_server; no port for 0, or where none is given."""
    address = parse_address(required_value(statement), statement.line)
    port = parse_port(statement.values[1], statement.line) if len(statement.values) > 1 else None
    note_unread_words(statement, statement.values[2:], notes)
    return address, port


def note_unread_words(statement: Statement, words: list[str], notes: Notes) -> None:
    if words:
        notes.missing(statement.line, f"{statement}: keepalived ignores {' '.join(words)}")


def read_method(statement: Statement, notes: Notes, otherwise: str) -> Way | None:
    """Read NAT, DR or TUN; None, with a remark, for a word that keepalived ignores."""
    method = required_value(statement)
    if method == "FNAT":
        what = f"FNAT is a method of dpvs; keepalived uses {otherwise} instead. For dpvs' full NAT, set"
        notes.missing(statement.line, f"{statement}: {what} `forward: nat` and `source: masquerade`")
        return None
    if method not in METHODS:
        what = f"{show(method)} is not a method; allowed: {', '.join(METHODS)}; keepalived uses {otherwise}"
        notes.missing(statement.line, f"{statement}: {what}")
        return None
    rest = statement.values[1:]
    if method == "TUN" and rest[:1] == ["type"]:
        found = TUNNELS.get(rest[1]) if len(rest) > 1 else None
        if found is None:
            notes.missing(statement.line, f"{statement}: {NO_GUE}")
        elif rest[2:] not in ([], ["nocsum"]):
            notes.missing(statement.line, f"{statement}: {' '.join(rest[2:])}")
        return found or TUNNEL
    if rest:
        notes.missing(statement.line, f"{statement}: {' '.join(rest)}")
    return METHODS[method]


def read_script(statement: Statement, notes: Notes) -> tuple[str, ...]:
    """Return a program with its arguments; empty, with a remark, if nftlb can't run it."""
    program = tuple(split_program(required_value(statement)))
    if len(statement.values) >= _SCRIPT_WORDS:
        notes.missing(statement.line, f"{statement}: the user {statement.values[1]}")
    if not program or not all(word and word.isprintable() for word in program):
        notes.missing(statement.line, f"{statement}")
        return ()
    return program


def note_hidden_services(statement: Statement, notes: Notes) -> None:
    """Note the services and servers within a block in which keepalived does not look for any."""
    for hidden in hidden_services(statement):
        notes.missing(hidden.line, f"{hidden}: it is inside {statement.key}, where keepalived ignores it")
