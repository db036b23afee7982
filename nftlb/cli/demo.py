"""`nftlb demo`."""

import click

from nftlb.cli.inputs import examples
from nftlb.cli.output import write
from nftlb.demo import run


@click.command(epilog=examples("nftlb demo"))
def demo() -> None:
    """Show it at work: a client, a balancer and backends, in namespaces that vanish with the command. Needs no root."""
    run(lambda line: write(f"{line}\n"))
