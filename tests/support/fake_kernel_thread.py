"""A KernelThread over a kernel in memory. Its calls take a set time and fail when a test sets an error."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeVar

from fake_kernel import FakeNft
from virtual_time import elapsed

from nftlb.compiler import Compiled, read_back
from nftlb.daemon.kernel_thread import LINGER, KernelThread
from nftlb.errors import SystemFault
from nftlb.ruleset import Listing
from nftlb.swap import Swapper
from nftlb.swap.applier import Applied, Applier
from nftlb.swap.plan import make

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from nftlb.compiler import Hop
    from nftlb.daemon.kernel_thread import Vouches
    from nftlb.kernel import Kernel
    from nftlb.model import Config, Membership

T = TypeVar("T")


class CountingKernel(FakeNft):
    """Counts the listings of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0

    def list(self, table: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as FakeNft has it
        self.listings += 1
        return super().list(table)

    @property
    def content(self) -> object:
        """The content of our tables, to compare; the order of elements does not count."""
        tables = [listing.table for listing in super().list("nftlb").values()]
        sets = {
            (table.family, nft_set.name): frozenset(nft_set.elements)
            for table in tables
            for nft_set in table.sets.values()
        }
        return sets, {(table.family, chain.name): chain for table in tables for chain in table.chains.values()}


def has(kernel: FakeNft, config: Config, membership: Membership) -> bool:
    """Whether a kernel has the wanted rules. Objects from before do not count."""
    present = Swapper(kernel, config.table, lambda: None).present()
    allocation = read_back({family: Listing(table) for family, table in present.tables.items()})
    return not make(present, Compiled(config, allocation).ruleset(membership))


def _no_monitor(table: str) -> NoReturn:
    raise SystemFault(f"no monitor for {table}")


class NoRouting:
    """The routing rules of a host without routing rules."""

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        del wanted
        return []

    def current(self) -> Mapping[int, Hop]:
        return {}


class FakeKernelThread(KernelThread):
    """Each call takes `takes` seconds. `error`, if set, is raised before each call, `error_after` once after a call.

    `begun` and `done` are set when a call begins and when it is done. `tidied` has the times of all calls of tidy().
    """

    def __init__(self, table: str = "nftlb") -> None:
        self.kernel = CountingKernel()
        self.interfaces: Collection[str] = ()
        self.has_options = True
        self.takes = 0.0
        self.error: Exception | None = None
        self.error_after: Exception | None = None
        self.works = 0
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self.tidied: list[float] = []
        self.now = 0.0  # set before each call, because the thread can't read the clock of the loop
        super().__init__(table, lambda: self.kernel, self._applier_for, _no_monitor)

    def _applier_for(self, kernel: Kernel, table: str, vouches: Vouches) -> Applier:
        return _RecordingApplier(
            kernel,
            table,
            delete_connections=lambda _: 0,
            routing=NoRouting(),
            lookup=lambda _: {},
            wait=lambda: None,
            supports=lambda *_: self.has_options,
            interfaces=lambda: dict.fromkeys(self.interfaces, 1),
            linger=LINGER,
            clock=lambda: self.now,
            vouches=vouches,
            tidied=self.tidied,
        )

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await self._in_time(super()._in_writer, work)

    async def _in_reader(self, work: Callable[[], T]) -> T:
        return await self._in_time(super()._in_reader, work)

    async def _in_time(self, do: Callable[[Callable[[], T]], Awaitable[T]], work: Callable[[], T]) -> T:
        self.works += 1
        self.begun.set()
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        self.now = elapsed()
        done = await do(work)
        if self.error_after is not None:
            error, self.error_after = self.error_after, None
            raise error
        self.done.set()
        return done


@dataclass
class _RecordingApplier(Applier):
    """Records the times of tidy()."""

    tidied: list[float] = field(default_factory=list)

    def tidy(self, *, at_once: bool = False) -> Applied:
        self.tidied.append(self.clock())
        return super().tidy(at_once=at_once)


@dataclass
class RecordedCalls:
    """Texts that a test double received, each with the time."""

    all: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, what: str) -> None:
        self.all.append((elapsed(), what))

    def of(self, what: str) -> list[float]:
        """The times of one text."""
        return [when for when, received in self.all if received == what]
