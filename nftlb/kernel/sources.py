"""Reads the sources that `guard` of a pool counts, limits and bans, from the sets that packets fill."""

from __future__ import annotations

import socket
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

from nftlb.compiler.guard import BANNED, CLIENTS, DROPPED, source_set
from nftlb.model import Family
from nftlb.ruleset import Count, TableFamily

from .netlink import NETLINK_NETFILTER, Netlink, attributes
from .reading import ELEMENT_EXPRESSION, dump_elements, first_count, reads_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import SourceLengths

_KEY, _EXPIRATION = 1, 5  # NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_EXPIRATION
_VALUE = 1  # NFTA_DATA_VALUE
_NOTHING = Count(0, 0)
_TABLES = {Family.IP: TableFamily.IP, Family.IP6: TableFamily.IP6}


class SourceCount(NamedTuple):
    """A source: an address, or a prefix. `banned`: for how many more seconds; None if the source is not banned."""

    source: str
    arrived: Count
    dropped: Count
    banned: float | None


class SourceCounts(NamedTuple):
    """The sources with the most packets, the first with the most; and the number of all sources that are known."""

    known: int
    most: tuple[SourceCount, ...]


class _Source(NamedTuple):
    family: Family
    address: bytes


def read_sources(table: str, pool: str, lengths: SourceLengths, most: int) -> SourceCounts:
    """Return the sources of a pool that sent the most packets, over all tables of that name; up to `most`.

    The tables are those of this thread's network namespace. Raises KernelError if the kernel refuses.
    """
    arrived: dict[_Source, Count] = {}
    dropped: dict[_Source, Count] = {}
    banned: dict[_Source, float] = {}
    with reads_kernel(), Netlink(NETLINK_NETFILTER) as netlink:
        for family in Family:
            scopes = ((_TABLES[family], pool), (TableFamily.NETDEV, f"{pool}/{family}"))
            for place, scope in scopes:
                for total, what in ((arrived, CLIENTS), (dropped, DROPPED)):
                    listed = _elements(netlink, place, table, family, source_set(scope, what, lengths, family))
                    # A listing may repeat an element while packets add others.
                    for source, count in {source: count for source, count, _ in listed}.items():
                        total[source] = total.get(source, _NOTHING) + count
                for source, _, left in _elements(
                    netlink, place, table, family, source_set(scope, BANNED, lengths, family)
                ):
                    banned[source] = max(banned.get(source, 0.0), left)
    chosen = nlargest(most, arrived, key=lambda source: (arrived[source].packets, source.address))
    return SourceCounts(
        len(arrived),
        tuple(
            SourceCount(_text(source, lengths), arrived[source], dropped.get(source, _NOTHING), banned.get(source))
            for source in chosen
        ),
    )


def _elements(
    netlink: Netlink, place: TableFamily, table: str, family: Family, name: str
) -> Iterator[tuple[_Source, Count, float]]:
    """Yield the elements of a set with their counts and the seconds until they expire; none without the set."""
    for data in dump_elements(netlink, place, table, name):
        element = attributes(data)
        count = first_count(element.get(ELEMENT_EXPRESSION, b"")) or _NOTHING
        left = int.from_bytes(element.get(_EXPIRATION, b""), "big") / 1000
        yield _Source(family, attributes(element[_KEY])[_VALUE]), count, left


def _text(source: _Source, lengths: SourceLengths) -> str:
    kind = socket.AF_INET if source.family is Family.IP else socket.AF_INET6
    address = socket.inet_ntop(kind, source.address)
    return address if lengths.is_whole(source.family) else f"{address}/{lengths.of(source.family)}"
