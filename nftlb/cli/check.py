"""`nftlb check`."""

import click

from nftlb.cli.inputs import examples, file_argument
from nftlb.cli.output import write_error
from nftlb.compiler.cautions import cautions
from nftlb.config import load


@click.command(epilog=examples("nftlb check pools.yaml", "nftlb check - < pools.yaml"))
@file_argument
def check(file: str) -> None:
    """Validate FILE, or standard input for -. Silent when it is good; else every fault is told with its place.

    What is valid and still loses packets is warned of on standard error; the exit status is 0.
    """
    for one in cautions(load(file)):
        if one.lossy:
            write_error(f"nftlb: {file}: warning: pools.{one.pool}: {one.message}; use {one.mend}\n")
