"""The sources that a guard has counted, as the kernel lists them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nftlb.kernel import sources
from nftlb.kernel.netlink import attribute
from nftlb.model import SourceLengths
from nftlb.ruleset import Count, TableFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from nftlb.kernel.netlink import Netlink


def counted(address: bytes, packets: int) -> bytes:
    """An element of a set of sources, whose packets have 100 bytes."""
    counter = attribute(1, b"counter\0") + attribute(
        2, attribute(1, struct.pack("!Q", 100 * packets)) + attribute(2, struct.pack("!Q", packets))
    )
    return attribute(1, attribute(1, address)) + attribute(7, counter)


def test_an_element_that_is_listed_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing may repeat an element while packets add others. The counts of the fast path are added."""
    first, second = bytes((192, 0, 2, 7)), bytes((192, 0, 2, 8))
    elements = {
        (TableFamily.IP, "guard/dns/clients"): [counted(first, 5), counted(second, 1), counted(first, 6)],
        (TableFamily.IP, "guard/dns/dropped"): [counted(first, 2), counted(first, 2)],
        (TableFamily.NETDEV, "guard/dns/ip/clients"): [counted(first, 10)],
    }

    def dumped(netlink: Netlink, family: TableFamily, table: str, name: str) -> Iterator[bytes]:
        del netlink, table
        yield from elements.get((family, name), ())

    monkeypatch.setattr(sources, "dump_elements", dumped)
    found = sources.read_sources("nftlb", "dns", SourceLengths(), 10)

    assert 2 == found.known
    assert [("192.0.2.7", Count(16, 1600), Count(2, 200)), ("192.0.2.8", Count(1, 100), Count(0, 0))] == [
        (one.source, one.arrived, one.dropped) for one in found.most
    ]
