"""`nftlb remove`."""

import click

from nftlb.cli.applier import applier, changes
from nftlb.cli.inputs import examples, optional_file_argument
from nftlb.cli.output import write, write_error
from nftlb.config import load
from nftlb.model import Config


@click.command(epilog=examples("nftlb remove", "nftlb remove pools.yaml"))
@optional_file_argument
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is done.")
def remove(file: str | None, quiet: bool) -> None:
    """Take away what `nftlb apply` and `nftlb run` have loaded: tables, connections in our zones, routing rules.

    FILE tells the name of the tables, where it is not `nftlb`; and which zones are ours, should somebody have flushed
    the tables.
    """
    config = None if file is None else load(file)
    table = (config or Config()).table
    with applier(table) as to_kernel:
        applied = to_kernel.remove(config)
    for remark in applied.lacking:
        write_error(f"nftlb: warning: {remark}\n")
    if not quiet:
        write(f"table {table}: {changes(applied) or 'nothing to remove'}\n")
