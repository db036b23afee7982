"""Names of backends, and the servers that DNS gives for them. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .kinds import Family, IPAddress, family

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_ADDRESSES = 32
"""The most addresses of a name. More would be a fault or an attack: an answer over TCP may have four thousand."""


MOST_KEPT = 4 * MOST_ADDRESSES
"""The most addresses of a family that are kept of an answer. This is more than are used, because a pool may be unable
to use some of them."""


class HostLookup(NamedTuple):
    """What to ask DNS for: the addresses of a host, or with `srv` the SRV records and the addresses of their hosts."""

    name: str
    srv: bool = False

    def __str__(self) -> str:
        return f"SRV {self.name}" if self.srv else self.name


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server of an answer. An SRV record gives `port`, `weight` and `rank`; 0 is the rank of the most preferred."""

    address: IPAddress
    port: int | None = None
    weight: int | None = None
    rank: int = 0

    @property
    def family(self) -> Family:
        return family(self.address)


NameAnswers: TypeAlias = "Mapping[HostLookup, tuple[FoundServer, ...]]"
"""The last good answers. A name without an entry was never answered."""


def stable(servers: Mapping[Family, tuple[FoundServer, ...]]) -> tuple[FoundServer, ...]:
    """The servers of all families in an order that does not depend on the order of the records."""
    all_ = dict.fromkeys(server for found in servers.values() for server in found)
    return tuple(sorted(all_, key=lambda server: (server.address.version, server.address, server.port or 0)))


def after_answer(
    before: tuple[FoundServer, ...], answered: Mapping[Family, tuple[FoundServer, ...]]
) -> tuple[FoundServer, ...] | None:
    """The servers after an answer for some families; the servers of other families stay. None: the answer is empty.

    An answer without any server is more often a fault of a zone than a wish, so it never takes the last server away.
    """
    kept = {
        version: tuple(server for server in before if server.family is version)
        for version in Family
        if version not in answered
    }
    return stable({**kept, **answered}) or None
