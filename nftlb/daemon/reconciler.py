"""Brings the kernel to what is wanted, by level and not by events: looks at what should be, and makes it so.

Whatever happened since the last look goes into one commit. What the kernel refuses is tried again, ever more slowly;
the old rules stay meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.service import Unapplied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.apply import Applied
    from nftlb.compiler import Membership
    from nftlb.daemon.hands import FirstLoad, Hands
    from nftlb.model import Config

_log = logging.getLogger(__name__)

COLLECT = 0.002
"""Seconds in which transitions are collected. After a commit, at least as long as that commit took."""
RETRY_FIRST, RETRY_LAST = 0.1, 5.0
"""Seconds to wait after a refusal: doubled each time, up to the last."""
TIDY_AFTER = 1.0
"""After so many seconds without a change, what the last one left over is removed. By then that waits for no packet, as
it would in the way of a change that comes meanwhile."""
RESTORE_GAP = 0.2
"""At least so many seconds lie between two times that somebody else's changes are undone: two may be at odds."""


@dataclass(frozen=True)
class Commit:
    """What one commit was: seconds it took, and whether it undid what somebody else had done."""

    applied: Applied
    seconds: float
    restored: bool


@dataclass
class Reconciler:
    """`wanted` says what should be; `done` hears of every commit that changed something, `failed` of every refusal.

    `mended` is called when all is well after refusals. `lacking` hears what a load had to do without, a line each, and
    of an empty list when nothing lacks any more.
    """

    hands: Hands
    wanted: Callable[[], tuple[Config, Membership]]
    done: Callable[[Commit], None]
    failed: Callable[[NftlbError], None]
    mended: Callable[[], None]
    lacking: Callable[[tuple[str, ...]], None]
    synced: bool = False
    error: str = ""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: int = 0
    _waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    _foreign: bool = False
    _thorough: bool = True
    _believed: Membership | None = None
    _failures: int = 0
    _working_since: float | None = None
    _last_commit: tuple[float, float] = (0.0, 0.0)
    _last_restore: float = 0.0
    _untidy: bool = False
    _lingers_until: float = inf
    _lacks: bool = False
    _robbed: bool = False
    _last_load: float = 0.0

    @property
    def loaded(self) -> bool:
        """Whether the kernel has ever had what is wanted."""
        return self._believed is not None

    @property
    def serving(self) -> bool:
        """Whether the kernel has rules of ours: not while it refuses to have back what somebody else took away.

        What it refuses otherwise leaves the old ones.
        """
        return self.loaded and not self._robbed

    def poke(self) -> None:
        """Say that something may be wanted that the kernel does not have."""
        self._asked += 1
        self._wake.set()

    def suspect(self) -> None:
        """Say that somebody else may have changed our tables."""
        self._foreign = True
        self.poke()

    def recheck(self) -> None:
        """Say that the host's links, routes or routing rules changed: all is looked at, not the tables alone."""
        self._thorough = True
        self.poke()

    async def follow(self) -> None:
        """Poke, and return when the kernel has what is wanted now. Raises Unapplied if it refuses."""
        self.poke()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._asked, future))
        await future

    async def adopt(self, config: Config, membership: Membership, switch: Callable[[], None]) -> None:
        """Load another configuration; `switch` is called when the kernel has accepted it, before anything else.

        Raises KernelError or SystemFault if it is refused; then everything is as before.
        """
        async with self._lock:
            try:
                with self._working():
                    await self._load(config, membership)
            except BaseException:
                # Part of it may be there: the next look puts back what belongs to the old configuration.
                self._thorough = True
                self.poke()
                raise
            switch()
        self.poke()

    async def start(self, first: FirstLoad | None = None) -> None:
        """Take over from the first load, or do it. Raises what it was refused with; `run` tries again nevertheless."""
        async with self._lock:
            if first is None:
                with self._working():
                    first = await self.hands.first_load(*self.wanted())
            self._last_load = first.began
            if isinstance(first.outcome, NftlbError):
                self._refused(self._asked, first.outcome)
                raise first.outcome
            self._thorough = False
            self._took(first.outcome, first.membership, first.began, first.ended, restored=False)
            self._accepted(self._asked)

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            await self._wait()
            self._wake.clear()
            asked = self._asked
            async with self._lock:
                try:
                    with self._working():
                        await self._attempt()
                except NftlbError as error:
                    self._refused(asked, error)
                except Exception as error:  # noqa: BLE001 - it is in the log, and the old rules stay
                    _log.exception("a fault of nftlb itself while the ruleset was brought up to date")
                    self._refused(asked, NftlbError(f"a fault of nftlb itself: {type(error).__name__}: {error}"))
                else:
                    self._accepted(asked)

    def busy_for(self) -> float:
        """Seconds since the work began that is being done now; 0 if none is."""
        return 0.0 if self._working_since is None else asyncio.get_running_loop().time() - self._working_since

    # --- when --------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until there is something to do, and for a moment longer, in which more may come."""
        loop = asyncio.get_running_loop()
        if self._failures:
            # A refusal is tried again also when nothing happens; and not at once when something does.
            pause = min(RETRY_FIRST * 2 ** (self._failures - 1), RETRY_LAST)
            await asyncio.sleep(RETRY_FIRST)
            await self._woken(pause - RETRY_FIRST)
            return
        limit = min(self._tidies_at() - loop.time(), RETRY_LAST if self._lacks else inf)
        if await self._woken(None if limit == inf else limit):
            ended, took = self._last_commit
            await asyncio.sleep(max(COLLECT, ended + took - loop.time()))

    async def _woken(self, limit: float | None) -> bool:
        # asyncio.wait_for of Python 3.11 loses a cancellation that comes together with what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                return await self._wake.wait()
        return False

    # --- what --------------------------------------------------------------------------------------------------------

    async def _attempt(self) -> None:
        try:
            await self._once()
        except NftlbError:
            if self._foreign:
                with suppress(NftlbError):
                    self._robbed = not await self.hands.hold()
            raise

    async def _once(self) -> None:
        config, membership = self.wanted()
        lacked_long = self._lacks and asyncio.get_running_loop().time() - self._last_load >= RETRY_LAST
        if self._thorough or self._believed is None or lacked_long:
            await self._load(config, membership)
            return
        foreign, self._foreign = self._foreign, False
        try:
            if membership != self._believed:
                await self._update(membership)
                self._untidy = self._untidy or foreign  # what somebody added is still there
            elif foreign and not await self.hands.untouched():  # else it was ourselves who wrote
                await self._restore(membership)
            await self._tidy()
        except BaseException:
            self._foreign = self._foreign or foreign
            raise

    async def _update(self, membership: Membership) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        applied = await self.hands.update(membership)
        self._believed = membership
        self._committed(applied, began, loop.time(), restored=False)

    async def _restore(self, membership: Membership) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._last_restore + RESTORE_GAP - loop.time())
        began = self._last_restore = loop.time()
        applied = await self.hands.update(membership)
        swept = await self.hands.tidy()  # what somebody added looks like something that we left over
        transactions = applied.transactions + swept.transactions
        both = replace(applied, transactions=transactions, unrecognised=swept.unrecognised)
        self._committed(both, began, loop.time(), restored=True)

    async def _tidy(self) -> None:
        if asyncio.get_running_loop().time() >= self._tidies_at():
            self._linger(await self.hands.tidy())
            self._untidy = False

    def _tidies_at(self) -> float:
        """When there is something to clear up; `inf` if there is nothing."""
        untidy = self._last_commit[0] + TIDY_AFTER if self._untidy else inf
        return min(untidy, self._lingers_until)

    def _linger(self, applied: Applied) -> None:
        """Note until when what answers need has to stay."""
        now = asyncio.get_running_loop().time()
        self._lingers_until = inf if applied.lingers is None else now + applied.lingers

    async def _load(self, config: Config, membership: Membership) -> None:
        loop = asyncio.get_running_loop()
        began = self._last_load = loop.time()
        self._thorough, restored = False, self._believed is not None and self._foreign
        try:
            applied = await self.hands.load(config, membership)
        except BaseException:
            self._thorough = True
            raise
        self._foreign = False
        self._took(applied, membership, began, loop.time(), restored=restored)

    def _took(self, applied: Applied, membership: Membership, began: float, ended: float, *, restored: bool) -> None:
        self._believed = membership
        self._committed(applied, began, ended, restored=restored)
        self._untidy = False  # a load waits until it can clear up behind itself
        self._linger(applied)
        self._lacks = bool(applied.lacking)
        self.lacking(applied.lacking)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._working_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._working_since = None

    def _committed(self, applied: Applied, began: float, ended: float, *, restored: bool) -> None:
        if applied:
            self._untidy = True
            self._last_commit = (ended, ended - began)
            self.done(Commit(applied, ended - began, restored))

    def _accepted(self, asked: int) -> None:
        if self._failures:
            self.mended()
        self._failures, self._robbed = 0, False
        self.synced, self.error = True, ""
        self._answer(asked, None)

    def _refused(self, asked: int, error: NftlbError) -> None:
        self._failures += 1
        self.synced, self.error = False, str(error)
        self.failed(error)
        self._answer(asked, error)

    def _answer(self, asked: int, error: NftlbError | None) -> None:
        answered = [one for one in self._waiting if one[0] <= asked]
        self._waiting = [one for one in self._waiting if one[0] > asked]
        for _, future in answered:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(Unapplied(f"noted, but not in the kernel yet, and tried again: {error}"))
