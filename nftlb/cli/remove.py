"""`nftlb remove`."""

import click

from nftlb.config import load
from nftlb.model import Config

from .apply import changes_text, locked_applier
from .arguments import examples, optional_file_argument
from .output import write_error, write_output


@click.command("remove", epilog=examples("nftlb remove", "nftlb remove pools.yaml"))
@optional_file_argument
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def remove_command(file: str | None, quiet: bool) -> None:
    """Delete what `nftlb apply` and `nftlb run` have loaded: tables, routing rules, connections in nftlb's zones.

    FILE is needed if its `table` is not `nftlb`, or if another program has flushed the tables: it then tells which
    conntrack zones belong to nftlb.
    """
    config = None if file is None else load(file)
    table = (config or Config()).table
    with locked_applier(table) as to_kernel:
        applied = to_kernel.remove(config)
    for remark in applied.lacking:
        write_error(f"nftlb: warning: {remark}\n")
    if not quiet:
        write_output(f"table {table}: {changes_text(applied) or 'nothing to remove'}\n")
