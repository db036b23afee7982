"""The one writer: all that touches the kernel's tables, in the one thread that may.

libnftables is synchronous and a large ruleset takes it seconds. In a thread of its own it holds up no check. What is
only read, for those who ask, has another thread: no commit waits for a reader.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from nftlb.apply import Applier
from nftlb.errors import NftlbError, SystemFault
from nftlb.kernel import LibNftables
from nftlb.kernel.monitor import Monitor
from nftlb.kernel.nft_version import doubt, read_version
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nftlb.apply import Applied
    from nftlb.compiler import Membership
    from nftlb.kernel import Kernel
    from nftlb.model import Config
    from nftlb.ruleset import Count, Ruleset

_log = logging.getLogger(__name__)

LINGER = 30.0
"""Seconds for which answers to what a former backend got still come from the service: as long as conntrack remembers a
datagram that nobody has answered (`nf_conntrack_udp_timeout`)."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class FirstLoad:
    """What became of the first load, which began and ended at these times of the loop's clock."""

    membership: Membership
    outcome: Applied | NftlbError
    began: float
    ended: float


def _applier(kernel: Kernel, table: str) -> Applier:
    return Applier(kernel, table, linger=LINGER)


class Hands:
    """An Applier behind a thread, and readings in another. Methods raise KernelError or SystemFault when refused.

    `kernel` makes the seam to nf_tables, `applier` what brings rulesets to it, `monitor` what vouches for foreign
    transactions; all are called in the thread.
    """

    def __init__(
        self,
        table: str,
        kernel: Callable[[], Kernel] = LibNftables,
        applier: Callable[[Kernel, str], Applier] = _applier,
        monitor: Callable[[str], Monitor] = Monitor,
    ) -> None:
        self._table = table
        self._make_kernel = kernel
        self._make_applier = applier
        self._make_monitor = monitor
        self._thread = ThreadPoolExecutor(1, "kernel")
        self._readings = ThreadPoolExecutor(1, "readings")
        self._kernel: Kernel | None = None
        self._applier: Applier | None = None
        self._monitor: Monitor | None = None
        self._accepted: Ruleset | None = None

    async def open(self) -> None:
        await self._do(self._open)

    def close(self) -> None:
        """Wait for what is being done, and stop. The tables stay."""
        self._readings.shutdown(cancel_futures=True)
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    async def load(self, config: Config, membership: Membership) -> Applied:
        return await self._write(lambda: self._load(config, membership))

    async def first_load(self, config: Config, membership: Membership) -> FirstLoad:
        """Load for the first time. A refusal is returned, not raised: the reconciler reports the refusal later."""
        clock = asyncio.get_running_loop().time
        began = clock()
        outcome: Applied | NftlbError
        try:
            outcome = await self.load(config, membership)
        except NftlbError as error:
            outcome = error
        return FirstLoad(membership, outcome, began, clock())

    async def update(self, membership: Membership) -> Applied:
        return await self._write(lambda: self._at_hand().update(membership))

    async def tidy(self) -> Applied:
        return await self._write(lambda: self._at_hand().tidy())

    async def remove(self, config: Config) -> Applied:
        return await self._write(lambda: self._at_hand().remove(config))

    async def untouched(self) -> bool:
        return await self._do(lambda: self._at_hand().untouched)

    async def hold(self) -> bool:
        """Whether the kernel still does what it accepted last."""
        return await self._do(lambda: self._at_hand().holds)

    async def text(self) -> str:
        """What the kernel accepted last, as a file that `nft -f` loads; empty if nothing was."""
        accepted = self._accepted
        return "" if accepted is None else await self._read(lambda: file_text(accepted))

    async def counters(self) -> Mapping[str, Count]:
        return await self._read(lambda: self._at_hand().kernel.counters(self._table))

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._do(lambda: self._noting(work))

    def _noting(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            # A value that never changes: readers use it while the next change is made.
            self._accepted = self._at_hand().accepted

    async def _do(self, work: Callable[[], T]) -> T:
        return await _in(self._thread, work)

    async def _read(self, work: Callable[[], T]) -> T:
        return await _in(self._readings, work)

    def _load(self, config: Config, membership: Membership) -> Applied:
        try:
            return self._at_hand().load(config, membership, lenient=True)
        finally:
            _give_memory_back()

    def _open(self) -> None:
        self._kernel = self._make_kernel()
        self._applier = self._make_applier(self._kernel, self._table)
        if doubtful := doubt(read_version()):
            _log.warning("nftables: %s; see `nftlb doctor`", doubtful)
        # Without it, our tables are read anew whenever anybody changed anything of his own: it is a help, and no need.
        with suppress(NftlbError, OSError):
            self._monitor = self._make_monitor(self._table)
            self._applier.swapper.vouches = self._monitor.vouches

    def _close(self) -> None:
        self._applier = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        close = getattr(self._kernel, "close", None)
        self._kernel = None
        if close is not None:
            close()

    def _at_hand(self) -> Applier:
        if self._applier is None:
            raise AssertionError("open() comes first")
        return self._applier


async def _in(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    except OSError as error:  # no descriptor left, no memory
        raise SystemFault(f"the kernel can't be asked: {error.strerror or error}") from error


def _give_memory_back() -> None:
    """Have glibc return what a load of ten thousand backends took for a moment, a third of it all."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
