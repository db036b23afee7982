"""keepalived.conf to drafts of pools. No I/O.

Every statement is either taken over or noted. What keepalived reads differently from how it is written, or passes over
with a complaint, is read as keepalived reads it, and noted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nftlb.model import Forward, IPAddress, Protocol
from nftlb.model.reading import show

from . import read
from .draft import ALL_PORTS, Draft, Listening, Notes
from .lines import Reading, Source
from .real_server import note_buried
from .remark import fault
from .statements import buried, parse
from .virtual_server import VirtualServer
from .write import MOST_LISTENERS, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .imported import Imported
    from .statements import Statement

DEFAULT_SCHEDULER = "wlc"
MAX_RANGE = 1024
_INCLUDES = re.compile("include[rmwba]?")


def from_keepalived(
    text: str, file: str = "keepalived.conf", *, directory: str | None = None, reading: Reading | None = None
) -> Imported:
    """Make a configuration of ours of keepalived's; ConfigError tells the line of what can't be understood.

    `directory` is the file's, as keepalived sees it; without it `${_PWD}` is not known.
    """
    notes = Notes(file)
    return _File(parse(Source(file, text, directory), reading or Reading(), notes), notes).imported()


class _File:
    def __init__(self, statements: list[Statement], notes: Notes) -> None:
        self._file = notes.file
        self._statements = statements
        self._notes = notes
        self._groups: dict[str, Statement] = {}
        self._listening = 0
        for one in statements:
            if one.key == "virtual_server_group" and one.values:
                first = self._groups.setdefault(one.values[0], one)
                if first is not one:
                    notes.missing(one.line, f"{one}: it is there already, in line {first.line}")

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
                note_buried(one, self._notes)
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
        kind, *rest = statement.values
        if kind == "fwmark":
            servers = [one for one in buried(statement) if one.key == "real_server"]
            what = f"{statement}, with its {len(servers)} real_server"
            self._notes.missing(statement.line, f"{what}: pools take packets by address and port, not by mark")
            for one in servers:
                self._notes.missing(one.line, f"{one}: its service is left out")
            return None
        draft = Draft(
            written=str(statement),
            line=statement.line,
            notes=Notes(self._file),
            protocol=Protocol.UDP,
            forward=Forward.NAT,
            scheduler=DEFAULT_SCHEDULER,
        )
        if kind == "group":
            self._join(draft, rest, statement)
            rest = rest[1:]
        else:
            port = read.port(rest[0], self._file, statement.line) if rest else None
            ports = ALL_PORTS if port is None else (port, port)
            self._listen(draft, [read.address(kind, self._file, statement.line)], ports, statement)
            rest = rest[1:]
        if rest:
            draft.notes.missing(statement.line, f"{statement}: {' '.join(rest)}, which keepalived does not look at")
        VirtualServer(draft, inner).read()
        if not draft.persistent and any(one.ports == ALL_PORTS for one in draft.listen):
            draft.persistent = True
            draft.notes.changed(draft.line, "port 0: keepalived makes a service of all ports persistent")
        return draft

    def _join(self, draft: Draft, names: list[str], statement: Statement) -> None:
        if not names or names[0] not in self._groups:
            known = ", ".join(self._groups) or "there is none"
            raise fault(
                self._file, statement.line, f"{show(' '.join(names))} is no virtual_server_group; allowed: {known}"
            )
        draft.name = names[0]
        for member in self._groups[names[0]].block or []:
            if member.key == "fwmark":
                draft.notes.missing(member.line, f"{member}: pools take packets by address and port, not by mark")
                continue
            if member.block is not None:
                draft.notes.missing(member.line, f"{member}: its block")
            port = read.port(member.values[0], self._file, member.line) if member.values else None
            ports = ALL_PORTS if port is None else (port, port)
            if member.values[1:]:
                rest = " ".join(member.values[1:])
                draft.notes.missing(member.line, f"{member}: {rest}, which keepalived does not look at")
            self._listen(draft, self._range(member.key, member.line), ports, member)

    def _listen(
        self, draft: Draft, addresses: Iterator[IPAddress] | list[IPAddress], ports: tuple[int, int], one: Statement
    ) -> None:
        for address in addresses:
            self._listening += 1
            if self._listening > MOST_LISTENERS:
                raise fault(self._file, one.line, f"more than {MOST_LISTENERS} listeners; allowed: fewer")
            draft.listen.append(Listening(address, ports, one.line))

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
