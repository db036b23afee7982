"""`nftlb compile`."""

import click

from nftlb.compiler import Compiled
from nftlb.ruleset import file_pieces

from .arguments import down_option, examples, file_argument, load_resolved, membership_without
from .output import write_file


@click.command(
    "compile",
    epilog=examples(
        "nftlb compile pools.yaml | nft -f -",
        "nftlb compile pools.yaml --down dns/ns2 -o /etc/nftables.d/pools.nft",
    ),
)
@file_argument
@down_option
@click.option("-o", "--output", default="-", type=click.Path(), metavar="OUT", help="Replace this file atomically.")
def compile_command(file: str, down: tuple[tuple[str, str], ...], output: str) -> None:
    """Compile FILE (- for standard input) to nft text for `nft -f`. The same input always gives the same bytes.

    Needs neither root nor libnftables. `forward: dsr` also needs routing rules, which only `nftlb apply` and
    `nftlb run` create. Backends by name get the addresses that DNS has now.
    """
    config = load_resolved(file)
    write_file(output, file_pieces(Compiled(config).ruleset(membership_without(config, down))))
