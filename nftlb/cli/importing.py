"""`nftlb import`."""

import click

from nftlb.cli.inputs import examples
from nftlb.cli.output import write_error, write_file
from nftlb.config.document import MAX_BYTES
from nftlb.config.source import STDIN, read_source
from nftlb.errors import ConfigError, Problem
from nftlb.importer import from_ipvsadm, from_keepalived

FROM = {"keepalived": from_keepalived, "ipvsadm": from_ipvsadm}


@click.command(
    "import",
    epilog=examples(
        "nftlb import keepalived /etc/keepalived/keepalived.conf -o pools.yaml",
        "ipvsadm -S -n | nftlb import ipvsadm - > pools.yaml",
    ),
)
@click.argument("what", metavar="keepalived|ipvsadm", type=click.Choice(list(FROM)))
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("-o", "--output", default="-", type=click.Path(), metavar="OUT", help="Replace this file, in one step.")
def import_(what: str, file: str, output: str) -> None:
    """Write keepalived's configuration, or LVS's as ipvsadm shows it, as one of ours. FILE may be - for standard input.

    What has no counterpart is named: as a comment at its place, and with its line on standard error. `ipvsadm -S -n`
    and `ipvsadm -L -n` are both understood.
    """
    name = "standard input" if file == STDIN else file
    source = read_source(file)
    if len(source) > MAX_BYTES:
        raise ConfigError([Problem(name, 0, 0, "", f"larger than {MAX_BYTES >> 20} MiB; allowed: less")])
    # Comments may be in any encoding; what matters is ASCII.
    found = FROM[what](source.decode("utf-8", "replace"), name)
    write_file(output, found.text)
    write_error("".join(f"{remark}\n" for remark in found.remarks))
