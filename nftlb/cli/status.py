"""`nftlb status`: the daemon, its faults, then pool by pool."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from nftlb.name_list import names_text

from .arguments import examples
from .daemon import DaemonAccess, complete_pools, daemon_options, refuse_unknown_pools
from .labels import has_labels, label_option, label_text, refuse_unknown_labels
from .output import write_output
from .screen import watch_text
from .terminal import (
    Cell,
    Colour,
    Column,
    TextStyle,
    age_text,
    aligned_lines,
    number_text,
    output_style,
    share_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nftlb.client import BackendView, CollectorView, GuardView, PoolView, StatusView

    from .labels import Wanted

    StatusText: TypeAlias = Callable[[StatusView, Iterable[PoolView], datetime, TextStyle, Wanted], str]


@click.command(
    "status",
    epilog=examples(
        "nftlb status",
        "nftlb status dns --watch",
        "nftlb status --problems",
        "nftlb status --label site=fra",
        "nftlb status --json | jq '.pools[] | {name, healthy}'",
    ),
)
@click.argument("pools", metavar="[POOL]...", nargs=-1, shell_complete=complete_pools)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of the API.")
@click.option("--problems", is_flag=True, help="Show only what is wrong, and the backends that are not in service.")
@click.option("-w", "--watch", is_flag=True, help="Show it again and again, until q or ^C.")
@click.option(
    "-d",
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    metavar="SECONDS",
    help="With --watch: the time between two readings. [2]",
)
@label_option("Show only backends with this label. Repeatable: with all these labels.")
@daemon_options
def status_command(
    daemon: DaemonAccess,
    pools: tuple[str, ...],
    as_json: bool,
    problems: bool,
    watch: bool,
    interval: float,
    labels: Wanted,
) -> None:
    """Show the daemon's state: first its faults, then every pool, or each POOL, with its backends.

    Exit status: 0 if the daemon answered, even if backends are down. `nftlb health` tells scripts the readiness.
    """
    if as_json and (watch or problems):
        raise click.UsageError("--json shows the whole state once; give neither --watch nor --problems with it.")
    client = daemon.reader()
    document = client.document()
    seen = client.view(document)
    refuse_unknown_pools(pools, seen)
    refuse_unknown_labels(labels, [pool for pool in seen.pools if not pools or pool.name in pools])
    if as_json:
        if pools:
            document = {**document, "pools": [pool for pool in document["pools"] if pool["name"] in pools]}
        if labels:
            document = {**document, "pools": list(_with_labels(document["pools"], labels))}
        write_output(json.dumps(document, indent=2) + "\n")
        return
    text = problems_text if problems else status_text

    def shown() -> str:
        return _shown_text(text, client.status(), pools, labels)

    if watch:
        watch_text(shown, interval)
    else:
        write_output(_shown_text(text, seen, pools, labels), painted=True)


def _with_labels(pools: Iterable[dict[str, Any]], labels: Wanted) -> Iterator[dict[str, Any]]:
    """The pools of a document that have backends with these labels, without their other backends."""
    for pool in pools:
        if found := [backend for backend in pool["backends"] if has_labels(backend.get("labels", {}), labels)]:
            yield {**pool, "backends": found}


def _shown_text(text: StatusText, seen: StatusView, pools: Sequence[str], labels: Wanted) -> str:
    """The text about these pools, or about all pools if none is named. A pool that has been removed is left out.

    With `labels`, pools without a backend that has these labels are left out too.
    """
    known = {pool.name: pool for pool in seen.pools if not labels or _having(pool, labels).backends}
    wanted = [known[name] for name in dict.fromkeys(pools or known) if name in known]
    return text(seen, wanted, datetime.now(UTC), output_style(), labels)


def _having(pool: PoolView, labels: Wanted) -> PoolView:
    """The pool with only the backends that have these labels."""
    if not labels:
        return pool
    return replace(pool, backends=tuple(backend for backend in pool.backends if has_labels(backend.labels, labels)))


COLUMNS = (
    Column("BACKEND", least=12),
    Column("ADDRESS", least=14),
    Column("STATE"),
    Column("ADMIN", least=12, spare=7),
    Column("WT", right=True, spare=3),
    Column("SHARE", right=True),
    Column("PACKETS", right=True, spare=1),
    Column("SINCE", right=True, spare=6),
    Column("REASON", least=0),
)
_PRIORITY, _COPIES, _ANSWERED, _LABELS = 5, 7, 7, 8
"""Where the columns are that only some pools have: of priorities if there are several, of copies, of answered packets,
and of the labels that backends have beside those of the pool."""
INDENT = "  "
_LEGIBLE = 20
"""Columns that the reasons need beside the rest."""


def status_text(
    seen: StatusView, pools: Iterable[PoolView], now: datetime, style: TextStyle, labels: Wanted = ()
) -> str:
    """The daemon, its faults, and `pools` with their backends that have these labels, in complete lines.

    Faults of other pools are left out.
    """
    shown = tuple(pools)
    lines = [daemon_line(seen, now, style), *fault_lines(seen.of(shown), now, style)]
    for pool in shown:
        lines += ["", *_pool(pool, now, style), *_backends(_having(pool, labels), now, style)]
        lines += [_collector(collector, now, style) for collector in pool.collectors]
    return style.encodable("".join(f"{line}\n" for line in lines))


def problems_text(
    seen: StatusView, pools: Iterable[PoolView], now: datetime, style: TextStyle, labels: Wanted = ()
) -> str:
    """What is wrong with the daemon and `pools`, and the backends that are not in service; or that there is nothing.

    Of the backends, only those with these labels.
    """
    shown = tuple(pools)
    lines = list(fault_lines(seen.of(shown), now, style))
    rows = [
        [Cell(f"{pool.name}/{backend.name}"), *_row(backend, now, style)[1:]]
        for pool in shown
        for backend in _having(pool, labels).backends
        if not backend.in_rotation and not backend.standby
    ]
    if rows:
        lines += ["", *aligned_lines((Column("POOL/BACKEND", least=16), *COLUMNS[1:]), rows, style)]
    text = "".join(f"{line}\n" for line in lines or ["no problems; all backends are in service or stand by"])
    return style.encodable(f"{daemon_line(seen, now, style)}\n{text}")


def daemon_line(seen: StatusView, now: datetime, style: TextStyle) -> str:
    """The daemon's version, readiness, age and process, in one line."""
    ready = style.paint("ready", Colour.GOOD) if seen.ready else style.paint("not ready", Colour.BAD)
    return (
        f"nftlb {seen.version}, {ready}, running for {age_text((now - seen.started).total_seconds())} (pid {seen.pid})"
    )


