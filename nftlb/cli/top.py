"""`nftlb top`: packets and bits per second of each backend, drawn on the whole terminal."""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import socket
import sys
import termios
import time
import tty
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click

from nftlb.errors import NftlbError

from .arguments import examples
from .daemon import DaemonAccess, complete_pools, daemon_options, refuse_unknown_pools
from .output import write_output
from .status import admin_cell, daemon_line, fault_lines, health_cell
from .terminal import Cell, Colour, Column, aligned_lines, number_text, output_style, share_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from nftlb.client import BackendView, DaemonClient, StatusView

    from .terminal import TextStyle


# --- rates, from two readings of the daemon's counters ---------------------------------------------------------------

MOST_FAULTS = 4
"""Lines with faults that are shown, so that there is space for backends."""


class Order(StrEnum):
    """The order of the rows."""

    RATE = "rate"
    PACKETS = "packets"
    NAME = "name"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon's status, and the time of its arrival: seconds of a monotonic clock."""

    seen: StatusView
    at: float


@dataclass(frozen=True, slots=True)
class RateRow:
    """The rates of one backend per second. None: it is in one sample only, or its counters were reset in between."""

    pool: str
    backend: BackendView
    packets: float | None
    bits: float | None

    @property
    def name(self) -> str:
        return f"{self.pool}/{self.backend.name}"


def rate_rows(before: Sample | None, now: Sample, order: Order, pools: Iterable[str] = ()) -> list[RateRow]:
    """The row of each backend of `pools`, or of all pools if there are none."""
    earlier = {} if before is None else _backends(before)
    seconds = 0.0 if before is None else now.at - before.at
    wanted = frozenset(pools)
    found = []
    for (pool, name), backend in _backends(now).items():
        if wanted and pool not in wanted:
            continue
        old = earlier.get((pool, name))
        if old is None or seconds <= 0 or backend.packets < old.packets or backend.bytes < old.bytes:
            found.append(RateRow(pool, backend, None, None))
        else:
            packets, count = backend.packets - old.packets, backend.bytes - old.bytes
            found.append(RateRow(pool, backend, packets / seconds, count * 8 / seconds))
    return sorted(found, key=_KEYS[order])


def _backends(reading: Sample) -> dict[tuple[str, str], BackendView]:
    return {(pool.name, backend.name): backend for pool in reading.seen.pools for backend in pool.backends}


_KEYS = {
    Order.RATE: lambda row: (-(row.packets or 0.0), row.name),
    Order.PACKETS: lambda row: (-row.backend.packets, row.name),
    Order.NAME: lambda row: (row.name,),
    Order.STATE: lambda row: (row.backend.up, row.backend.in_rotation, row.name),
}
COLUMNS = (
    Column("POOL/BACKEND", least=16),
    Column("STATE"),
    Column("ADMIN", least=12),
    Column("WT", right=True),
    Column("SHARE", right=True),
    Column("NOW", right=True),
    Column("PKT/S", right=True),
    Column("BIT/S", right=True),
    Column("PACKETS", right=True),
    Column("ADDRESS", least=0, whole=True),
)


def rate_lines(
    now: Sample, shown: list[RateRow], moment: datetime, style: TextStyle, height: int | None = None, note: str = ""
) -> list[str]:
    """The lines to show, at most `height`. `note`: why there is no newer sample, shown in place of the faults."""
    head = [daemon_line(now.seen, moment, style)]
    bad = [note] if note else list(fault_lines(now.seen, moment, style))
    if height is not None and len(bad) > MOST_FAULTS:
        bad = [*bad[: MOST_FAULTS - 1], f"! and {len(bad) - MOST_FAULTS + 1} more: nftlb status"]
    totals: dict[str, float] = {}
    for row in shown:
        totals[row.pool] = totals.get(row.pool, 0.0) + (row.packets or 0.0)
    lines = aligned_lines(COLUMNS, [_cells(row, totals[row.pool], style) for row in shown], style)
    total = f"{number_text(sum(totals.values()))} packets/s to {len(shown)} backends"
    frame = [*head, *bad, total, "", *lines]
    if height is not None and len(frame) > height:
        kept = max(height - 1, 1)
        frame = [*frame[:kept], f"... {len(frame) - kept} more"][:height]
    return [style.encodable(line) for line in frame]


def _cells(row: RateRow, total: float, style: TextStyle) -> list[Cell]:
    backend = row.backend
    unknown = "-"
    return [
        Cell(row.name),
        health_cell(backend, style),
        admin_cell(backend),
        Cell(str(backend.weight)),
        Cell(share_text(backend.share)),
        Cell(share_text(row.packets / total) if row.packets is not None and total else unknown),
        Cell(unknown if row.packets is None else number_text(row.packets)),
        Cell(unknown if row.bits is None else number_text(row.bits)),
        Cell(number_text(backend.packets)),
        Cell(backend.endpoint),
    ]


# --- the command and the terminal -------------------------------------------------------------------------------------

