"""`nftlb reload`."""

from __future__ import annotations

import click

from nftlb.cli.daemon import Daemon, daemon_options
from nftlb.cli.examples import examples
from nftlb.client import Address, Client, read_address
from nftlb.client.signalled import reload_by_signal


@click.command(epilog=examples("nftlb reload", "nftlb check /etc/nftlb/pools.yaml && nftlb reload"))
@click.option("--pid", type=click.IntRange(1), metavar="PID", help="Tell the daemon by SIGHUP, which needs no token.")
@click.option(
    "--file",
    type=click.Path(),
    metavar="FILE",
    help="With --pid: the daemon is where FILE, or its last good copy, has its API.",
)
@daemon_options
def reload(daemon: Daemon, pid: int | None, file: str | None) -> None:
    """Have the daemon read its file again. Silent when it is done.

    If the file is bad every fault is told with its place, and the configuration before stays in use.
    """
    if pid is None:
        if file is not None:
            raise click.UsageError("--file says where the daemon of --pid is; needed: --pid too.")
        daemon.writer().reload()
    else:
        reload_by_signal(pid, _readers(file) if file is not None else [daemon.reader()])


def _readers(file: str) -> list[Client]:
    """The API may be where the copy has it until the reload has ended, and from then on where the file has it."""
    from nftlb.daemon.source import apis_of  # noqa: PLC0415 - takes longer than all the rest, and is hardly ever needed

    return [Client(read_address(place)) for place in apis_of(file)] or [Client(Address())]
