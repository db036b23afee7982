"""`nftlb apply`."""

import click

from nftlb.cli.applier import applier, changes
from nftlb.cli.inputs import examples, file_argument
from nftlb.cli.output import write
from nftlb.config import load


@click.command(epilog=examples("nftlb apply pools.yaml", "nftlb diff pools.yaml || nftlb apply --quiet pools.yaml"))
@file_argument
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is done.")
def apply(file: str, quiet: bool) -> None:
    """Load FILE, or standard input for -, into this network namespace, without losing a packet.

    Says in a line what was changed. All backends count as up; `nftlb run` is what checks them. Nothing is touched but
    nftlb's own tables, the connections in its own zones and, for `forward: dsr`, routing rules of its own.
    """
    config = load(file)
    with applier(config.table) as to_kernel:
        applied = to_kernel.load(config)
    if not quiet:
        write(f"{file}: {changes(applied) or 'nothing to change'}\n")
