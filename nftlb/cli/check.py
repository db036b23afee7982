"""`nftlb check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nftlb.cli.exposed import exposed
from nftlb.cli.inputs import examples, file_argument
from nftlb.cli.output import write_error
from nftlb.compiler.cautions import cautions
from nftlb.config import load

if TYPE_CHECKING:
    from nftlb.model import Config


@click.command(epilog=examples("nftlb check pools.yaml", "nftlb check - < pools.yaml"))
@file_argument
def check(file: str) -> None:
    """Validate FILE, or standard input for -. Silent when it is good; else every fault is told with its place.

    What is valid and still loses packets is warned of on standard error, and files with secrets that every user may
    read; the exit status is 0.
    """
    config = load(file)
    for warning in exposed(config, file):
        write_error(f"nftlb: warning: {warning}\n")
    warn(config, file)


def warn(config: Config, file: str) -> None:
    """Warn of what is valid and still loses packets."""
    for one in cautions(config):
        if one.lossy:
            write_error(f"nftlb: {file}: warning: pools.{one.pool}: {one.message}; use {one.mend}\n")