def fault_lines(seen: StatusView, now: datetime, style: TextStyle) -> Iterator[str]:
    """Everything that is wrong: one line for each fault."""
    mark = style.paint("!", Colour.BAD)
    if not seen.kernel.synced:
        yield f"{mark} kernel: its rules are not as wanted: {seen.kernel.error or 'the reason is unknown'}"
    if not seen.config.success:
        when = age_text((now - seen.config.attempted).total_seconds())
        yield f"{mark} configuration: refused {when} ago; the previous one stays in use: {seen.config.file}"
        yield from (f"    {problem}" for problem in seen.config.problems)
    for fault in seen.faults:
        yield f"{mark} {fault.what}: {fault.message} (for {age_text((now - fault.since).total_seconds())})"
    for pool in seen.pools:
        yield from (f"{mark} pool {pool.name}: not ready: {reason}" for reason in pool.lacking)
        if not pool.ready and (pool.healthy < pool.quorum or not pool.lacking):
            yield f"{mark} pool {pool.name}: not ready: {pool.healthy} usable, {pool.quorum} needed"
        if pool.mode != "healthy":
            yield f"{mark} pool {pool.name}: {_MODES.get(pool.mode, pool.mode)}"
        elif others := other_priorities(pool, now):
            yield f"{mark} pool {pool.name}: {others}"
        if down := [backend.name for backend in pool.backends if not backend.up]:
            yield f"{mark} pool {pool.name}: {len(down)} of {len(pool.backends)} down: {names_text(down)}"
        if silent := [collector.name for collector in pool.collectors if not collector.up]:
            yield f"{mark} pool {pool.name}: no copies to {names_text(silent)}, which is down"


_MODES = {
    "panic": "panic: too few backends are up, so all enabled backends are used",
    "fallback": "fallback: no backend is usable, so the fallback is used",
}


def priorities_of(pool: PoolView) -> list[int]:
    """The priorities of the backends, the lowest first."""
    return sorted({backend.priority for backend in pool.backends})