QUIT_KEYS = "qQ\x03\x04"  # with ^C and ^D, for terminals that send them as keys
# The alternate screen, without cursor and without wrapping of lines; and back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command(
    "top", epilog=examples("nftlb top", "nftlb top dns --interval 5", "nftlb top --once --sort name > rates.txt")
)
@click.argument("pools", metavar="[POOL]...", nargs=-1, shell_complete=complete_pools)
@click.option(
    "-d",
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    metavar="SECONDS",
    help="Time between two readings. [1]",
)
@click.option(
    "-s",
    "--sort",
    type=click.Choice(list(map(str, Order))),
    default=str(Order.RATE),
    help="Order of the backends. [rate]",
)
@click.option(
    "-b",
    "--once",
    "--batch",
    "once",
    is_flag=True,
    help="Show one interval as plain text and exit; the default for a pipe.",
)
@daemon_options
def top_command(daemon: DaemonAccess, pools: tuple[str, ...], interval: float, sort: str, once: bool) -> None:
    """Show the packets per second of each backend of all pools, or of each POOL, live. The key q quits.

    SHARE is the part of its pool's packets that a backend should get, NOW the part that it got since the last reading.
    """
    client = daemon.reader()
    first = _read(client)
    refuse_unknown_pools(pools, first.seen)
    order = Order(sort)
    if once or sys.stdout is None or not sys.stdout.isatty():
        time.sleep(interval)
        second = _read(client)
        shown = rate_rows(first, second, order, pools)
        write_output(
            "".join(f"{line}\n" for line in rate_lines(second, shown, datetime.now(UTC), output_style())), painted=True
        )
        return
    gc.enable()  # from here on, the command may run for days
    with suppress(KeyboardInterrupt), full_screen() as terminal:
        _live(client, terminal, first, order, pools, interval)


def _live(
    client: DaemonClient, terminal: Screen, now: Sample, order: Order, pools: tuple[str, ...], interval: float
) -> None:
    before: Sample | None = None
    note = ""
    while True:
        shown = rate_rows(before, now, order, pools)
        due = time.monotonic() + interval
        while (key := _shown(terminal, now, shown, note, due)) != "":
            if key and set(key) & set(QUIT_KEYS):
                return
        try:
            before, now = now, _read(client)
            note = ""
        except NftlbError as error:  # the daemon may be restarting
            note = output_style().paint(f"! {error}", Colour.BAD)


def _shown(terminal: Screen, now: Sample, shown: list[RateRow], note: str, due: float) -> str | None:
    """Draw the rows and wait for a key until `due`; None if the terminal's size changed, "" if no key was pressed."""
    height = shutil.get_terminal_size().lines
    terminal.draw(rate_lines(now, shown, datetime.now(UTC), output_style(), height, note))
    return terminal.key(due)


def _read(client: DaemonClient) -> Sample:
    return Sample(client.status(), time.monotonic())


class Screen:
    """The whole terminal: draws lines, and reads keys."""

    def __init__(self, keys: int | None, signals: socket.socket) -> None:
        self._keys = keys
        self._signals = signals

    def draw(self, lines: list[str]) -> None:
        """Show only these lines. The screen is not cleared before, so it does not flicker."""
        write_output(HOME + "\n".join(line + REST_OF_LINE for line in lines) + REST_OF_SCREEN, painted=True)

    def key(self, until: float) -> str | None:
        """Wait for a key until `time.monotonic()` is `until`; "" if there was none, None after a resize."""
        watched: list[Any] = [self._signals] if self._keys is None else [self._signals, self._keys]
        ready, _, _ = select.select(watched, [], [], max(until - time.monotonic(), 0.0))
        if self._signals in ready:
            with suppress(BlockingIOError):
                self._signals.recv(1024)
            return None
        if ready and self._keys is not None:
            pressed = os.read(self._keys, 1024).decode("ascii", "replace")
            if not pressed:  # standard input has ended
                self._keys = None
            return pressed
        return ""


@contextmanager
def full_screen() -> Iterator[Screen]:
    """Take the terminal over, and restore it afterwards, also after SIGTERM and SIGHUP, which end the command.

    Keys arrive at once and are not shown.
    """
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    before = None if keys is None else termios.tcgetattr(keys)
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    handlers = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _ignore)
    wakeup = signal.set_wakeup_fd(writing.fileno())
    try:
        if keys is not None:
            _disable_echo(keys)
        write_output(ENTER, painted=True)
        yield Screen(keys, reading)
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reading.close()
        writing.close()
        if keys is not None and before is not None:
            with suppress(termios.error):
                termios.tcsetattr(keys, termios.TCSADRAIN, before)
        write_output(LEAVE, painted=True)


def _disable_echo(keys: int) -> None:
    tty.setcbreak(keys)
    modes = termios.tcgetattr(keys)
    # ^Z would return to the shell with the alternate screen still shown.
    modes[6][termios.VSUSP] = os.fpathconf(keys, "PC_VDISABLE").to_bytes(1, "big")
    termios.tcsetattr(keys, termios.TCSADRAIN, modes)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ignore(_: int, __: FrameType | None) -> None:
    """Do nothing: a signal wakes select() up through the wakeup descriptor only if it has a handler."""
