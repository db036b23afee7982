"""The daemon's hands on a kernel that is only imagined: they take as long as they are told, and fail when told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeVar

from clockwork import elapsed

from nftlb.apply import Applier
from nftlb.compiler import Compiled, Membership, read_back
from nftlb.daemon.hands import LINGER, Hands
from nftlb.errors import SystemFault
from nftlb.kernel.fake import FakeNft
from nftlb.ruleset import Listing
from nftlb.swap import Swapper
from nftlb.swap.plan import make

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from nftlb.compiler import Hop
    from nftlb.kernel import Kernel
    from nftlb.model import Config

T = TypeVar("T")


class Watched(FakeNft):
    """Notes how often its tables were listed."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0

    def list(self, table: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as FakeNft has it
        self.listings += 1
        return super().list(table)

    @property
    def content(self) -> object:
        """All that is in our tables, to compare; elements have no order."""
        tables = [listing.table for listing in super().list("nftlb").values()]
        sets = {(table.family, one.name): frozenset(one.elements) for table in tables for one in table.sets.values()}
        return sets, {(table.family, one.name): one for table in tables for one in table.chains.values()}


def has(kernel: FakeNft, config: Config, membership: Membership) -> bool:
    """Whether a kernel has what is wanted; leftovers don't count."""
    present = Swapper(kernel, config.table, lambda: None).present()
    allocation = read_back({family: Listing(table) for family, table in present.tables.items()})
    return not make(present, Compiled(config, allocation).ruleset(membership))


def _no_monitor(table: str) -> NoReturn:
    raise SystemFault(f"nobody vouches for {table}")


class NoSteering:
    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        del wanted
        return []

    def current(self) -> Mapping[int, Hop]:
        return {}


class FakeHands(Hands):
    """`takes` seconds for each work; `error`, if set, is raised before it, `error_after` once after it.

    `begun` and `done` are set when some work is.
    """

    def __init__(self, table: str = "nftlb") -> None:
        self.kernel = Watched()
        self.interfaces: Collection[str] = ()
        self.takes = 0.0
        self.error: Exception | None = None
        self.error_after: Exception | None = None
        self.works = 0
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self.tidied: list[float] = []
        self._now = 0.0  # the thread can't ask the loop
        super().__init__(table, lambda: self.kernel, self._applier_for, _no_monitor)

    def _applier_for(self, kernel: Kernel, table: str) -> Applier:
        return Applier(
            kernel,
            table,
            cut=lambda _: 0,
            steering=NoSteering(),
            lookup=lambda _: {},
            wait=lambda: None,
            interfaces=lambda: self.interfaces,
            linger=LINGER,
            clock=lambda: self._now,
        )

    async def tidy(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as Hands has it
        self.tidied.append(elapsed())
        return await super().tidy()

    async def _do(self, work: Callable[[], T]) -> T:
        return await self._in_time(super()._do, work)

    async def _read(self, work: Callable[[], T]) -> T:
        return await self._in_time(super()._read, work)

    async def _in_time(self, do: Callable[[Callable[[], T]], Awaitable[T]], work: Callable[[], T]) -> T:
        self.works += 1
        self.begun.set()
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        self._now = elapsed()
        done = await do(work)
        if self.error_after is not None:
            error, self.error_after = self.error_after, None
            raise error
        self.done.set()
        return done


@dataclass
class Calls:
    """What was told, each with when."""

    all: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, what: str) -> None:
        self.all.append((elapsed(), what))

    def of(self, what: str) -> list[float]:
        return [when for when, told in self.all if told == what]
