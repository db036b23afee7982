"""`nftlb diff`."""

import click

from nftlb.errors import ConfigError

from .apply import unlocked_applier
from .arguments import examples, file_argument, load_resolved
from .output import write_output


class BadInputError(ConfigError):
    """A bad configuration, with exit status 2: status 1 means that there are differences, as in diff(1)."""

    exit_status = 2


@click.command("diff", epilog=examples("nftlb diff pools.yaml || nftlb apply pools.yaml"))
@file_argument
def diff_command(file: str) -> int:
    """Show what `nftlb apply FILE` would change: `-` would be deleted, `+` would be added. Changes nothing.

    Exit status: 0 no differences; 1 differences; 2 the input is bad; 3 the kernel or the system refused.
    """
    try:
        config = load_resolved(file)
    except ConfigError as error:
        raise BadInputError(list(error.problems)) from error
    with unlocked_applier(config.table) as to_kernel:
        differences = to_kernel.diff(config)
    if differences:
        write_output(f"--- kernel\n+++ {file}\n{differences}")
    return 1 if differences else 0
