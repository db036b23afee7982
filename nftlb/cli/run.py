"""`nftlb run`."""

import asyncio

import click

from nftlb.daemon import Daemon, LogFormat, configure_logging
from nftlb.model.pool import STATE_DIR

from .arguments import examples


@click.command(
    "run", epilog=examples("nftlb run /etc/nftlb/nftlb.yaml", "nftlb run --remove --log-format json pools.yaml")
)
@click.argument("file", type=click.Path(), metavar="FILE")
@click.option(
    "--keep/--remove", default=True, help="At the end, keep the rules in the kernel (the default) or delete them."
)
@click.option(
    "--log-format",
    type=click.Choice([form.value for form in LogFormat]),
    default="text",
    help="Lines of text, or of JSON.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="The least important messages to log; info has a line for each transition.",
)
@click.option(
    "--state-dir",
    default=STATE_DIR,
    show_default=True,
    help="The folder with FILE's last good copy, used if FILE is bad and its `state_dir` can't be read.",
)
@click.option("--strict", is_flag=True, help="If FILE is bad, exit instead of using its last good copy.")
def run_command(file: str, keep: bool, log_format: str, log_level: str, state_dir: str, strict: bool) -> None:
    """Balance the pools of FILE, check their backends, and change the rules as their health changes, until SIGTERM.

    SIGHUP, or `nftlb reload`, reads FILE again; if FILE is bad, the previous configuration stays in use. If FILE is bad
    at the start, its last good copy is used; the log and `nftlb status` report this. The log goes to standard error.
    When the daemon ends, even by kill -9, its rules stay in the kernel unless --remove is given: traffic goes on, and
    the next start continues with these rules.
    """
    configure_logging(LogFormat(log_format), log_level)
    asyncio.run(Daemon(file, keep=keep, directory=None if strict else state_dir).run())
