"""Backends, and states of the backends of the pool `dns`, for tests of the Applier."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from pool_builders import DNS, backends, config, pool

from nftlb.model import Admin, BackendState, Forward, Membership
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from nftlb.model import Backend, Config, IPAddress, Pool
    from nftlb.swap.applier import Applier


B1, B2, B3 = (f"10.0.{number}.2" for number in (1, 2, 3))
THREE = backends(f"{B1}:5353", f"{B2}:5353", f"{B3}:5353")
TCP = "192.0.2.53:53/tcp"
UDP = "192.0.2.53:53/udp"


def text_of(applier: Applier) -> str:
    """The ruleset that an applier has loaded, as a file."""
    return "" if applier.accepted is None else file_text(applier.accepted.ruleset)


def end(text: str, port: int | None = 5353) -> tuple[IPAddress, int | None]:
    return ip_address(text), port


def state(**backends_of: BackendState) -> Membership:
    """States of the backends of the pool `dns`."""
    return Membership({"dns": frozenset(backends_of.items())})


DOWN = BackendState(up=False)
DRAIN = BackendState(admin=Admin.DRAIN)
MAINTENANCE = BackendState(admin=Admin.MAINTENANCE)


def mixed(*marked: Backend) -> Config:
    """A pool with zones for backends and a zone for flows, and a pool with marks and routing rules."""
    return config(DNS, cast(*marked))


def cast(*marked: Backend) -> Pool:
    return pool("cast", "192.0.2.53:514/udp", marked, forward=Forward.DSR)
