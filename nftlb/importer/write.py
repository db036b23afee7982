"""Drafts of pools to the text of a configuration. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.errors import ConfigError, Problem

from .imported import Imported
from .names import backend_names, pool_name
from .settle import Taken, listeners, settle
from .yaml_text import comment, entries, flow, key_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .draft import Draft, Notes
    from .remark import Remark
    from .settle import Settled


def write(drafts: list[Draft], notes: Notes, tool: str, service: str, *hints: str) -> Imported:
    """Write the pools that these come to; ConfigError, with all that was noted, if there are none."""
    taken = Taken()
    # LVS prefers a service of one port to one of all ports of the same address.
    precise = [listeners(draft, taken, all_ports=False) for draft in drafts]
    listening = [found + listeners(draft, taken, all_ports=True) for draft, found in zip(drafts, precise, strict=True)]
    names: set[str] = set()
    body: list[str] = []
    pools = 0
    for draft, found in zip(drafts, listening, strict=True):
        pool = settle(draft, found)
        body += [
            "",
            comment(f"{draft.written} ({draft.notes.file}:{draft.line})", "  "),
            *_noted(_left(draft, pool), "  "),
        ]
        if pool is not None:
            pools += 1
            body += _pool(pool_name(draft, names), pool)
    gathered = [notes, *(one for draft in drafts for one in (draft.notes, *(server.notes for server in draft.servers)))]
    remarks = tuple(sorted(dict.fromkeys(remark for one in gathered for remark in one.remarks)))
    if not pools:
        problems = [Problem(one.file, one.line, 1, "", one.message) for one in remarks]
        nothing = f"no {service} that can be taken over; allowed: one of UDP, TCP or SCTP with its servers"
        raise ConfigError([Problem(notes.file, 0, 0, "", nothing), *problems])
    head = [
        comment(f"Made by `nftlb import {tool}` from {notes.file}. Next: nftlb check, nftlb doctor, nftlb diff."),
        *map(comment, hints),
        *_noted(notes.remarks, ""),
        "pools:",
    ]
    return Imported("".join(f"{line}\n" for line in (*head, *body[1:])), remarks)


def _left(draft: Draft, pool: Settled | None) -> list[Remark]:
    """The remarks on a service, and on those of its servers that have no place of their own."""
    kept = set() if pool is None else {id(server) for server in pool.servers}
    gone = [server.notes for server in draft.servers if id(server) not in kept]
    return [remark for notes in (draft.notes, *gone) for remark in notes.remarks]


def _noted(remarks: Iterable[Remark], indent: str) -> list[str]:
    return [comment(f"{remark.message} (line {remark.line})", indent) for remark in sorted(set(remarks))]


def _pool(name: str, pool: Settled) -> Iterator[str]:
    yield f"  {key_text(name)}:"
    listen = [str(listener) for listener in pool.listen]
    if len(listen) == 1:
        yield f"    listen: {flow(listen[0])}"
    else:
        yield "    listen:"
        yield from (f"      - {flow(one)}" for one in listen)
    yield from entries(pool.settings, "    ", pool.notes)
    yield "    backends:"
    for (index, backend_name), backend in zip(backend_names(pool.servers).items(), pool.backends, strict=True):
        server = pool.servers[index]
        yield from _noted(server.notes.remarks, "      ")
        yield f"      {key_text(backend_name)}: {flow(backend)}  {comment(f'line {server.line}')}"
    if pool.health:
        yield "    health:"
        for check in pool.health:
            first, *rest = entries(check, "        ")
            yield f"      - {first.strip()}"
            yield from rest
    yield from entries(pool.after, "    ")
