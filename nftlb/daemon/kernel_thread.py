"""The thread that writes to the kernel, and the thread that reads counters.

libnftables is synchronous, and takes seconds for a large ruleset. In a separate thread it delays no check. Counters
are read in another thread, so that no transaction waits for a reader.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from nftlb.errors import NftlbError, SystemFault
from nftlb.kernel import LibNftables
from nftlb.kernel.libnftables import read_version, version_warning
from nftlb.kernel.monitors import RulesetMonitor
from nftlb.ruleset import file_lines
from nftlb.swap.applier import Applier, UsedZones
from nftlb.swap.swapper import no_monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.kernel import Kernel
    from nftlb.model import Config, Membership
    from nftlb.swap.applier import Accepted, Applied

_log = logging.getLogger(__name__)

LINGER = 30.0
"""Seconds for which in-flight replies of former backends still get the address of the service. conntrack remembers a
datagram without a reply for the same time (`nf_conntrack_udp_timeout`)."""

PARTS = 100
"""Parts of the text of a ruleset that are made in one turn of the event loop, in about a millisecond."""

T = TypeVar("T")
Vouches: TypeAlias = "Callable[[int, int], bool]"


@dataclass(frozen=True)
class FirstLoad:
    """The result of the first load. `began` and `ended` are times of the loop's clock."""

    membership: Membership
    outcome: Applied | NftlbError
    began: float
    ended: float


def _applier(kernel: Kernel, table: str, vouches: Vouches) -> Applier:
    return Applier(kernel, table, linger=LINGER, vouches=vouches)


class KernelThread:
    """Runs functions of an Applier in a thread, and readings in another.

    `kernel` connects to nf_tables, `applier` makes the Applier, and `monitor` follows the transactions of other
    programs. All three are called in the thread.
    """

    def __init__(
        self,
        table: str,
        kernel: Callable[[], Kernel] = LibNftables,
        applier: Callable[[Kernel, str, Vouches], Applier] = _applier,
        monitor: Callable[[str], RulesetMonitor] = RulesetMonitor,
    ) -> None:
        self._table = table
        self._make_kernel = kernel
        self._make_applier = applier
        self._make_monitor = monitor
        self._writer = ThreadPoolExecutor(1, "kernel")
        self._reader = ThreadPoolExecutor(1, "readings")
        self._kernel: Kernel | None = None
        self._applier: Applier | None = None
        self._monitor: RulesetMonitor | None = None

    async def open(self) -> None:
        """Connect to the kernel. Raises KernelError or SystemFault."""
        await self._in_writer(self._open)

    def close(self) -> None:
        """Wait for the running function and stop both threads. The tables stay in the kernel."""
        self._reader.shutdown(cancel_futures=True)
        self._writer.submit(self._close).result()
        self._writer.shutdown()

    @property
    def accepted(self) -> Accepted | None:
        """What the kernel accepted last."""
        return None if self._applier is None else self._applier.accepted

    @property
    def used_zones(self) -> UsedZones:
        """The conntrack zones that were used since the first load."""
        return UsedZones() if self._applier is None else self._applier.used

    async def write(self, work: Callable[[Applier], T]) -> T:
        """Run a function that may write to the kernel. Raises KernelError or SystemFault if the kernel refuses."""
        return await self._in_writer(lambda: work(self._opened()))

    async def keep_lists(self, config: Config) -> None:
        """Keep the lists of a later load, which `Swapper.stage()` adds, until `release_lists()`.

        Raises KernelError if the kernel can't tell the next hops of a fast path.
        """
        applier = self._opened()
        applier.swapper.staged = await asyncio.to_thread(applier.lists, config)

    def release_lists(self) -> None:
        """Keep no lists any more: they are loaded, or unwanted."""
        if self._applier is not None:
            self._applier.swapper.staged = None

    async def read(self, work: Callable[[Applier], T]) -> T:
        """Run a function that only reads, beside a running `write`. Raises KernelError or SystemFault."""
        return await self._in_reader(lambda: work(self._opened()))

    async def first_load(self, config: Config, membership: Membership) -> FirstLoad:
        """Load for the first time. A refusal is returned, not raised: the reconciler reports the refusal later."""
        clock = asyncio.get_running_loop().time
        began = clock()
        outcome: Applied | NftlbError
        try:
            outcome = await self.write(lambda applier: load_config(applier, config, membership))
        except NftlbError as error:
            outcome = error
        return FirstLoad(membership, outcome, began, clock())

    async def text(self) -> str:
        """The ruleset that the kernel accepted last, as a file for `nft -f`; empty if there is none.

        The event loop makes the text, PARTS parts in a turn. In a thread, the text would keep each system call of the
        loop waiting until Python changes to the loop's thread again.
        """
        accepted = self.accepted
        lines = iter(()) if accepted is None else file_lines(accepted.ruleset)
        pieces = []
        while piece := list(islice(lines, PARTS)):
            pieces.append("\n".join([*piece, ""]))
            await asyncio.sleep(0)
        return "".join(pieces)

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await _in(self._writer, work)

    async def _in_reader(self, work: Callable[[], T]) -> T:
        return await _in(self._reader, work)

    def _open(self) -> None:
        self._kernel = self._make_kernel()
        if doubtful := version_warning(read_version()):
            _log.warning("nftables: %s; see `nftlb doctor`", doubtful)
        # Without the monitor, our tables are listed again whenever another program changes its own: slower, not wrong.
        with suppress(NftlbError, OSError):
            self._monitor = self._make_monitor(self._table)
        vouches = no_monitor if self._monitor is None else self._monitor.vouches
        self._applier = self._make_applier(self._kernel, self._table, vouches)

    def _close(self) -> None:
        self._applier = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        close = getattr(self._kernel, "close", None)
        self._kernel = None
        if close is not None:
            close()

    def _opened(self) -> Applier:
        if self._applier is None:
            raise AssertionError("open() comes first")
        return self._applier


def load_config(applier: Applier, config: Config, membership: Membership) -> Applied:
    """Load a configuration leniently, and return the memory that the load took."""
    try:
        return applier.load(config, membership, lenient=True)
    finally:
        _trim_memory()


async def _in(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    except OSError as error:  # no descriptor left, no memory
        raise SystemFault(f"the request to the kernel failed: {error.strerror or error}") from error


def _trim_memory() -> None:
    """Let glibc return free memory to the system: a load of ten thousand backends needs a third more for a moment."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