def other_priorities(pool: PoolView, now: datetime) -> str:
    """Which backends get the packets if not those of the lowest priority; empty if those do."""
    first, *others = priorities_of(pool) or [0]
    if not others or pool.priority == first:
        return ""
    text = f"priority {pool.priority} serves instead of {first}"
    if pool.priority is None:
        text = f"no priority serves alone (min_healthy {pool.min_healthy}), so all usable backends are used"
    if pool.preempts_at is None:
        return text
    return f"{text}; a lower priority takes over in {age_text((pool.preempts_at - now).total_seconds())}"


def health_cell(backend: BackendView, style: TextStyle) -> Cell:
    """A backend's health, and whether it gets packets if that differs from its health."""
    if backend.up:
        if backend.in_rotation:
            return Cell(style.symbol("✓ up", "+ up"), Colour.GOOD)
        if backend.standby:
            return Cell(style.symbol("○ standby", "o standby"))
        return Cell(style.symbol("○ up, idle", "o up, idle"), Colour.WARNING)
    if backend.in_rotation:
        return Cell(style.symbol("✗ down, used", "x down, used"), Colour.BAD)
    return Cell(style.symbol("✗ down", "x down"), Colour.BAD)


def admin_cell(backend: BackendView) -> Cell:
    """The admin state set by the operator; if that is `enabled`, the state set by the backend's agent."""
    if backend.admin == "enabled" and backend.agent not in {None, "enabled"}:
        return Cell(f"{backend.agent} (agent)", Colour.WARNING)
    return Cell(backend.admin, None if backend.admin == "enabled" else Colour.WARNING)


def state_since(backend: BackendView) -> datetime:
    """Since when a backend has its health and its admin state: the later of the two changes."""
    return backend.since if backend.admin_since is None else max(backend.since, backend.admin_since)


def _pool(pool: PoolView, now: datetime, style: TextStyle) -> Iterator[str]:
    """The lines about a pool before those of its backends."""
    name = style.paint(pool.name, Colour.BOLD)
    ready = style.paint("ready", Colour.GOOD) if pool.ready else style.paint("not ready", Colour.BAD)
    since = age_text((now - pool.since).total_seconds())
    serving = sum(backend.in_rotation for backend in pool.backends)
    usable = "" if serving == pool.healthy else f", {pool.healthy} usable"
    service = f"{serving}/{len(pool.backends)} in service{usable} (quorum {pool.quorum})"
    mode = "" if pool.mode == "healthy" else f", {style.paint(pool.mode, Colour.BAD)}"
    if pool.priority is not None and len(priorities_of(pool)) > 1:
        mode += f", priority {pool.priority}"
    yield f"{name}  {ready} for {since}, {service}{mode}, {number_text(pool.packets)} packets"
    yield f"{INDENT}{style.cut(', '.join(pool.listen), style.width - len(INDENT))}"
    if pool.guard is not None:
        yield f"{INDENT}{style.cut(_dropped(pool.guard), style.width - len(INDENT))}"
    if pool.labels:
        yield f"{INDENT}{style.cut(f'labels: {label_text(pool.labels.items())}', style.width - len(INDENT))}"
    yield from (f"{INDENT}{style.cut(line, style.width - len(INDENT))}" for line in _names(pool, now))


def _collector(collector: CollectorView, now: datetime, style: TextStyle) -> str:
    """One line about a collector."""
    sample = f", 1 in {collector.one_in}" if collector.one_in > 1 else ""
    state = style.paint(style.symbol("✓ up", "+ up"), Colour.GOOD)
    if not collector.up:
        state = style.paint(style.symbol("✗ down", "x down"), Colour.BAD)
    since = age_text((now - collector.since).total_seconds())
    reason = f", {collector.reason}" if not collector.up else ""
    return (
        f"{INDENT}copies to {collector.name} {collector.endpoint}{sample}  {state} for {since}, "
        f"{number_text(collector.packets)} packets{reason}"
    )


def _dropped(guard: GuardView) -> str:
    """What a guard dropped, by reason. Reasons without a packet are left out."""
    reasons = {"above the rate": guard.rate, "banned": guard.banned, "denied": guard.denied, "no room": guard.full}
    found = ", ".join(f"{number_text(number)} {reason}" for reason, number in reasons.items() if number)
    return f"guard: dropped {found or 'no packets'}"


_MOST_KEPT = 5
"""The most absent addresses of a name that are shown."""


