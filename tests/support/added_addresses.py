"""Addresses that a test adds to a host of the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.lab import links

if TYPE_CHECKING:
    from nftlb.lab import Namespace


def add_addresses(host: Namespace, device: str, *addresses: str) -> None:
    """Add addresses, each with its prefix length, and wait until the host can use all of them.

    The kernel adds an IPv6 address in the background. Until then no socket can be bound to the address (EADDRNOTAVAIL),
    and packets to the address are lost.
    """
    for address in addresses:
        host.run(["ip", "address", "add", address, "dev", device])
    host.call(links.await_running, [device])
