"""`nftlb check`."""

import click

from nftlb.cli.inputs import examples, file_argument
from nftlb.config import load


@click.command(epilog=examples("nftlb check pools.yaml", "nftlb check - < pools.yaml"))
@file_argument
def check(file: str) -> None:
    """Validate FILE, or standard input for -. Silent when it is good; else every fault is told with its place."""
    load(file)
