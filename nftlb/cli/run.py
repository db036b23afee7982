"""`nftlb run`."""

import asyncio
import logging

import click

from nftlb.cli.inputs import examples
from nftlb.daemon import Daemon, LogFormat, configure
from nftlb.preload import STATE_DIR, Outcome

_log = logging.getLogger("nftlb")


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
@click.option(
    "--state-dir",
    default=STATE_DIR,
    show_default=True,
    help="Where FILE's last good copy is looked for if FILE is bad, and does not tell its `state_dir` any more.",
)
@click.option("--strict", is_flag=True, help="With a bad FILE, don't start, even if there is a last good copy.")
@click.pass_obj
def run(
    preloaded: Outcome | None, file: str, keep: bool, log_format: str, log_level: str, state_dir: str, strict: bool
) -> None:
    """Balance by FILE, check the backends, and follow their health until SIGTERM.

    SIGHUP, or `nftlb reload`, reads FILE again; with a fault in it, the configuration in use stays. If FILE is bad at
    the start, its last good copy is used, and the log and `nftlb status` say so. Logs go to standard error. Stopping,
    even by kill -9, leaves the rules in place unless --remove is given: traffic goes on, and the next start takes over.
    """
    configure(LogFormat(log_format), log_level)
    if preloaded is not None:
        _tell(preloaded)
    asyncio.run(Daemon(file, keep=keep, directory=None if strict else state_dir).run())


def _tell(preloaded: Outcome) -> None:
    if preloaded.loaded:
        _log.info("the kernel has the rules of %s", preloaded.loaded)
    else:
        _log.log(logging.WARNING if preloaded.wrong else logging.DEBUG, "not loaded at once: %s", preloaded.reason)
