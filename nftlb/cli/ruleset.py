"""`nftlb ruleset`: the rules that the daemon loaded, and the last changes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .arguments import examples
from .daemon import DaemonAccess, daemon_options
from .output import write_output
from .terminal import Colour, output_style, time_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.client import ChangeView

    from .terminal import TextStyle


@click.command("ruleset", epilog=examples("nftlb ruleset", "nftlb ruleset --changes"))
@click.option("--changes", is_flag=True, help="Show the last changes of the rules, the newest last.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@daemon_options
def ruleset_command(daemon: DaemonAccess, changes: bool, as_json: bool) -> None:
    """Print the rules that the daemon loaded last, as nft text, or what changed in them and why."""
    client = daemon.reader()
    if not changes:
        text = client.ruleset()
        write_output(json.dumps({"ruleset": text}, indent=2) + "\n" if as_json else text)
        return
    found = client.ruleset_changes()
    if as_json:
        write_output(json.dumps({"changes": found}, indent=2) + "\n")
    else:
        style = output_style()
        views = [client.change_view(change) for change in reversed(found)]
        write_output("".join(f"{line}\n" for change in views for line in _lines(change, style)), painted=True)


_COLOURS = {"-": Colour.BAD, "+": Colour.GOOD}


def _lines(change: ChangeView, style: TextStyle) -> Iterator[str]:
    """The local time and the reason of a change, and its difference."""
    yield style.encodable(style.paint(f"{time_text(change.at)}  {change.reason}".rstrip(), Colour.BOLD))
    for line in change.lines:
        yield style.encodable(style.paint(line, _COLOURS.get(line[:1])))
    if change.cut:
        yield "... and more lines"
    yield ""
