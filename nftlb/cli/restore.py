"""`nftlb restore`."""

import click

from nftlb.cli.applier import applier, changes
from nftlb.cli.inputs import examples
from nftlb.cli.output import write, write_error
from nftlb.daemon.restore import restore as load
from nftlb.preload import STATE_DIR, Outcome


@click.command(epilog=examples("nftlb restore /etc/nftlb/nftlb.yaml"))
@click.argument("file", type=click.Path(), metavar="FILE")
@click.option(
    "--state-dir",
    default=STATE_DIR,
    show_default=True,
    help="Where FILE's last good copy is looked for if FILE is bad by now, and does not tell its `state_dir`.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is done.")
@click.pass_obj
def restore(preloaded: Outcome | None, file: str, state_dir: str, quiet: bool) -> None:
    """Load FILE as the daemon's next start would, and don't stay: for the boot, before there is a network.

    Who was down, drained, added or removed is so again, as the daemon remembers it. Interfaces may be missing yet. If
    FILE is bad, or refused, the last good copy of it is loaded. If there is no FILE, there is nothing to do.
    """
    if preloaded is not None and preloaded.wrong:
        write_error(f"{preloaded.reason}\n")
    restored = load(file, state_dir, applier)
    if restored is None:
        return
    for remark in restored.remarks:
        write_error(f"{remark}\n")
    if not quiet:
        write(f"{restored.file}: {changes(restored.applied) or 'nothing to change'}\n")