def _names(pool: PoolView, now: datetime) -> Iterator[str]:
    """Lines about each name whose addresses come from DNS: its addresses that can't be backends, and absent ones."""
    for name in pool.names:
        count = len(name.backends)
        words = [f"{name.name} is {name.lookup}: {count} {'backend' if count == 1 else 'backends'}"]
        if name.answered is None:
            words.append("saved by an earlier run" if count else "not answered yet")
        else:
            words.append(f"answered {age_text((now - name.answered).total_seconds())} ago")
        if name.expires is not None:
            words.append(f"asked again in {age_text((name.expires - now).total_seconds())}")
        yield ", ".join(words)
        yield from name.left_out
        for number, (backend, wish) in enumerate(name.kept.items()):
            if number == _MOST_KEPT:
                more = len(name.kept) - number
                yield f"{more} more {'is' if more == 1 else 'are'} absent that the operator had changed"
                break
            yield f"{backend} is absent; the operator had set: {wish}"


def _backends(pool: PoolView, now: datetime, style: TextStyle) -> list[str]:
    columns: tuple[Column, ...] = COLUMNS
    rows = [_row(backend, now, style) for backend in pool.backends]
    more: list[tuple[int, Column, list[str]]] = []  # from the right to the left
    own = [label_text(sorted(backend.labels.items() - pool.labels.items())) for backend in pool.backends]
    has_own = any(backend.labels != pool.labels for backend in pool.backends)
    if has_own:
        more.append((_LABELS, Column("LABELS", least=0), [labels or "-" for labels in own]))
    if any(backend.answered is not None for backend in pool.backends):
        shares = (backend.answered for backend in pool.backends)
        texts = ["-" if share is None else share_text(share) for share in shares]
        more.append((_ANSWERED, Column("ANSWERED", right=True, spare=4), texts))
    if any(backend.copies is not None for backend in pool.backends):
        copies = [number_text(backend.copies or 0) for backend in pool.backends]
        more.append((_COPIES, Column("COPIES", right=True, spare=2), copies))
    if len(priorities_of(pool)) > 1:
        more.append(
            (_PRIORITY, Column("PRIO", right=True, spare=5), [str(backend.priority) for backend in pool.backends])
        )
    for place, column, texts in more:
        columns = (*columns[:place], column, *columns[place:])
        rows = [[*row[:place], Cell(text), *row[place:]] for row, text in zip(rows, texts, strict=True)]
    lines = aligned_lines(columns, rows, style, INDENT)
    reasons = lines[0].find(columns[-1].title)
    if reasons >= 0 and style.width - reasons >= _LEGIBLE:
        return lines
    return _narrow_lines(pool, columns[:-1], [row[:-1] for row in rows], own if has_own else [], style)


def _narrow_lines(
    pool: PoolView, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], labels: Sequence[str], style: TextStyle
) -> list[str]:
    """The table for a terminal without room for a column of reasons. `labels`: of each backend, if they have a column.

    The reasons of backends that are down have separate lines, and so have the labels if their column would be cut.
    """
    lines = aligned_lines(columns, rows, style, INDENT)
    below: Sequence[str] = [""] * len(rows)
    if labels and max(map(len, labels)) > style.width - f"{lines[0]} LABELS".index(" LABELS") - 1:
        lines, below = aligned_lines(columns[:-1], [row[:-1] for row in rows], style, INDENT), labels
    shown = lines[:1]
    for line, backend, text in zip(lines[1:], pool.backends, below, strict=True):
        shown.append(line)
        if text:
            shown.append(f"{INDENT * 2}{style.cut(text, style.width - 2 * len(INDENT))}")
        if backend.reason and not backend.up:
            shown.append(
                f"{INDENT * 2}{style.paint(style.cut(backend.reason, style.width - 2 * len(INDENT)), Colour.BAD)}"
            )
    return shown


def _row(backend: BackendView, now: datetime, style: TextStyle) -> list[Cell]:
    return [
        Cell(backend.name),
        Cell(backend.endpoint),
        health_cell(backend, style),
        admin_cell(backend),
        Cell(str(backend.weight)),
        Cell(share_text(backend.share)),
        Cell(number_text(backend.packets)),
        Cell(age_text((now - state_since(backend)).total_seconds())),
        Cell(backend.reason, None if backend.up else Colour.BAD),
    ]
