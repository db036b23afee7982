"""The packets and bytes that the kernel counted, as numbers that never decrease."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.model import BackendKey, DropReason
from nftlb.ruleset import Count

from .events import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kernel_thread import KernelThread

_log = logging.getLogger(__name__)

_NOTHING = Count(0, 0)
_DROPS = frozenset(DropReason.owner(reason, "").removeprefix("/") for reason in DropReason)
_MAX_AGE = 1.0
"""Seconds that shown counters may be old: to read them costs the kernel a listing of our tables."""
_TIMEOUT = 2.0
"""Seconds that a status waits for new counters. While the kernel does something long, it shows older counters."""


class Counters:
    """Packets and bytes by `POOL/BACKEND`, and by `collector/POOL/COLLECTOR`.

    A counter of the kernel starts again at zero when others flush our tables and they are restored, or when a backend
    leaves the configuration and returns. The value that it had before is then added.
    """

    def __init__(self) -> None:
        self._latest: dict[str, Count] = {}
        self._before: dict[str, Count] = {}
        self._pools: dict[str, Count] = {}

    def record(self, found: Mapping[str, Count]) -> None:
        """Record the present values in the kernel."""
        for owner, last in self._latest.items():
            count = found.get(owner, _NOTHING)
            if count.packets < last.packets or count.bytes < last.bytes:
                self._before[owner] = self._before.get(owner, _NOTHING) + last
        self._latest = dict(found)
        self._pools = {}
        for counts in (self._before, self._latest):
            for owner, count in counts.items():
                pool, name = BackendKey.parse(owner)
                if name in _DROPS:  # dropped before the packet got to the pool
                    continue
                self._pools[pool] = self._pools.get(pool, _NOTHING) + count

    def of(self, pool: str, backend: str) -> Count:
        """The packets and bytes that were sent to a backend."""
        owner = str(BackendKey(pool, backend))
        return self._before.get(owner, _NOTHING) + self._latest.get(owner, _NOTHING)

    def of_collector(self, pool: str, collector: str) -> Count:
        """The copies that were sent to a collector, and their bytes."""
        return self.of(f"collector/{pool}", collector)

    def of_pool(self, pool: str) -> Count:
        """The packets and bytes of a pool, also to its sorry server and to backends that were removed."""
        return self._pools.get(pool, _NOTHING)

    def dropped(self, pool: str, reason: DropReason) -> Count:
        """The packets and bytes that the guard of a pool dropped."""
        owner = reason.owner(pool)
        return self._before.get(owner, _NOTHING) + self._latest.get(owner, _NOTHING)


class CounterReader:
    """Reads the kernel's counters, at most once a second, and one reading at a time."""

    def __init__(self, kernel_thread: KernelThread) -> None:
        self.counters = Counters()
        self._kernel_thread = kernel_thread
        self._read_at = -_MAX_AGE
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Bring `counters` up to date. Callers that come during a reading wait for the same reading."""
        if self._reading is None:
            if now() - self._read_at < _MAX_AGE:
                return
            self._reading = asyncio.create_task(self._read())
        await asyncio.wait([self._reading], timeout=_TIMEOUT)

    def close(self) -> None:
        """Cancel a running reading."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        try:
            self.counters.record(await self._kernel_thread.read(lambda applier: applier.counters()))
        except NftlbError as error:
            _log.debug("no counters: %s", error)
        finally:
            self._read_at = now()
            self._reading = None
