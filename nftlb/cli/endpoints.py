"""How a packet is written on the command line: `198.51.100.7:40000 192.0.2.53:53/udp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nftlb.model.reading import Unfit, read_endpoint, read_listener

if TYPE_CHECKING:
    from nftlb.model import Endpoint, Listener


def client(_: click.Context, __: click.Parameter, value: str) -> Endpoint:
    """Where a packet comes from."""
    try:
        return read_endpoint(value)
    except Unfit as error:
        raise click.BadParameter(str(error)) from error


def service(_: click.Context, __: click.Parameter, value: str) -> Listener:
    """Where it is sent: a listener of one port."""
    try:
        listener = read_listener(value)
    except Unfit as error:
        raise click.BadParameter(str(error)) from error
    if listener.first_port != listener.last_port:
        raise click.BadParameter(f"{value} is a range of ports; allowed: one port")
    return listener
