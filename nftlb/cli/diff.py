"""`nftlb diff`."""

import click

from nftlb.cli.applier import viewer
from nftlb.cli.inputs import examples, file_argument
from nftlb.cli.output import write
from nftlb.config import load
from nftlb.errors import ConfigError


class BadInputError(ConfigError):
    """With another exit status: 1 says that there is a difference."""

    exit_status = 2


@click.command(epilog=examples("nftlb diff pools.yaml || nftlb apply pools.yaml"))
@file_argument
def diff(file: str) -> int:
    """Show what `nftlb apply FILE` would change: `-` goes, `+` comes. Changes nothing.

    Exit status: 0 nothing; 1 something; 2 the input is bad; 3 the kernel or the system refused.
    """
    try:
        config = load(file)
    except ConfigError as error:
        raise BadInputError(list(error.problems)) from error
    with viewer(config.table) as to_kernel:
        differences = to_kernel.diff(config)
    if differences:
        write(f"--- kernel\n+++ {file}\n{differences}")
    return 1 if differences else 0
