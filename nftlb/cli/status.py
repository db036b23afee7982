"""`nftlb status`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from nftlb.cli.daemon import Daemon, complete_pools, daemon_options, unknown_pool
from nftlb.cli.examples import examples
from nftlb.cli.looks import looks
from nftlb.cli.output import write
from nftlb.cli.overview import overview


@click.command(
    epilog=examples("nftlb status", "nftlb status dns", "nftlb status --json | jq '.pools[] | {name, healthy}'")
)
@click.argument("pools", metavar="[POOL]...", nargs=-1, shell_complete=complete_pools)
@click.option("--json", "as_json", is_flag=True, help="For machines: the API's own answer.")
@daemon_options
def status(daemon: Daemon, pools: tuple[str, ...], as_json: bool) -> None:
    """Show what the daemon knows: what is wrong first, then every pool, or each POOL, and its backends.

    Exit status: 0 if the daemon answered, however its backends are; `GET /readyz` is for scripts that ask.
    """
    client = daemon.reader()
    document = client.document()
    seen = client.read(document)
    known = {pool.name: pool for pool in seen.pools}
    for name in pools:
        if name not in known:
            raise unknown_pool(name, name, seen)
    if as_json:
        if pools:
            document = {**document, "pools": [pool for pool in document["pools"] if pool["name"] in pools]}
        write(json.dumps(document, indent=2) + "\n")
    else:
        wanted = [known[name] for name in dict.fromkeys(pools or known)]
        write(overview(seen, wanted, datetime.now(UTC), looks()), painted=True)
