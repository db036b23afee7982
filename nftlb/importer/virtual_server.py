"""The inside of keepalived's virtual_server to a draft of a pool. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Protocol
from nftlb.model.reading import show

from . import read, timing
from .draft import Sorry
from .left_out import note_left_out
from .real_server import INHIBITED, METHODS, Defaults, RealServer, endpoint, method_of, note_buried, script
from .remark import fault
from .said import Said, ignoring, name_of, value
from .settle import BALANCES, COUNTING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .draft import Draft
    from .statements import Statement

SCHEDULERS = {*BALANCES, *COUNTING}
_LAST = 2**32 - 1
_MOST_WEIGHT = 2**31 - 1
_LONGEST_PERSISTENCE = 2_678_400


class VirtualServer:
    """Reads the inside of one virtual_server into a draft."""

    def __init__(self, draft: Draft, inner: list[Statement]) -> None:
        self._draft = draft
        self._inner = inner
        self._file = draft.notes.file
        self._notes = draft.notes
        self._said = Said(self._notes)
        self._level = timing.Level(self._notes, self._said, least_retry=1, alpha_has_value=False)
        self._virtualhost: str | None = None
        self._weight = 1
        self._protocol: Protocol | None = None
        self._method: str | None = None
        self._sorry_method: Statement | None = None
        self._real: list[RealServer] = []

    def read(self) -> None:
        """The service's own settings first: real servers get them wherever they are written."""
        for one in self._inner:
            if one.block is not None and one.key != "real_server":
                self._notes.missing(one.line, f"{one}: its block")
                note_buried(one, self._notes)
            if one.key in _READERS:
                _READERS[one.key](self, one)
            elif one.key in timing.KEYS and one.key != "nb_get_retry":
                self._level.take(one)
            elif one.key != "real_server":
                note_left_out(one, "virtual_server", self._notes)
        self._draft.protocol = self._protocol or Protocol.UDP
        if self._protocol is None:
            self._notes.changed(self._draft.line, "no protocol is given: taken for udp, as keepalived 2.2 takes it")
        defaults = Defaults(timing.of_service(self._level.values), self._virtualhost, self._weight)
        self._real = [RealServer(one, defaults, self._notes).read() for one in self._inner if one.key == "real_server"]
        self._draft.servers += [one.server for one in self._real]
        self._forward()

    def protocol(self, one: Statement) -> None:
        word = value(one, self._file).lower()
        with ignoring(self._notes, one):
            if word not in set(Protocol):
                raise fault(self._file, one.line, f"{show(word)} is not a protocol; allowed: TCP, UDP, SCTP")
            self._said.last("protocol", one)
            self._protocol = Protocol(word)

    def scheduler(self, one: Statement) -> None:
        word = value(one, self._file)
        if word not in SCHEDULERS:
            what = f"{show(word)} is no scheduler that keepalived knows; keepalived takes {self._draft.scheduler}"
            self._notes.missing(one.line, f"{one}: {what}")
            return
        self._said.last("lvs_sched", one)
        self._draft.scheduler = word

    def method(self, one: Statement) -> None:
        if (method := method_of(one, self._notes, "NAT")) is None:
            return
        self._said.last("lvs_method", one)
        self._method = method

    def ops(self, _: Statement) -> None:
        self._draft.ops = True

    def persistence(self, one: Statement) -> None:
        with ignoring(self._notes, one):
            if one.values:
                read.number(one.values[0], self._file, one.line, 1, _LONGEST_PERSISTENCE)
            self._said.last("persistence_timeout", one)
            self._draft.persistent = True
            self._notes.changed(one.line, f"{one}: balance: hash keeps a client with its backend, without a time-out")

    def granularity(self, one: Statement) -> None:
        """Persistent it is with this alone, too."""
        self._draft.persistent = True
        self._notes.missing(one.line, f"{one}: balance: hash tells clients apart by their whole address")

    def quorum(self, one: Statement) -> None:
        text = value(one, self._file)
        with ignoring(self._notes, one):
            found = read.number(text, self._file, one.line, 1, _LAST)
            self._said.last("quorum", one)
            self._draft.quorum = found

    def hysteresis(self, one: Statement) -> None:
        text = value(one, self._file)
        with ignoring(self._notes, one):
            found = read.number(text, self._file, one.line, 0, _LAST)
            self._said.last("hysteresis", one)
            self._draft.hysteresis = found

    def weight(self, one: Statement) -> None:
        text = value(one, self._file)
        with ignoring(self._notes, one):
            found = read.number(text, self._file, one.line, 1, _MOST_WEIGHT)
            self._said.last("weight", one)
            self._weight = found

    def virtualhost(self, one: Statement) -> None:
        if name := name_of(one, self._notes):
            self._virtualhost = name
            self._said.last("virtualhost", one)

    def inhibit(self, one: Statement) -> None:
        self._notes.changed(one.line, f"{one}: {INHIBITED}")

    def hook(self, one: Statement) -> None:
        program = script(one, self._notes)
        if self._said.first(one.key, one):
            self._draft.hooks[one.key] = program

    def sorry(self, one: Statement) -> None:
        address, port = endpoint(one, self._notes)
        self._said.last("sorry_server", one)
        self._draft.sorry = Sorry(address, port, one.line)

    def sorry_method(self, one: Statement) -> None:
        if method_of(one, self._notes, "the service's") is not None:
            self._said.last("sorry_server_lvs_method", one)
            self._sorry_method = one

    def _forward(self) -> None:
        """The service's method; or what all its real servers have in its place."""
        service = self._method or "NAT"
        own = {service if one.method is None else one.method.values[0] for one in self._real}
        method = own.pop() if len(own) == 1 else service
        self._draft.forward = METHODS[method]
        for real in self._real:
            if real.method is not None and METHODS[real.method.values[0]] is not self._draft.forward:
                real.server.notes.missing(real.method.line, f"{real.method}: forward is the same for the whole pool")
        one = self._sorry_method
        if one is not None and METHODS[one.values[0]] is not self._draft.forward:
            self._notes.missing(one.line, f"{one}: forward is the same for the whole pool")


_READERS: dict[str, Callable[[VirtualServer, Statement], None]] = {
    "lvs_sched": VirtualServer.scheduler,
    "lb_algo": VirtualServer.scheduler,
    "lvs_method": VirtualServer.method,
    "lb_kind": VirtualServer.method,
    "protocol": VirtualServer.protocol,
    "ops": VirtualServer.ops,
    "persistence_timeout": VirtualServer.persistence,
    "persistence_granularity": VirtualServer.granularity,
    "quorum": VirtualServer.quorum,
    "hysteresis": VirtualServer.hysteresis,
    "weight": VirtualServer.weight,
    "virtualhost": VirtualServer.virtualhost,
    "inhibit_on_failure": VirtualServer.inhibit,
    "quorum_up": VirtualServer.hook,
    "quorum_down": VirtualServer.hook,
    "sorry_server": VirtualServer.sorry,
    "sorry_server_lvs_method": VirtualServer.sorry_method,
}
