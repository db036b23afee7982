"""`nftlb clients`: the sources of a pool that send the most packets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from nftlb.client import Unknown

from .arguments import examples, limit_option
from .daemon import DaemonAccess, complete_pools, daemon_options, name_error
from .output import write_output
from .terminal import Cell, Colour, Column, TextStyle, aligned_lines, number_text, output_style

if TYPE_CHECKING:
    from nftlb.client import ClientsView, ClientView

MOST = 10_000
_USUAL = 20


@click.command("clients", epilog=examples("nftlb clients dns", "nftlb clients dns --limit 100 --json"))
@click.argument("pool", metavar="POOL", shell_complete=complete_pools)
@limit_option("sources", _USUAL, MOST)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of the API.")
@daemon_options
def clients_command(daemon: DaemonAccess, pool: str, limit: int, as_json: bool) -> None:
    """Show the sources of POOL that sent the most packets: packets, bytes, dropped packets, and bans.

    The pool needs `clients: true` in its guard. A source is an address, or a prefix if `per` in the guard says so. A
    source is forgotten an hour after its last packet.
    """
    client = daemon.reader()
    try:
        document = client.clients(pool, limit)
    except Unknown as error:
        raise name_error(error, pool, "", client) from error
    if as_json:
        write_output(json.dumps(document, indent=2) + "\n")
    else:
        write_output(_text(client.clients_view(document), output_style()), painted=True)


_COLUMNS = (
    Column("SOURCE", least=15),
    Column("PACKETS", right=True),
    Column("BYTES", right=True, spare=1),
    Column("DROPPED", right=True),
    Column("BANNED", right=True),
)


def _text(seen: ClientsView, style: TextStyle) -> str:
    lines = aligned_lines(_COLUMNS, [_row(client) for client in seen.clients], style)
    if seen.known > len(seen.clients):
        lines.append(f"{len(seen.clients)} of {seen.known} sources")
    return style.encodable("".join(f"{line}\n" for line in lines))


def _row(client: ClientView) -> list[Cell]:
    return [
        Cell(client.source),
        Cell(number_text(client.packets)),
        Cell(number_text(client.bytes)),
        Cell(number_text(client.dropped), Colour.WARNING if client.dropped else None),
        Cell("" if client.banned is None else f"{client.banned:.0f}s", Colour.BAD),
    ]
