"""The packets and bytes that the kernel counted, as numbers that never decrease."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.model import BackendKey, DropReason
from nftlb.ruleset import Count

from .events import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.ruleset import ReplyCount

    from .kernel_thread import KernelThread

_log = logging.getLogger(__name__)

_NOTHING = Count(0, 0)
_DROPS = frozenset(DropReason.owner(reason, "").removeprefix("/") for reason in DropReason)
MOST_GONE = 1000
"""The most former backends whose own counts are kept. With host names, there may be new backends every few seconds."""
_MAX_AGE = 1.0
"""Seconds that shown counters may be old: to read them costs the kernel a listing of our tables."""
_TIMEOUT = 2.0
"""Seconds that a status waits for new counters. While the kernel does something long, it shows older counters."""


@dataclass(frozen=True, slots=True)
class ReplyFigures:
    """The packets of a backend whose replies are counted, and its replies.

    `share`: the part of the packets of the last seconds that was answered, 0 to 1; None if the backend got none.
    """

    requests: int
    replies: int
    share: float | None


class _Growing:
    """Values by owner that never decrease.

    A counter of the kernel starts again at zero when others flush our tables and they are restored, or when a backend
    leaves the configuration and returns. The value that it had before is then added. If many backends have left, those
    that left first are forgotten: their counts are one sum for each pool, with an empty name.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Count] = {}
        self.before: dict[str, Count] = {}

    def record(self, found: Mapping[str, Count]) -> None:
        for owner, last in self.latest.items():
            count = found.get(owner, _NOTHING)
            if count.packets < last.packets or count.bytes < last.bytes:
                self.before[owner] = self.before.pop(owner, _NOTHING) + last
        self.latest = dict(found)
        if len(self.before) > MOST_GONE:
            self._forget()

    def _forget(self) -> None:
        gone = [owner for owner in self.before if owner not in self.latest and BackendKey.parse(owner).backend]
        for owner in gone[:-MOST_GONE]:
            pool, name = BackendKey.parse(owner)
            if name not in _DROPS:
                total = str(BackendKey(pool, ""))
                self.before[total] = self.before.get(total, _NOTHING) + self.before.pop(owner)

    def of(self, owner: str) -> Count:
        return self.before.get(owner, _NOTHING) + self.latest.get(owner, _NOTHING)


class Counters:
    """What each backend and each collector got, and replies where they are counted. No value ever decreases."""

    def __init__(self) -> None:
        self._sent = _Growing()
        self._pools: dict[str, Count] = {}
        self._requests, self._replies = _Growing(), _Growing()
        self._shares: Mapping[tuple[str, str], float] = {}

    def record(self, found: Mapping[str, Count]) -> None:
        """Record the present values in the kernel."""
        self._sent.record(found)
        self._pools = {}
        for counts in (self._sent.before, self._sent.latest):
            for owner, count in counts.items():
                pool, name = BackendKey.parse(owner)
                if name in _DROPS:  # dropped before the packet got to the pool
                    continue
                self._pools[pool] = self._pools.get(pool, _NOTHING) + count

    def record_reply_counts(self, found: Mapping[str, ReplyCount]) -> dict[tuple[str, str], tuple[int, int]]:
        """Record the present packets and replies in the kernel. Return both as growing numbers, by pool and backend."""
        self._requests.record({owner: count.requests for owner, count in found.items()})
        self._replies.record({owner: count.replies for owner, count in found.items()})
        return {
            BackendKey.parse(owner): (self._requests.of(owner).packets, self._replies.of(owner).packets)
            for owner in found
        }

    def set_shares(self, shares: Mapping[tuple[str, str], float]) -> None:
        """Set which part of its packets each backend has answered in the last seconds."""
        self._shares = shares

    def replies(self, pool: str, backend: str) -> ReplyFigures | None:
        """The packets and replies of a backend; None if its replies are not counted."""
        owner = str(BackendKey(pool, backend))
        if owner not in self._replies.latest:
            return None
        requests, replies = self._requests.of(owner).packets, self._replies.of(owner).packets
        return ReplyFigures(requests, replies, self._shares.get((pool, backend)))

    def of(self, pool: str, backend: str) -> Count:
        """The packets and bytes that were sent to a backend."""
        return self._sent.of(str(BackendKey(pool, backend)))

    def of_collector(self, pool: str, collector: str) -> Count:
        """The copies that were sent to a collector, and their bytes."""
        return self.of(f"collector/{pool}", collector)

    def of_templates(self, pool: str, backend: str) -> Count:
        """The copies of templates that were sent to a backend, and their bytes. `of` does not count them."""
        return self.of(f"template/{pool}", backend)

    def of_pool(self, pool: str) -> Count:
        """The packets and bytes of a pool, also to its sorry server and to backends that were removed."""
        return self._pools.get(pool, _NOTHING)

    def dropped(self, pool: str, reason: DropReason) -> Count:
        """The packets and bytes that the guard of a pool dropped."""
        return self._sent.of(reason.owner(pool))


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
