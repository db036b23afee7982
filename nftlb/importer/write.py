"""Writes drafts of pools as the text of a configuration, with names and comments. No I/O."""

from __future__ import annotations

import re
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from nftlb.config.pool_rules import LONGEST_NAME
from nftlb.errors import ConfigError, Problem
from nftlb.model import MOST_ADDRESSES, Forward
from nftlb.model.pool import Zones

from .draft import Imported, Line, bad_text
from .fit_to_pool_rules import UsedPorts, fit_to_pool_rules, free_listeners
from .yaml_text import yaml_comment, yaml_entries, yaml_flow, yaml_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .draft import Draft, DraftServer, Notes, Remark
    from .fit_to_pool_rules import FittedPool

MOST_LISTENERS = 1 << 16
_ZONES = 65535 - Zones().first + 1
"""The conntrack zones of a host. A nat pool needs one for each server, and two more."""


class _Body:
    """Lines of text. `origins` has the file and line that a line of text comes from."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.origins: dict[int, tuple[str, int]] = {}

    def add(self, lines: Iterable[str], origin: Line) -> None:
        self.origins[len(self.lines)] = origin.file, int(origin)
        self.lines += lines


def write_config(drafts: list[Draft], notes: Notes, file: str, tool: str, service: str, *hints: str) -> Imported:
    """Write the drafts of a file as pools. ConfigError, with all remarks, if no draft becomes a pool."""
    taken = UsedPorts()
    # LVS prefers a service of one port to one of all ports of the same address.
    precise = [free_listeners(draft, taken, all_ports=False) for draft in drafts]
    listening = [
        found + free_listeners(draft, taken, all_ports=True) for draft, found in zip(drafts, precise, strict=True)
    ]
    names: dict[str, int] = {}
    body = _Body()
    pools = zones = 0
    for draft, found in zip(drafts, listening, strict=True):
        pool = fit_to_pool_rules(draft, found, taken)
        zones += _zones(draft, pool)
        if zones > _ZONES:
            message = (
                f"{draft.written}: the servers up to here need more than {_ZONES} conntrack zones, all that a host has"
            )
            raise bad_text(draft.line, f"{message}; allowed: fewer servers on each host")
        place = f"{draft.line.file}:{draft.line}"
        body.add(["", yaml_comment(f"{draft.written} ({place})", "  ")], draft.line)
        body.add(_noted(_left_out(draft, pool), "  ", file), draft.line)
        if pool is not None:
            pools += 1
            _pool(body, pool_name(draft, names), draft, pool, file)
    gathered = [
        notes,
        *(noted for draft in drafts for noted in (draft.notes, *(server.notes for server in draft.servers))),
    ]
    remarks = tuple(sorted(dict.fromkeys(remark for noted in gathered for remark in noted.remarks)))
    if not pools:
        problems = [Problem(remark.file, remark.line, 1, "", remark.message) for remark in remarks]
        nothing = f"no {service} can be taken over; allowed: a {service} of UDP, TCP or SCTP with its servers"
        raise ConfigError([Problem(file, 0, 0, "", nothing), *problems])
    head = [
        yaml_comment(f"Made by `nftlb import {tool}` from {file}. Next: nftlb check, nftlb doctor, nftlb diff."),
        *map(yaml_comment, hints),
        *_noted(notes.remarks, "", file),
        "pools:",
    ]
    # The first line of the body is empty, and is left out.
    origins = {at + len(head): origin for at, origin in body.origins.items()}
    return Imported("".join(f"{line}\n" for line in (*head, *body.lines[1:])), remarks, origins)


def _zones(draft: Draft, pool: FittedPool | None) -> int:
    if pool is None or draft.forward is not Forward.NAT:
        return 0
    servers = sum(MOST_ADDRESSES if server.host else 1 for server in pool.servers)
    return 2 + servers + ("fallback" in pool.after)


def _left_out(draft: Draft, pool: FittedPool | None) -> list[Remark]:
    """The remarks on a service, and on its servers that are not in the pool."""
    kept = set() if pool is None else {id(server) for server in pool.servers}
    gone = [server.notes for server in draft.servers if id(server) not in kept]
    return [remark for notes in (draft.notes, *gone) for remark in notes.remarks]


def _noted(remarks: Iterable[Remark], indent: str, file: str) -> list[str]:
    """Write remarks as comments. A remark about an included file names the file."""
    return [
        yaml_comment(f"{remark.message} ({_place(Line(remark.line, remark.file), file)})", indent)
        for remark in sorted(set(remarks))
    ]


def _place(line: Line, file: str) -> str:
    return f"line {line}" if line.file == file else f"{line.file}:{line}"


def _pool(body: _Body, name: str, draft: Draft, pool: FittedPool, file: str) -> None:
    body.add([f"  {yaml_key(name)}:"], draft.line)
    listen = [str(listener) for listener in pool.listen]
    if len(listen) == 1:
        body.add([f"    listen: {yaml_flow(listen[0])}"], draft.line)
    else:
        body.add(["    listen:", *(f"      - {yaml_flow(listener)}" for listener in listen)], draft.line)
    body.add([*yaml_entries(pool.settings, "    ", pool.notes), "    backends:"], draft.line)
    for (index, backend_name), backend in zip(backend_names(pool.servers).items(), pool.backends, strict=True):
        server = pool.servers[index]
        body.add(_noted(server.notes.remarks, "      ", file), server.line)
        written = f"      {yaml_key(backend_name)}: {yaml_flow(backend)}  {yaml_comment(_place(server.line, file))}"
        body.add([written], server.line)
    if pool.health:
        body.add(["    health:"], draft.line)
        for check in pool.health:
            first, *rest = yaml_entries(check, "        ")
            body.add([f"      - {first.strip()}", *rest], draft.line)
    body.add(yaml_entries(pool.after, "    "), draft.line)


# --- names ------------------------------------------------------------------------------------------------------------

_OTHER = re.compile(r"[^A-Za-z0-9_.-]")
Taken: TypeAlias = "dict[str, int]"
"""Names in use, each with the number of names derived from the name."""
_LONGEST = 40
"""Short enough that a number fits behind it."""


def pool_name(draft: Draft, taken: Taken) -> str:
    """Name a pool after its group, or after its protocol, address and port."""
    listening = draft.listen[0]
    low, high = listening.ports
    ports = str(low) if low == high else "all"
    own = _OTHER.sub("-", draft.name)
    if own and not own[0].isalpha():
        own = f"{draft.protocol}-{own}"
    return _free(own[:_LONGEST] or f"{draft.protocol}-{_text(str(listening.address))}-{ports}", taken)


def backend_names(servers: list[DraftServer]) -> dict[int, str]:
    """Name the servers, by their index, after their address or host name; with the port where one has several servers.

    The backends of a host name get their names from it, with the address behind a dash. So this name is short, and no
    other name begins with it and a dash.
    """
    often = Counter(server.where for server in servers)
    taken: Taken = {}
    found = {}
    for index, server in enumerate(servers):
        port = f"-{server.port}" if often[server.where] > 1 and server.port is not None else ""
        text = server.host.rstrip(".") if server.host else _text(str(server.address))
        found[index] = _free(text + port, taken)
    begun = {name[: dash.start()] for name in found.values() for dash in re.finditer("-", name)}
    numbers = (name for name in map("host{}".format, count(1)) if name not in taken and name not in begun)
    for index, server in enumerate(servers):
        if server.host and (len(found[index]) > LONGEST_NAME or found[index] in begun):
            found[index] = next(numbers)
    return found


def _text(address: str) -> str:
    """An address without the characters that a name can't have."""
    text = address.replace(":", "-")
    return f"0{text}" if text.startswith("-") else text


def _free(name: str, taken: Taken) -> str:
    """Return a name that is not in use: the name itself, or with a number behind it."""
    number = taken.get(name, 0) + 1
    free = name if number == 1 else f"{name}-{number}"
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken[name] = number
    taken.setdefault(free, 1)
    return free
