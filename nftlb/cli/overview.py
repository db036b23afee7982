"""The daemon's status as text for people: what is wrong first, then pool after pool. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.cli.columns import Cell, Column, table
from nftlb.cli.looks import Looks, Style, age, per_cent, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from nftlb.client import Backend, Pool, Seen

NAMED = 5
"""So many backends that are down are named before the rest is counted."""
COLUMNS = (
    Column("BACKEND", least=12),
    Column("ADDRESS", least=14),
    Column("STATE"),
    Column("ADMIN", least=12),
    Column("WT", right=True),
    Column("SHARE", right=True),
    Column("PACKETS", right=True),
    Column("SINCE", right=True),
    Column("REASON", least=0),
)
INDENT = "  "
_LEGIBLE = 20


def overview(seen: Seen, pools: Iterable[Pool], now: datetime, looks: Looks) -> str:
    """Everything about these pools, in lines that end."""
    lines = [headline(seen, now, looks), *troubles(seen, now, looks)]
    for pool in pools:
        lines += ["", *_pool(pool, now, looks)]
    return looks.fit("".join(f"{line}\n" for line in lines))


def headline(seen: Seen, now: datetime, looks: Looks) -> str:
    """The daemon itself, in a line."""
    ready = looks.paint("ready", Style.GOOD) if seen.ready else looks.paint("not ready", Style.BAD)
    return f"nftlb {seen.version}, {ready}, running for {age((now - seen.started).total_seconds())} (pid {seen.pid})"


def troubles(seen: Seen, now: datetime, looks: Looks) -> Iterator[str]:
    """All that is wrong, a line each."""
    mark = looks.paint("!", Style.BAD)
    if not seen.kernel.synced:
        yield f"{mark} kernel: not as it should be: {seen.kernel.error or 'no reason is known'}"
    if not seen.config.success:
        when = age((now - seen.config.attempted).total_seconds())
        yield f"{mark} configuration: refused {when} ago; the one before is in use: {seen.config.file}"
        yield from (f"    {problem}" for problem in seen.config.problems)
    for fault in seen.faults:
        yield f"{mark} {fault.what}: {fault.message} (for {age((now - fault.since).total_seconds())})"
    for pool in seen.pools:
        yield from (f"{mark} pool {pool.name}: not ready: {what}" for what in pool.lacking)
        if not pool.ready and (pool.healthy < pool.quorum or not pool.lacking):
            yield f"{mark} pool {pool.name}: not ready: {pool.healthy} healthy, {pool.quorum} needed"
        if pool.mode != "healthy":
            yield f"{mark} pool {pool.name}: {_MODES.get(pool.mode, pool.mode)}"
        if down := [backend.name for backend in pool.backends if not backend.up]:
            more = f" and {len(down) - NAMED} more" if len(down) > NAMED else ""
            of = f"{len(down)} of {len(pool.backends)} down"
            yield f"{mark} pool {pool.name}: {of}: {', '.join(down[:NAMED])}{more}"


_MODES = {
    "panic": "panic: too few are healthy, so all enabled backends are used",
    "fallback": "fallback: no healthy backend is left",
}


def state(backend: Backend, looks: Looks) -> Cell:
    """A backend's health, and whether it gets packets, which should go together."""
    if backend.up:
        if backend.in_rotation:
            return Cell(looks.symbol("✓ up", "+ up"), Style.GOOD)
        return Cell(looks.symbol("○ up, idle", "o up, idle"), Style.WARNING)
    if backend.in_rotation:
        return Cell(looks.symbol("✗ down, used", "x down, used"), Style.BAD)
    return Cell(looks.symbol("✗ down", "x down"), Style.BAD)


def admin(backend: Backend) -> Cell:
    """What the operator wants; else what its agent does."""
    if backend.admin == "enabled" and backend.agent not in {None, "enabled"}:
        return Cell(f"{backend.agent} (agent)", Style.WARNING)
    return Cell(backend.admin, None if backend.admin == "enabled" else Style.WARNING)


def _pool(pool: Pool, now: datetime, looks: Looks) -> Iterator[str]:
    name = looks.paint(pool.name, Style.BOLD)
    ready = looks.paint("ready", Style.GOOD) if pool.ready else looks.paint("not ready", Style.BAD)
    since = age((now - pool.since).total_seconds())
    healthy = f"{pool.healthy}/{len(pool.backends)} healthy (quorum {pool.quorum})"
    mode = "" if pool.mode == "healthy" else f", {looks.paint(pool.mode, Style.BAD)}"
    yield f"{name}  {ready} for {since}, {healthy}{mode}, {short(pool.packets)} packets"
    yield f"{INDENT}{looks.cut(', '.join(pool.listen), looks.width - len(INDENT))}"
    yield from _backends(pool, now, looks)


def _backends(pool: Pool, now: datetime, looks: Looks) -> list[str]:
    rows = [_row(backend, now, looks) for backend in pool.backends]
    lines = table(COLUMNS, rows, looks, INDENT)
    room = lines[0].find(COLUMNS[-1].title)
    if room >= 0 and looks.width - room >= _LEGIBLE:
        return lines
    # Too narrow for reasons beside the rest: those that matter get a line of their own.
    narrow = table(COLUMNS[:-1], [row[:-1] for row in rows], looks, INDENT)
    told = narrow[:1]
    for line, backend in zip(narrow[1:], pool.backends, strict=True):
        told.append(line)
        if backend.reason and not backend.up:
            told.append(
                f"{INDENT * 2}{looks.paint(looks.cut(backend.reason, looks.width - 2 * len(INDENT)), Style.BAD)}"
            )
    return told


def _row(backend: Backend, now: datetime, looks: Looks) -> list[Cell]:
    return [
        Cell(backend.name),
        Cell(backend.endpoint),
        state(backend, looks),
        admin(backend),
        Cell(str(backend.weight)),
        Cell(per_cent(backend.share)),
        Cell(short(backend.packets)),
        Cell(age((now - backend.since).total_seconds())),
        Cell(backend.reason, None if backend.up else Style.BAD),
    ]
