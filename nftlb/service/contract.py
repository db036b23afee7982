"""What the daemon can be asked and told. The HTTP API is written against this; the daemon implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nftlb.errors import NftlbError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nftlb.model import Admin

    from .events import Event
    from .status import BackendStatus, Overview, PoolStatus


class UnknownPool(NftlbError):  # noqa: N818 - an answer, not a fault of ours
    """There is no pool of that name."""


class UnknownBackend(NftlbError):  # noqa: N818
    """The pool has no backend of that name."""


class Conflict(NftlbError):  # noqa: N818
    """What was asked for goes against what is there: a name is taken, or the last backend would go."""


class Unapplied(NftlbError):  # noqa: N818
    """The wish was noted and remembered, but the kernel refused it for now; it is tried again."""


class Short(NamedTuple):
    """A pool that is not ready: what it lacks, and how many backends are healthy of how many that it needs."""

    pool: str
    lacking: tuple[str, ...]
    healthy: int
    quorum: int


class Service(Protocol):
    """The daemon, seen from outside; all methods belong to its event loop.

    Those that change something return when the kernel has followed. They raise UnknownPool, UnknownBackend, Conflict,
    ConfigError for a value that is not allowed, and Unapplied.
    """

    async def overview(self) -> Overview:
        """Everything but the pools. Costs next to nothing."""

    def pools(self) -> AsyncIterator[PoolStatus]:
        """Every pool, one after the other: all of ten thousand backends at once take 30 MB.

        Counters are at most a second old. Others get their turn in between.
        """

    async def pool(self, name: str) -> PoolStatus:
        """One of them."""

    def short(self) -> Sequence[Short]:
        """The pools that are not ready. Costs next to nothing."""

    def ready(self, pool: str | None = None) -> bool:
        """Whether every pool, or this one, is ready. Costs nothing. Raises UnknownPool."""

    async def ruleset(self) -> str:
        """The nft text of the ruleset last applied."""

    async def change(
        self, pool: str, backend: str, *, admin: Admin | None = None, weight: int | None = None
    ) -> BackendStatus:
        """Set what is not None; survives restarts. `weight` is 0 to 256, checked by the caller."""

    async def add(self, pool: str, name: str, written: Any) -> BackendStatus:
        """Add a backend, written as in the file (JSON values); survives restarts."""

    async def remove(self, pool: str, backend: str) -> None:
        """Take a backend out that was added at run time, or is in the file: then until the next reload."""

    async def reload(self) -> None:
        """Read the file again. Raises ConfigError with all faults; then the old configuration stays."""

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on; a listener that is too slow loses the oldest."""
