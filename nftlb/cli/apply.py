"""`nftlb apply`."""

import time

import click

from nftlb.apply import unknown_nft
from nftlb.cli.applier import applier, changes
from nftlb.cli.inputs import examples, file_argument
from nftlb.cli.output import write, write_error
from nftlb.config import load


@click.command(epilog=examples("nftlb apply pools.yaml", "nftlb diff pools.yaml || nftlb apply --quiet pools.yaml"))
@file_argument
@click.option(
    "--linger",
    type=click.FloatRange(0, 3600),
    default=5.0,
    metavar="SECONDS",
    help="How long to stay where answers of former backends may be under way, so that they come from the service. [5]",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when it is done.")
def apply(file: str, linger: float, quiet: bool) -> None:
    """Load FILE, or standard input for -, into this network namespace, without losing a packet.

    Says in a line what was changed. All backends count as up; `nftlb run` is what checks them. Nothing is touched but
    nftlb's own tables, the connections in its own zones and, for `forward: dsr`, routing rules of its own.
    """
    config = load(file)
    with applier(config.table) as to_kernel:
        to_kernel.linger = linger
        applied = to_kernel.load(config)
        try:
            if not quiet:
                stays = "" if applied.lingers is None else f"; answers under way have {linger:g} s left"
                write(f"{file}: {changes(applied) or 'nothing to change'}{stays}\n")
            if applied.unrecognised:
                write_error(f"{file}: warning: {unknown_nft(applied.unrecognised)}\n")
            # Nothing tells whether an answer is still to come: time is all there is to go by.
            time.sleep(applied.lingers or 0.0)
        finally:
            to_kernel.tidy(at_once=True)
