"""`nftlb explain`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from nftlb.config.reading import Unfit, read_endpoint, read_hex, read_listener
from nftlb.explain import Question, as_data, as_text, explain_packet
from nftlb.model import Endpoint

from .arguments import down_option, examples, file_argument, load_resolved, membership_without
from .output import write_output

if TYPE_CHECKING:
    from typing import BinaryIO

    from nftlb.model import Listener

LARGEST_PAYLOAD = 65535
"""Bytes; no UDP datagram is larger."""


class _BytesFile(click.File):
    """A file to read bytes from; - is standard input, which may be closed."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed; allowed: an open standard input, or the name of a file", param, ctx)
        return super().convert(value, param, ctx)


def _client(_: click.Context, __: click.Parameter, value: str) -> Endpoint:
    """Parse the packet's source, as in `198.51.100.7:40000`."""
    try:
        return read_endpoint(value)
    except Unfit as error:
        raise click.BadParameter(str(error)) from error


def _service(_: click.Context, __: click.Parameter, value: str) -> Listener:
    """Parse the packet's destination, as in `192.0.2.53:53/udp`: a listener with one port."""
    try:
        listener = read_listener(value)
    except Unfit as error:
        raise click.BadParameter(str(error)) from error
    if listener.host:
        raise click.BadParameter(f"{value} is no single address; allowed: the destination address of a packet")
    if listener.first_port != listener.last_port:
        raise click.BadParameter(f"{value} is a range of ports; allowed: one port")
    return listener


def _payload(_: click.Context, __: click.Parameter, value: str | None) -> bytes | None:
    """Parse bytes in hexadecimal."""
    try:
        return None if value is None else read_hex(value)
    except Unfit as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    "explain",
    epilog=examples(
        "nftlb explain pools.yaml 198.51.100.7:40000 192.0.2.53:53/udp",
        "nftlb explain pools.yaml 198.51.100.7:40000 192.0.2.43:443/udp --payload 40c0ffee0123456789",
        "nftlb explain pools.yaml '[2001:db8::7]:40000' '[2001:db8::53]:53/udp' --down dns/ns2",
    ),
)
@file_argument
@click.argument("client", callback=_client, metavar="SRC:PORT")
@click.argument("service", callback=_service, metavar="DST:PORT/PROTO")
@down_option
@click.option("--payload", callback=_payload, metavar="HEX", help="The payload of the packet, in hexadecimal.")
@click.option(
    "--payload-file",
    type=_BytesFile(),
    metavar="PATH",
    help="A file with the payload; - for standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(
    file: str,
    client: Endpoint,
    service: Listener,
    down: tuple[tuple[str, str], ...],
    payload: bytes | None,
    payload_file: BinaryIO | None,
    as_json: bool,
) -> None:
    """Show what the rules of FILE do with a packet from SRC:PORT to DST:PORT/PROTO, and why.

    The conntrack zones and marks shown are those of a first load. A kernel that already has rules of nftlb may use
    others, and keeps them.

    If a pool is balanced by a key in the payload, --payload or --payload-file gives the payload, and the command shows
    which backend gets the packet.
    """
    if client.family is not service.family:
        raise click.UsageError(
            f"{client} and {service} belong to two address families; allowed: both IPv4, or both IPv6."
        )
    if payload is not None and payload_file is not None:
        raise click.UsageError("both --payload and --payload-file are given; allowed: one of them.")
    if payload_file is not None:
        payload = payload_file.read(LARGEST_PAYLOAD)
    config = load_resolved(file)
    question = Question(client, Endpoint(service.address, service.first_port), service.protocol, payload)
    found = explain_packet(config, question, membership_without(config, down))
    write_output(json.dumps(as_data(found), indent=2) + "\n" if as_json else as_text(found))
