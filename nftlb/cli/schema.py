"""`nftlb schema`."""

import json

import click

from nftlb.cli.inputs import examples
from nftlb.cli.output import write
from nftlb.config import schema as describe


@click.command(epilog=examples("nftlb schema > nftlb.schema.json"))
def schema() -> None:
    """Show the JSON Schema of the configuration file, for editors and other tools."""
    write(json.dumps(describe(), indent=2) + "\n")
