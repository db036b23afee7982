"""Reads keepalived.conf into drafts of pools. No I/O.

Every statement is either taken over or noted. Where keepalived ignores a statement with a complaint, or reads it in an
unexpected way, the import does the same, and makes a remark.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nftlb.model import IPAddress, Protocol
from nftlb.printable import show

from .draft import (
    ALL_PORTS,
    MARKS,
    MAX_RANGE,
    NAT,
    Draft,
    DraftListener,
    Line,
    Notes,
    bad_text,
    parse_address,
    parse_number,
    parse_port,
    parse_service_address,
)
from .keepalived_servers import VirtualServerReader, note_hidden_services, note_unread_words
from .keepalived_statements import ReadContext, SourceFile, hidden_services, parse_statements
from .write import MOST_LISTENERS, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .draft import Imported
    from .keepalived_statements import Statement

DEFAULT_SCHEDULER = "wlc"
_INCLUDES = re.compile("include[rmwba]?")


def from_keepalived(
    text: str, file: str = "keepalived.conf", *, directory: str | None = None, reading: ReadContext | None = None
) -> Imported:
    """Translate a configuration of keepalived. ConfigError, with its line, for text that can't be understood.

    `directory` is the directory of the file on keepalived's host; without it `${_PWD}` is not known.
    """
    notes = Notes()
    statements = parse_statements(SourceFile(file, text, directory), reading or ReadContext(), notes)
    return write_config(_File(statements, notes).drafts(), notes, file, "keepalived", "virtual_server")


class _File:
    def __init__(self, statements: list[Statement], notes: Notes) -> None:
        self._statements = statements
        self._notes = notes
        self._groups: dict[str, Statement] = {}
        self._listening = 0
        for statement in statements:
            if statement.key == "virtual_server_group" and statement.values:
                first = self._groups.setdefault(statement.values[0], statement)
                if first is not statement:
                    notes.missing(statement.line, f"{statement}: line {first.line} defines this group already")

    def drafts(self) -> list[Draft]:
        drafts = []
        used = set()
        for statement in self._statements:
            if statement.key == "virtual_server":
                draft = self._service(statement)
                if draft is not None:
                    drafts.append(draft)
                    used.add(draft.name)
            elif statement.key != "virtual_server_group" or not statement.values:
                self._notes.missing(statement.line, self._other_statement(statement))
                note_hidden_services(statement, self._notes)
        for name, group in self._groups.items():
            if name not in used:
                self._notes.missing(group.line, f"{group}: no virtual_server uses it")
        return drafts

    def _other_statement(self, statement: Statement) -> str:
        if _INCLUDES.fullmatch(statement.key):
            return f"{statement}: the file is not read; import it too"
        if statement.key.startswith("vrrp"):
            return f"{statement}: keepalived can keep this task; let its script ask nftlb's /readyz"
        return str(statement)

    def _service(self, statement: Statement) -> Draft | None:
        if not statement.values:
            raise bad_text(statement.line, "virtual_server names no service; allowed: virtual_server IP PORT")
        inner = statement.block or []
        kind, *rest = statement.values
        if kind == "fwmark":
            servers = [service for service in hidden_services(statement) if service.key == "real_server"]
            what = f"{statement}, with its {len(servers)} real_server"
            self._notes.missing(statement.line, f"{what}: {MARKS}")
            for server in servers:
                self._notes.missing(server.line, f"{server}: its service is left out")
            return None
        draft = Draft(
            written=str(statement),
            line=statement.line,
            notes=Notes(),
            protocol=Protocol.UDP,
            way=NAT,
            scheduler=DEFAULT_SCHEDULER,
        )
        if kind == "group":
            self._join(draft, rest, statement)
            rest = rest[1:]
        else:
            port = parse_port(rest[0], statement.line) if rest else None
            ports = ALL_PORTS if port is None else (port, port)
            self._listen(draft, [parse_service_address(kind, statement.line)], ports, statement)
            rest = rest[1:]
        note_unread_words(statement, rest, draft.notes)
        VirtualServerReader(draft, inner).read()
        if not draft.persistent and any(listener.ports == ALL_PORTS for listener in draft.listen):
            draft.persistent = True
            draft.notes.changed(draft.line, "port 0: keepalived makes a service of all ports persistent")
        return draft

    def _join(self, draft: Draft, names: list[str], statement: Statement) -> None:
        if not names or names[0] not in self._groups:
            known = ", ".join(self._groups) or "the file has none"
            raise bad_text(
                statement.line,
                f"{show(' '.join(names))} is not a virtual_server_group of this file; allowed: {known}",
            )
        draft.name = names[0]
        for member in self._groups[names[0]].block or []:
            if member.key == "fwmark":
                draft.notes.missing(member.line, f"{member}: {MARKS}")
                continue
            if member.block is not None:
                draft.notes.missing(member.line, f"{member}: its block")
            port = parse_port(member.values[0], member.line) if member.values else None
            ports = ALL_PORTS if port is None else (port, port)
            note_unread_words(member, member.values[1:], draft.notes)
            self._listen(draft, self._range(member.key, member.line), ports, member)

    def _listen(
        self,
        draft: Draft,
        addresses: Iterator[IPAddress] | list[IPAddress],
        ports: tuple[int, int],
        statement: Statement,
    ) -> None:
        for address in addresses:
            self._listening += 1
            if self._listening > MOST_LISTENERS:
                raise bad_text(statement.line, f"more than {MOST_LISTENERS} listeners; allowed: fewer")
            draft.listen.append(DraftListener(address, ports, statement.line))

    def _range(self, text: str, line: Line) -> Iterator[IPAddress]:
        """The addresses of `192.0.2.10-20`, `192.0.2.10-192.0.2.20`, `192.0.2.8/29`, or of a single address."""
        if "/" in text:
            start, _, bits = text.partition("/")
            first = parse_address(start, line)
            prefix = parse_number(bits, line, 0, first.max_prefixlen)
            last = int(first) | ((1 << (first.max_prefixlen - prefix)) - 1)
        else:
            start, dash, end = text.partition("-")
            first = parse_address(start, line) if dash else parse_service_address(start, line)
            last = self._last(first, end, line) if dash else int(first)
        if not int(first) <= last < int(first) + MAX_RANGE:
            raise bad_text(
                line,
                f"{show(text)} is not a range; allowed: an upward range of at most {MAX_RANGE} addresses",
            )
        for address in range(int(first), last + 1):
            yield parse_service_address(str(type(first)(address)), line)

    def _last(self, first: IPAddress, end: str, line: Line) -> int:
        """Read the end of a range: an address, or its last part. -1 for an address of another family."""
        if ":" in end or "." in end:
            last = parse_address(end, line)
            return int(last) if last.version == first.version else -1
        base, bits = (16, 16) if first.version == 6 else (10, 8)  # noqa: PLR2004
        try:
            part = int(end, base)
        except ValueError:
            part = -1
        if not 0 <= part < 1 << bits:
            raise bad_text(
                line,
                f"{show(end)} is not the end of a range; allowed: an address, or the last part of an address",
            )
        return int(first) >> bits << bits | part
