"""`nftlb compile`."""

import click

from nftlb.cli.inputs import down_option, examples, file_argument, without
from nftlb.cli.output import write_file
from nftlb.compiler import Compiled
from nftlb.config import load
from nftlb.ruleset import file_text


@click.command(
    "compile",
    epilog=examples(
        "nftlb compile pools.yaml | nft -f -",
        "nftlb compile pools.yaml --down dns/ns2 -o /etc/nftables.d/pools.nft",
    ),
)
@file_argument
@down_option
@click.option("-o", "--output", default="-", type=click.Path(), metavar="OUT", help="Replace this file, in one step.")
def compile_(file: str, down: tuple[tuple[str, str], ...], output: str) -> None:
    """Compile FILE, or standard input for -, to nft text that `nft -f` loads. The same input gives the same bytes.

    Needs neither root nor libnftables. For `forward: dsr`, routing rules are needed besides: `nftlb apply` makes them.
    """
    config = load(file)
    write_file(output, file_text(Compiled(config).ruleset(without(config, down))))
