"""`nftlb explain`."""

import json

import click

from nftlb.cli import endpoints
from nftlb.cli.inputs import down_option, examples, file_argument, without
from nftlb.cli.output import write
from nftlb.config import load
from nftlb.explain import Question, as_data, as_text
from nftlb.explain import explain as explanation
from nftlb.model import Endpoint, Listener


@click.command(
    epilog=examples(
        "nftlb explain pools.yaml 198.51.100.7:40000 192.0.2.53:53/udp",
        "nftlb explain pools.yaml '[2001:db8::7]:40000' '[2001:db8::53]:53/udp' --down dns/ns2",
    )
)
@file_argument
@click.argument("client", callback=endpoints.client, metavar="SRC:PORT")
@click.argument("service", callback=endpoints.service, metavar="DST:PORT/PROTO")
@down_option
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def explain(file: str, client: Endpoint, service: Listener, down: tuple[tuple[str, str], ...], as_json: bool) -> None:
    """Tell what becomes of a packet from SRC:PORT to DST:PORT/PROTO by FILE, and why.

    Conntrack zones and marks are those of a first load; a kernel that has others already keeps them.
    """
    if client.family is not service.family:
        raise click.UsageError(f"{client} and {service} are of two address families; a packet is of one.")
    config = load(file)
    question = Question(client, Endpoint(service.address, service.first_port), service.protocol)
    found = explanation(config, question, without(config, down))
    write(json.dumps(as_data(found), indent=2) + "\n" if as_json else as_text(found))
