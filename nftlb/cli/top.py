"""`nftlb top`: packets and bits per second of each backend on the whole terminal, with keys to operate backends."""

from __future__ import annotations

import gc
import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from nftlb.errors import NftlbError
from nftlb.printable import printable

from .arguments import examples
from .daemon import DaemonAccess, complete_pools, daemon_options, refuse_unknown_pools
from .operate import changed_text
from .output import write_output
from .rates import Order, Sample, head_lines, rate_data, rate_rows, rate_table_lines
from .screen import Screen, full_screen, on_terminal
from .terminal import Colour, output_style
from .top_view import CarryOut, Preview, Quit, TopView, press, screen_lines

if TYPE_CHECKING:
    from nftlb.client import DaemonClient

    from .rates import RateRow
    from .top_view import Action, Proposal


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
@click.option("--json", "as_json", is_flag=True, help="Print the rates of one interval as JSON and exit.")
@daemon_options
def top_command(
    daemon: DaemonAccess, pools: tuple[str, ...], interval: float, sort: str, once: bool, as_json: bool
) -> None:
    """Show the packets per second of each backend of all pools, or of each POOL, live.

    SHARE is the part of its pool's packets that a backend should get, NOW the part that it got since the last reading.

    Keys: q quits, s changes the order, / filters by name, address, state or label (site=fra), and the arrow keys choose
    a backend. d drains the chosen backend, e enables it, m is maintenance, w sets the weight. Each change shows its
    consequences and asks first.
    """
    client = daemon.reader()
    first = _read(client)
    refuse_unknown_pools(pools, first.seen)
    first = first.of(pools)
    order = Order(sort)
    if once or as_json or not on_terminal():
        time.sleep(interval)
        second = _read(client).of(pools)
        shown, style = rate_rows(first, second, order), output_style()
        if as_json:
            rates = {"seconds": round(second.at - first.at, 3), "backends": [rate_data(row) for row in shown]}
            write_output(json.dumps(rates, indent=2) + "\n")
            return
        lines = [*head_lines(second, shown, datetime.now(UTC), style), "", *rate_table_lines(shown, style)]
        write_output(style.encodable("".join(f"{line}\n" for line in lines)), painted=True)
        return
    gc.enable()  # from here on, the command may run for days
    with suppress(KeyboardInterrupt), full_screen() as terminal:
        _Live(daemon, client, terminal, first, pools).run(TopView(order), interval)


def _read(client: DaemonClient) -> Sample:
    return Sample(client.status(), time.monotonic())


class _Live:
    """The command on a terminal: reads samples, draws them, and carries out what keys ask for."""

    def __init__(
        self, daemon: DaemonAccess, client: DaemonClient, terminal: Screen, first: Sample, pools: tuple[str, ...]
    ) -> None:
        self._daemon = daemon
        self._client = client
        self._terminal = terminal
        self._pools = pools
        self._before: Sample | None = None
        self._now = first
        self._trouble = ""

    def run(self, view: TopView, interval: float) -> None:
        """Draw until a key quits."""
        while True:
            due = time.monotonic() + interval
            while True:
                rows = self._rows(view)
                self._draw(view, rows)
                keys = self._terminal.keys(due)
                if keys == []:
                    break
                for key in keys or ():
                    view, action = press(view, key, [row.name for row in self._rows(view)])
                    if isinstance(action, Quit):
                        return
                    if action is None:
                        continue
                    view = self._carried_out(view, action)
                    if view.proposal is not None:
                        # Keys from before the question, such as the rest of a pasted text, must not answer it.
                        self._terminal.forget_keys()
                        break
            self._sample()

    def _rows(self, view: TopView) -> list[RateRow]:
        return [row for row in rate_rows(self._before, self._now, view.order) if view.matches(row)]

    def _draw(self, view: TopView, rows: list[RateRow]) -> None:
        moment, style = datetime.now(UTC), output_style()
        lines = screen_lines(view, self._now, rows, moment, style, self._terminal.height, self._trouble)
        self._terminal.draw(lines)

    def _sample(self) -> None:
        try:
            self._before, self._now = self._now, _read(self._client).of(self._pools)
            self._trouble = ""
        except NftlbError as error:  # the daemon may be restarting
            self._trouble = output_style().paint(f"! {_one_line(error)}", Colour.BAD)

    def _carried_out(self, view: TopView, action: Action) -> TopView:
        """The view after an action. An error is shown, and changes nothing."""
        try:
            match action:
                case Preview(proposal):
                    return view.asking(proposal, self._consequences(proposal))
                case CarryOut(proposal):
                    changed = self._daemon.writer().change(proposal.pool, proposal.backend, proposal.wanted)
                    said = changed_text(proposal.backend, changed)
                    self._sample()
                    return replace(view, note=f"{proposal.pool}/{proposal.backend}: {said}")
        except NftlbError as error:
            return replace(view, note=_one_line(error))
        return view

    def _consequences(self, proposal: Proposal) -> tuple[str, ...]:
        if not self._now.seen.host:
            # A daemon that does not report its host knows no preview either, and would carry the change out.
            return ("the daemon is older than this command, and can't say what the change means for the traffic",)
        writer = self._daemon.writer()
        return writer.consequences_of_change(proposal.pool, proposal.backend, proposal.wanted)


def _one_line(error: NftlbError) -> str:
    return printable(str(error).replace("\n", "; "))
