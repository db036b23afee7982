"""`nftlb schema`."""

import json

import click

from nftlb.config import json_schema

from .arguments import examples
from .output import write_output


@click.command("schema", epilog=examples("nftlb schema > nftlb.schema.json"))
def schema_command() -> None:
    """Print the JSON Schema of the configuration file, for editors and other tools."""
    write_output(json.dumps(json_schema(), indent=2) + "\n")
