"""Drafts of pools to the text of a configuration. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.errors import ConfigError, Problem
from nftlb.model import Forward
from nftlb.model.pool import Zones

from .imported import Imported
from .names import backend_names, pool_name
from .remark import Line, fault, file_of
from .settle import Taken, listeners, settle
from .yaml_text import comment, entries, flow, key_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .draft import Draft, Notes
    from .remark import Remark
    from .settle import Settled


MOST_LISTENERS = 1 << 16
_ZONES = 65535 - Zones().first + 1
"""Conntrack zones, of which a nat pool needs one for each server, and two more."""


class _Body:
    """Lines of text, some of which know where they are from."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.origins: dict[int, tuple[str, int]] = {}

    def add(self, lines: Iterable[str], notes: Notes, origin: int) -> None:
        self.origins[len(self.lines)] = file_of(origin, notes.file), int(origin)
        self.lines += lines


def write(drafts: list[Draft], notes: Notes, tool: str, service: str, *hints: str) -> Imported:
    """Write the pools that these come to; ConfigError, with all that was noted, if there are none."""
    taken = Taken()
    # LVS prefers a service of one port to one of all ports of the same address.
    precise = [listeners(draft, taken, all_ports=False) for draft in drafts]
    listening = [found + listeners(draft, taken, all_ports=True) for draft, found in zip(drafts, precise, strict=True)]
    names: dict[str, int] = {}
    body = _Body()
    pools = zones = 0
    for draft, found in zip(drafts, listening, strict=True):
        pool = settle(draft, found, taken)
        zones += _zones(draft, pool)
        if zones > _ZONES:
            message = f"{draft.written}: the servers up to here need more than {_ZONES} conntrack zones, which is all"
            raise fault(notes.file, draft.line, f"{message}; allowed: fewer servers, on several hosts")
        place = f"{file_of(draft.line, draft.notes.file)}:{draft.line}"
        body.add(["", comment(f"{draft.written} ({place})", "  ")], draft.notes, draft.line)
        body.add(_noted(_left(draft, pool), "  ", notes.file), draft.notes, draft.line)
        if pool is not None:
            pools += 1
            _pool(body, pool_name(draft, names), draft, pool)
    gathered = [notes, *(one for draft in drafts for one in (draft.notes, *(server.notes for server in draft.servers)))]
    remarks = tuple(sorted(dict.fromkeys(remark for one in gathered for remark in one.remarks)))
    if not pools:
        problems = [Problem(one.file, one.line, 1, "", one.message) for one in remarks]
        nothing = f"no {service} that can be taken over; allowed: one of UDP, TCP or SCTP with its servers"
        raise ConfigError([Problem(notes.file, 0, 0, "", nothing), *problems])
    head = [
        comment(f"Made by `nftlb import {tool}` from {notes.file}. Next: nftlb check, nftlb doctor, nftlb diff."),
        *map(comment, hints),
        *_noted(notes.remarks, "", notes.file),
        "pools:",
    ]
    # The body's first line is empty, and left out.
    origins = {at + len(head): origin for at, origin in body.origins.items()}
    return Imported("".join(f"{line}\n" for line in (*head, *body.lines[1:])), remarks, origins)


def _zones(draft: Draft, pool: Settled | None) -> int:
    if pool is None or draft.forward is not Forward.NAT:
        return 0
    return 2 + len(pool.servers) + ("fallback" in pool.after)


def _left(draft: Draft, pool: Settled | None) -> list[Remark]:
    """The remarks on a service, and on those of its servers that have no place of their own."""
    kept = set() if pool is None else {id(server) for server in pool.servers}
    gone = [server.notes for server in draft.servers if id(server) not in kept]
    return [remark for notes in (draft.notes, *gone) for remark in notes.remarks]


def _noted(remarks: Iterable[Remark], indent: str, file: str) -> list[str]:
    """Remarks as comments; those about another file, an included one, name it."""
    return [
        comment(f"{one.message} ({_place(Line(one.line, one.file), file)})", indent) for one in sorted(set(remarks))
    ]


def _place(line: int, file: str) -> str:
    other = file_of(line, file)
    return f"line {line}" if other == file else f"{other}:{line}"


def _pool(body: _Body, name: str, draft: Draft, pool: Settled) -> None:
    notes, file = draft.notes, draft.notes.file
    body.add([f"  {key_text(name)}:"], notes, draft.line)
    listen = [str(listener) for listener in pool.listen]
    if len(listen) == 1:
        body.add([f"    listen: {flow(listen[0])}"], notes, draft.line)
    else:
        body.add(["    listen:", *(f"      - {flow(one)}" for one in listen)], notes, draft.line)
    body.add([*entries(pool.settings, "    ", pool.notes), "    backends:"], notes, draft.line)
    for (index, backend_name), backend in zip(backend_names(pool.servers).items(), pool.backends, strict=True):
        server = pool.servers[index]
        body.add(_noted(server.notes.remarks, "      ", file), notes, server.line)
        written = f"      {key_text(backend_name)}: {flow(backend)}  {comment(_place(server.line, file))}"
        body.add([written], server.notes, server.line)
    if pool.health:
        body.add(["    health:"], notes, draft.line)
        for check in pool.health:
            first, *rest = entries(check, "        ")
            body.add([f"      - {first.strip()}", *rest], notes, draft.line)
    body.add(entries(pool.after, "    "), notes, draft.line)
