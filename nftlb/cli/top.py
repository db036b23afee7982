"""`nftlb top`."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from nftlb.cli.daemon import Daemon, complete_pools, daemon_options, unknown_pool
from nftlb.cli.examples import examples
from nftlb.cli.looks import Style, looks
from nftlb.cli.output import write
from nftlb.cli.rates import Order, Reading, Row, picture, rows
from nftlb.cli.screen import Screen, screen
from nftlb.errors import NftlbError

if TYPE_CHECKING:
    from nftlb.client import Client

LEAVE = "qQ\x03\x04"  # ^C and ^D too, should the terminal send them as keys


@click.command(epilog=examples("nftlb top", "nftlb top dns --interval 5", "nftlb top --once --sort name > rates.txt"))
@click.argument("pools", metavar="[POOL]...", nargs=-1, shell_complete=complete_pools)
@click.option(
    "-d", "--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="SECONDS", help="Between readings. [1]"
)
@click.option("-s", "--sort", type=click.Choice(list(map(str, Order))), default=str(Order.RATE), help="By what. [rate]")
@click.option("-b", "--once", "--batch", "once", is_flag=True, help="Show one interval and end, as into a pipe.")
@daemon_options
def top(daemon: Daemon, pools: tuple[str, ...], interval: float, sort: str, once: bool) -> None:
    """Show the packets that each backend gets per second, live; q leaves.

    SHARE is what a backend should have of its pool's packets, NOW what it had since the reading before. Of all pools,
    or of each POOL.
    """
    client = daemon.reader()
    first = _read(client)
    known = {pool.name for pool in first.seen.pools}
    for name in pools:
        if name not in known:
            raise unknown_pool(name, name, first.seen)
    order = Order(sort)
    if once or sys.stdout is None or not sys.stdout.isatty():
        time.sleep(interval)
        second = _read(client)
        shown = rows(first, second, order, pools)
        write("".join(f"{line}\n" for line in picture(second, shown, datetime.now(UTC), looks())), painted=True)
        return
    with suppress(KeyboardInterrupt), screen() as terminal:
        _live(client, terminal, first, order, pools, interval)


def _live(
    client: Client, terminal: Screen, now: Reading, order: Order, pools: tuple[str, ...], interval: float
) -> None:
    before: Reading | None = None
    note = ""
    while True:
        shown = rows(before, now, order, pools)
        due = time.monotonic() + interval
        while (key := _shown(terminal, now, shown, note, due)) != "":
            if key and set(key) & set(LEAVE):
                return
        try:
            before, now = now, _read(client)
            note = ""
        except NftlbError as error:  # it may be restarting
            note = looks().paint(f"! {error}", Style.BAD)


def _shown(terminal: Screen, now: Reading, shown: list[Row], note: str, due: float) -> str | None:
    """Show it, and wait for a key; None if the terminal's size changed, "" if nothing came in time."""
    height = shutil.get_terminal_size().lines
    terminal.draw(picture(now, shown, datetime.now(UTC), looks(), height, note))
    return terminal.key(due)


def _read(client: Client) -> Reading:
    return Reading(client.status(), time.monotonic())
