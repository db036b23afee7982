"""`nftlb run`."""

import asyncio

import click

from nftlb.cli.inputs import examples
from nftlb.daemon import Daemon, LogFormat, configure


@click.command(epilog=examples("nftlb run /etc/nftlb/nftlb.yaml", "nftlb run --remove --log-format json pools.yaml"))
@click.argument("file", type=click.Path(), metavar="FILE")
@click.option("--keep/--remove", default=True, help="When it stops, leave the rules (the default), or take them away.")
@click.option(
    "--log-format", type=click.Choice([one.value for one in LogFormat]), default="text", help="Text, or JSON lines."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="How much to say; info has a line for each transition.",
)
def run(file: str, keep: bool, log_format: str, log_level: str) -> None:
    """Balance by FILE, check the backends, and follow their health until SIGTERM.

    SIGHUP, or `nftlb reload`, reads FILE again; with a fault in it, the configuration in use stays. Logs go to standard
    error. Stopping, even by kill -9, leaves the rules in place unless --remove is given: traffic goes on, and the next
    start takes over.
    """
    configure(LogFormat(log_format), log_level)
    asyncio.run(Daemon(file, keep=keep).run())
