"""`nftlb restore`."""

import click

from nftlb.daemon.startup import restore_rules
from nftlb.model.pool import STATE_DIR

from .apply import changes_text, locked_applier
from .arguments import examples
from .output import write_error, write_output


@click.command("restore", epilog=examples("nftlb restore /etc/nftlb/nftlb.yaml"))
@click.argument("file", type=click.Path(), metavar="FILE")
@click.option(
    "--state-dir",
    default=STATE_DIR,
    show_default=True,
    help="The folder with FILE's last good copy, used if FILE is bad and its `state_dir` can't be read.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def restore_command(file: str, state_dir: str, quiet: bool) -> None:
    """Load the rules of FILE as the daemon would at its start, and exit: at boot, before the network is configured.

    Backends that were down, drained, added or removed are so again, from the daemon's saved state. Interfaces may still
    be missing. If FILE is bad or refused, its last good copy is loaded. If FILE does not exist, nothing is done.
    """
    restored = restore_rules(file, state_dir, locked_applier)
    if restored is None:
        return
    for remark in restored.remarks:
        write_error(f"{remark}\n")
    if not quiet:
        write_output(f"{restored.file}: {changes_text(restored.applied) or 'nothing to change'}\n")
