"""keepalived.conf to drafts of pools. No I/O.

Every statement is either taken over or noted.
"""

from __future__ import annotations

import re
from collections import ChainMap
from typing import TYPE_CHECKING

from nftlb.model import Forward, IPAddress, Protocol
from nftlb.model.reading import show

from . import checks, read
from .draft import ALL_PORTS, Draft, Listening, Notes, Server, Sorry
from .remark import fault
from .statements import parse
from .write import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .imported import Imported
    from .statements import Statement

DEFAULT_SCHEDULER = "wlc"
MAX_RANGE = 1024
METHODS = {"NAT": Forward.NAT, "DR": Forward.DSR, "TUN": Forward.DSR}
_INCLUDES = re.compile("include[rmwba]?")
_SCRIPT_WORDS = 2


def from_keepalived(text: str, file: str = "keepalived.conf") -> Imported:
    """Make a configuration of ours of keepalived's; ConfigError tells the line of what can't be understood."""
    return _File(parse(text, file), file).imported()


class _File:
    def __init__(self, statements: list[Statement], file: str) -> None:
        self._file = file
        self._statements = statements
        self._notes = Notes(file)
        self._groups: dict[str, Statement] = {}
        for one in statements:
            if one.key == "virtual_server_group" and one.values:
                if one.values[0] in self._groups:
                    raise fault(file, one.line, f"{one} is there already; allowed: each group once")
                self._groups[one.values[0]] = one

    def imported(self) -> Imported:
        drafts = []
        used = set()
        for one in self._statements:
            if one.key == "virtual_server":
                draft = self._service(one)
                if draft is not None:
                    drafts.append(draft)
                    used.add(draft.name)
            elif one.key != "virtual_server_group" or not one.values:
                self._notes.missing(one.line, self._foreign(one))
        for name, group in self._groups.items():
            if name not in used:
                self._notes.missing(group.line, f"{group}: no virtual_server uses it")
        return write(drafts, self._notes, "keepalived", "virtual_server")

    def _foreign(self, statement: Statement) -> str:
        if _INCLUDES.fullmatch(statement.key):
            return f"{statement}: the file is not read; import it too"
        if statement.key.startswith("vrrp"):
            return f"{statement}: keepalived can go on doing this; let it ask nftlb's /readyz"
        return str(statement)

    def _service(self, statement: Statement) -> Draft | None:
        if not statement.values:
            raise fault(self._file, statement.line, "virtual_server names no service; allowed: virtual_server IP PORT")
        inner = statement.block or []
        draft = Draft(
            written=str(statement),
            line=statement.line,
            notes=Notes(self._file),
            protocol=self._protocol(inner) or Protocol.UDP,
            forward=Forward.NAT,
            scheduler=DEFAULT_SCHEDULER,
        )
        kind, *rest = statement.values
        if kind == "fwmark":
            servers = sum(one.key == "real_server" for one in inner)
            self._notes.missing(
                statement.line,
                f"{statement}, with its {servers} real_server: pools take packets by address and port, not by mark",
            )
            return None
        if self._protocol(inner) is None:
            draft.notes.changed(statement.line, "no protocol is given: taken for udp, as keepalived 2.2 takes it")
        if kind == "group":
            self._join(draft, rest, statement)
        else:
            port = read.port(rest[0], self._file, statement.line) if rest else None
            ports = ALL_PORTS if port is None else (port, port)
            draft.listen.append(Listening(read.address(kind, self._file, statement.line), ports, statement.line))
            rest = rest[1:]
        if rest and kind != "group":
            raise fault(self._file, statement.line, f"{show(rest[0])} is too much; allowed: virtual_server IP PORT")
        _Service(draft, inner, self._file).read()
        return draft

    def _protocol(self, inner: list[Statement]) -> Protocol | None:
        for one in inner:
            if one.key == "protocol":
                word = checks.value(one, self._file).lower()
                if word not in set(Protocol):
                    raise fault(self._file, one.line, f"{show(word)} is not a protocol; allowed: TCP, UDP, SCTP")
                return Protocol(word)
        return None

    def _join(self, draft: Draft, names: list[str], statement: Statement) -> None:
        if len(names) != 1 or names[0] not in self._groups:
            known = ", ".join(self._groups) or "there is none"
            raise fault(
                self._file, statement.line, f"{show(' '.join(names))} is no virtual_server_group; allowed: {known}"
            )
        draft.name = names[0]
        for member in self._groups[names[0]].block or []:
            if member.key == "fwmark":
                draft.notes.missing(member.line, f"{member}: pools take packets by address and port, not by mark")
                continue
            port = read.port(member.values[0], self._file, member.line) if member.values else None
            ports = ALL_PORTS if port is None else (port, port)
            for address in self._range(member.key, member.line):
                draft.listen.append(Listening(address, ports, member.line))

    def _range(self, text: str, line: int) -> Iterator[IPAddress]:
        """The addresses of `192.0.2.10-20`, `192.0.2.10-192.0.2.20`, `192.0.2.8/29`, or one."""
        if "/" in text:
            start, _, bits = text.partition("/")
            first = read.address(start, self._file, line)
            prefix = read.number(bits, self._file, line, 0, first.max_prefixlen)
            last = int(first) | ((1 << (first.max_prefixlen - prefix)) - 1)
        else:
            start, dash, end = text.partition("-")
            first = read.address(start, self._file, line)
            last = self._last(first, end, line) if dash else int(first)
        if not int(first) <= last < int(first) + MAX_RANGE:
            raise fault(self._file, line, f"{show(text)} is no range; allowed: at most {MAX_RANGE} addresses, upwards")
        for address in range(int(first), last + 1):
            yield read.address(str(type(first)(address)), self._file, line)

    def _last(self, first: IPAddress, end: str, line: int) -> int:
        """What stands behind the dash: an address, or its last part."""
        if ":" in end or "." in end:
            last = read.address(end, self._file, line)
            return int(last) if last.version == first.version else -1
        base, bits = (16, 16) if first.version == 6 else (10, 8)  # noqa: PLR2004
        try:
            part = int(end, base)
        except ValueError:
            part = -1
        if not 0 <= part < 1 << bits:
            raise fault(self._file, line, f"{show(end)} is no end of a range; allowed: an address, or its last part")
        return int(first) >> bits << bits | part


