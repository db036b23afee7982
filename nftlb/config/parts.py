"""What the rules look at, and what they find. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model.kinds import IPAddress, Listener, endpoint_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.config.places import Path
    from nftlb.model.pool import Pool

Where: TypeAlias = "Callable[[Path], str]"


class Fault(NamedTuple):
    """What is wrong at a path."""

    path: Path
    message: str


class Server(NamedTuple):
    """Where packets of a pool go: a backend or a sorry server; without a port the packet's is kept."""

    path: Path
    address: IPAddress
    port: int | None
    device: str | None = None

    def __str__(self) -> str:
        return str(self.address) if self.port is None else endpoint_text(self.address, self.port)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The listeners and backends of a pool that are valid in themselves."""

    listeners: tuple[tuple[Path, Listener], ...]
    backends: tuple[Server, ...]


@dataclass(frozen=True, kw_only=True)
class Whole(Part):
    """A pool that is valid in itself.

    `given` are the keys that the pool has from the file, `defaults` included; `own` are those that the pool itself has.
    """

    path: Path
    pool: Pool
    given: frozenset[str]
    own: frozenset[str]

    @property
    def servers(self) -> tuple[Server, ...]:
        """The backends, and the sorry servers."""
        sorry = (Server((*self.path, "fallback"), one.address, one.port) for one in self.pool.fallback.sorry)
        return (*self.backends, *sorry)


def whole(pool: Pool, given: Iterable[str], own: Iterable[str]) -> Whole:
    path = ("pools", pool.name)
    return Whole(
        listeners=tuple(((*path, "listen", index), listener) for index, listener in enumerate(pool.listen)),
        backends=tuple(
            Server((*path, "backends", one.name), one.address, one.port, one.device) for one in pool.backends
        ),
        path=path,
        pool=pool,
        given=frozenset(given),
        own=frozenset(own),
    )
