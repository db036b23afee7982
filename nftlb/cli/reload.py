"""`nftlb reload`."""

import click

from nftlb.cli.daemon import Daemon, daemon_options
from nftlb.cli.examples import examples


@click.command(epilog=examples("nftlb reload", "nftlb check /etc/nftlb/pools.yaml && nftlb reload"))
@daemon_options
def reload(daemon: Daemon) -> None:
    """Have the daemon read its file again. Silent when it is done.

    If the file is bad every fault is told with its place, and the configuration before stays in use.
    """
    daemon.writer().reload()