class _Service:
    """Reads the inside of one virtual_server into a draft."""

    def __init__(self, draft: Draft, inner: list[Statement], file: str) -> None:
        self._draft = draft
        self._inner = inner
        self._file = file
        self._notes = draft.notes
        self._timing = _timing(inner)
        self._virtualhost: str | None = None
        self._inhibit = False

    def read(self) -> None:
        for one in self._inner:
            if one.key == "virtualhost":
                self._virtualhost = checks.value(one, self._file)
        for one in self._inner:
            if one.block is not None and one.key != "real_server":
                self._notes.missing(one.line, f"{one}: its block")
            if one.key in _READERS:
                _READERS[one.key](self, one)
            elif one.key == "warmup":
                self._notes.missing(one.line, f"{one}: first checks are spread anyway")
            elif one.key not in checks.TIMING and one.key not in {"protocol", "virtualhost"}:
                self._notes.missing(one.line, str(one))

    def scheduler(self, one: Statement) -> None:
        self._draft.scheduler = checks.value(one, self._file)

    def method(self, one: Statement) -> None:
        method = checks.value(one, self._file).upper()
        if method not in METHODS:
            raise fault(self._file, one.line, f"{show(method)} is not a method; allowed: {', '.join(METHODS)}")
        self._draft.forward = METHODS[method]
        if method == "TUN":
            self._notes.changed(
                one.line, f"{one}: nftlb has no tunnels; with dsr backends must be on a link of this host"
            )

    def ops(self, _: Statement) -> None:
        self._draft.ops = True

    def persistence(self, one: Statement) -> None:
        self._draft.persistent = True
        self._notes.changed(one.line, f"{one}: balance: hash keeps a client with its backend, without a time-out")

    def quorum(self, one: Statement) -> None:
        self._draft.quorum = read.number(checks.value(one, self._file), self._file, one.line, 1, 10**9)

    def hysteresis(self, one: Statement) -> None:
        self._draft.hysteresis = read.number(checks.value(one, self._file), self._file, one.line, 0, 10**9)

    def hook(self, one: Statement) -> None:
        self._draft.hooks[one.key] = self._script(one)

    def _script(self, one: Statement) -> tuple[str, ...]:
        program = tuple(checks.argv(checks.value(one, self._file)))
        if len(one.values) >= _SCRIPT_WORDS:
            self._notes.missing(one.line, f"{one}: the user {one.values[1]}")
        if not program or not all(word and word.isprintable() for word in program):
            self._notes.missing(one.line, f"{one}")
            return ()
        return program

    def sorry(self, one: Statement) -> None:
        address, port = self._endpoint(one)
        self._draft.sorry = Sorry(address, port, one.line)

    def _endpoint(self, one: Statement) -> tuple[IPAddress, int | None]:
        address = read.address(checks.value(one, self._file), self._file, one.line)
        port = read.port(one.values[1], self._file, one.line) if len(one.values) > 1 else None
        return address, port

    def real_server(self, one: Statement) -> None:
        address, port = self._endpoint(one)
        server = Server(address, port, one.line, Notes(self._file))
        inner = one.block or []
        timing = self._timing.new_child(dict(_timing(inner)))
        virtualhost = next(
            (checks.value(two, self._file) for two in inner if two.key == "virtualhost"), self._virtualhost
        )
        for two in inner:
            if two.key == "weight":
                server.weight = read.number(checks.value(two, self._file), self._file, two.line, 0, 65535)
            elif two.key in checks.KINDS:
                server.checks += checks.checks(two, timing, virtualhost, server.notes)
            elif two.key == "notify_up":
                server.up = self._script(two)
            elif two.key == "notify_down":
                server.down = self._script(two)
            elif two.key in {"lvs_method", "lb_kind"}:
                if METHODS.get(checks.value(two, self._file).upper()) is not self._forward():
                    server.notes.missing(two.line, f"{two}: forward is the same for the whole pool")
            elif two.key not in checks.TIMING and two.key != "virtualhost":
                server.notes.missing(two.line, str(two))
        self._draft.servers.append(server)

    def _forward(self) -> Forward | None:
        for one in self._inner:
            if one.key in {"lvs_method", "lb_kind"} and one.values:
                return METHODS.get(one.values[0].upper())
        return Forward.NAT


def _timing(inner: list[Statement]) -> ChainMap[str, Statement]:
    return ChainMap({one.key: one for one in inner if one.key in checks.TIMING})


_READERS: dict[str, Callable[[_Service, Statement], None]] = {
    "lvs_sched": _Service.scheduler,
    "lb_algo": _Service.scheduler,
    "lvs_method": _Service.method,
    "lb_kind": _Service.method,
    "ops": _Service.ops,
    "persistence_timeout": _Service.persistence,
    "quorum": _Service.quorum,
    "hysteresis": _Service.hysteresis,
    "quorum_up": _Service.hook,
    "quorum_down": _Service.hook,
    "sorry_server": _Service.sorry,
    "real_server": _Service.real_server,
}
