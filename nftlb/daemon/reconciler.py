"""Brings the kernel to the wanted configuration and membership: compares states and does not replay events.

Everything that happened since the last look goes into one commit. What the kernel refuses is tried again with growing
delays; the old rules stay until then.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

from nftlb.errors import NftlbError
from nftlb.service import Unapplied

from .kernel_thread import load_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from nftlb.compiler.reply_form import Obstacles
    from nftlb.model import Config, Membership
    from nftlb.ruleset import Ruleset
    from nftlb.swap.applier import Applied, Applier, Shortfall

    from .kernel_thread import FirstLoad, KernelThread

_log = logging.getLogger(__name__)

COLLECT = 0.002
"""Seconds in which changes are collected before a commit. After a commit, at least the duration of that commit."""
RETRY_FIRST, RETRY_LAST = 0.1, 5.0
"""Seconds to wait after a refusal: doubled with each refusal, from the first value to the last."""
TIDY_AFTER = 1.0
"""Seconds without a change after which leftovers are deleted. By then no packet needs them, so that the deletion waits
for nothing and delays no change."""
LOOK_AGAIN = 5.0
"""Seconds after which the reconciler looks again for what a load left out."""
RESTORE_GAP = 0.2
"""Seconds, at least, between two restorations of our tables: another program may undo our changes each time."""


class Wanted(NamedTuple):
    """What the kernel should have. `until` is the time at which a timer changes the membership; None: never."""

    config: Config
    membership: Membership
    until: float | None = None


@dataclass(frozen=True)
class Commit:
    """One change of the kernel: its end by the loop's clock, its seconds, and whether it undid changes of others.

    `ruleset` is what the kernel has now. `reason` is empty if states of backends were the reason.
    """

    applied: Applied
    ended: float
    seconds: float
    restored: bool
    ruleset: Ruleset | None = None
    reason: str = ""


class SwapObserver(Protocol):
    """Receives the results of the reconciler."""

    def committed(self, commit: Commit) -> None:
        """Record a commit that changed something."""

    def refused(self, error: NftlbError) -> None:
        """Record that the kernel refused a commit."""

    def recovered(self) -> None:
        """Record that, after refusals, the kernel has what is wanted."""

    def lacking(self, what: tuple[Shortfall, ...]) -> None:
        """Record what the last load left out; empty if nothing."""

    def slower(self, pools: tuple[Shortfall, ...]) -> None:
        """Record the pools whose replies are not rewritten in prerouting against the file's wish."""


@dataclass
class Reconciler:
    """The only caller of KernelThread.write() while the daemon runs.

    What one look does. The first row whose condition is true decides; the row `tidy` follows `update` and `restore`:

    step      condition                                             does                             ends when
    load      nothing is loaded; the last load or change_config()   Applier.load                     it is accepted
              failed; suspect_host(); a load left out an
              interface, an option of flows or a routing
              rule, which the kernel has by now or accepts
              (asked every 5 s)
    update    the wanted membership is not the accepted one         Applier.update                   it is accepted
    restore   suspect_tables(), and others wrote to our tables      Applier.update, then .tidy       both are accepted
    tidy      1 s after a commit; or in-flight replies of former    Applier.tidy                     it is accepted
              backends are over; or staged lists were not loaded
    none      nothing of the above                                  nothing                          wake() or a timer

    change_config() loads too. First it adds the lists of guards in parts (Swapper.stage), and looks come in between.

    A refusal leaves all conditions true, and the next look follows after 0.1 s, doubled with each refusal to 5 s.
    What the kernel has accepted is not remembered here, but read from KernelThread.accepted.
    """

    kernel_thread: KernelThread
    wanted: Callable[[], Wanted]
    observer: SwapObserver
    synced: bool = False
    error: str = ""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: int = 0
    _waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    _suspect_tables: bool = False
    _load_due: bool = True
    _failures: int = 0
    _working_since: float | None = None
    _last_commit: tuple[float, float] = (0.0, 0.0)
    _last_restore: float = 0.0
    _untidy: bool = False
    _lingers_until: float = inf
    _incomplete: bool = False
    _rules_gone: bool = False
    _last_try: float = 0.0
    """When the last load began, or when the reconciler last asked for what that load had left out."""
    _timer: asyncio.TimerHandle | None = None

    @property
    def loaded(self) -> bool:
        """Whether the kernel has accepted a configuration."""
        return self._accepted_membership is not None

    @property
    def serving(self) -> bool:
        """Whether the kernel has rules of ours that serve.

        False after another program deleted rules and the kernel refuses to take them back. Other refusals leave the old
        rules, which serve.
        """
        return self.loaded and not self._rules_gone

    def wake(self) -> None:
        """Look soon: something may be wanted that the kernel does not have."""
        self._asked += 1
        self._wake.set()

    def suspect_tables(self) -> None:
        """Look soon: other programs may have changed our tables."""
        self._suspect_tables = True
        self.wake()

    def suspect_host(self) -> None:
        """Load again soon: links, routes or routing rules of this host changed."""
        self._load_due = True
        self.wake()

    def compare_obstacles(self, obstacles: Obstacles) -> None:
        """Load again soon, unless the last load found the same obstacles to replies in prerouting."""
        accepted = self.kernel_thread.accepted
        if accepted is not None and accepted.compiled.obstacles != obstacles:
            self.suspect_host()

    async def wait_until_applied(self) -> None:
        """Wake, and return when the kernel has what is wanted now. Raises Unapplied if the kernel refuses."""
        self.wake()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._asked, future))
        await future

    async def change_config(
        self,
        config: Config,
        membership: Callable[[], Membership],
        switch: Callable[[], None],
        reason: str = "another configuration",
    ) -> None:
        """Load another configuration, for a reason; `switch` is called right after the kernel has accepted it.

        Large lists take seconds before the load, in which the kernel follows changes of backends. `membership` is
        called after that. Raises KernelError or SystemFault if the kernel refuses; then everything is as before.
        """
        async with self._staged(config), self._lock:
            try:
                with self._working():
                    await self._load(config, membership(), reason)
            except BaseException:
                # The kernel may have a part of the new configuration: the next look loads the old one again.
                self._load_due = True
                self.wake()
                raise
            switch()
        self.wake()

    async def start(self, first: FirstLoad | None = None) -> None:
        """Take over the first load, or do it. Raises the refusal, if any; `run` then tries again."""
        async with self._lock:
            if first is None:
                with self._working():
                    wanted = self.wanted()
                    first = await self.kernel_thread.first_load(wanted.config, wanted.membership)
            self._last_try = first.began
            if isinstance(first.outcome, NftlbError):
                self._refused(self._asked, first.outcome)
                raise first.outcome
            self._load_due = False
            self._loaded(first.outcome, first.began, first.ended, restored=False, reason="the first load")
            self._accepted(self._asked)

    async def run(self) -> None:
        """Look whenever something may have changed, until cancelled."""
        try:
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
                    except Exception as error:  # noqa: BLE001 - it is logged, and the old rules stay
                        _log.exception("a fault of nftlb itself while the ruleset was brought up to date")
                        self._refused(asked, NftlbError(f"a fault of nftlb itself: {type(error).__name__}: {error}"))
                    else:
                        self._accepted(asked)
        finally:
            self._wake_at(None)

    def busy_for(self) -> float:
        """Seconds since the present work began; 0 if there is none."""
        return 0.0 if self._working_since is None else asyncio.get_running_loop().time() - self._working_since

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait until there is something to do, and a moment longer to collect more changes."""
        loop = asyncio.get_running_loop()
        if self._failures:
            # A refused commit is tried again even if nothing happens, and not at once if something does.
            pause = min(RETRY_FIRST * 2 ** (self._failures - 1), RETRY_LAST)
            await asyncio.sleep(RETRY_FIRST)
            await self._woken(pause - RETRY_FIRST)
            return
        again = self._last_try + LOOK_AGAIN if self._incomplete else inf
        limit = max(0.0, min(self._tidies_at(), again) - loop.time())
        if await self._woken(None if limit == inf else limit):
            ended, took = self._last_commit
            await asyncio.sleep(max(COLLECT, ended + took - loop.time()))

    async def _woken(self, limit: float | None) -> bool:
        # asyncio.wait_for of Python 3.11 loses a cancellation that comes together with the awaited result.
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                return await self._wake.wait()
        return False

    # --- one look ----------------------------------------------------------------------------------------------------

    async def _attempt(self) -> None:
        try:
            await self._look()
        except NftlbError:
            if self._suspect_tables:
                with suppress(NftlbError):
                    self._rules_gone = not await self.kernel_thread.write(lambda applier: applier.in_force)
            raise

    async def _look(self) -> None:
        config, membership, until = self.wanted()
        self._wake_at(until)
        if self._load_due or not self.loaded or await self._may_load_more():
            await self._load(config, membership, "this host has changed, or a load before was not complete")
            return
        suspicious, self._suspect_tables = self._suspect_tables, False
        try:
            if membership != self._accepted_membership:
                await self._update(membership)
                self._untidy = self._untidy or suspicious  # what others added is still there
            elif suspicious and not await self.kernel_thread.write(lambda applier: applier.unchanged_by_others):
                await self._restore(membership)
            await self._tidy()
        except BaseException:
            self._suspect_tables = self._suspect_tables or suspicious
            raise

    async def _may_load_more(self) -> bool:
        """Whether another load may leave out less than the last one. The kernel announces no new module: ask for it."""
        now = asyncio.get_running_loop().time()
        if not self._incomplete or now < self._last_try + LOOK_AGAIN:
            return False
        self._last_try = now
        return await self.kernel_thread.write(lambda applier: applier.can_load_more())

    async def _update(self, membership: Membership) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        applied = await self.kernel_thread.write(lambda applier: applier.update(membership))
        self._committed(applied, began, loop.time(), restored=False)

    async def _restore(self, membership: Membership) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._last_restore + RESTORE_GAP - loop.time())
        began = self._last_restore = loop.time()
        applied = await self.kernel_thread.write(lambda applier: applier.update(membership))
        # What others added looks like our own leftovers.
        tidied = await self.kernel_thread.write(lambda applier: applier.tidy())
        transactions = applied.transactions + tidied.transactions
        both = replace(applied, transactions=transactions, unrecognised=tidied.unrecognised)
        self._committed(both, began, loop.time(), restored=True)

    async def _tidy(self) -> None:
        if asyncio.get_running_loop().time() >= self._tidies_at():
            self._linger(await self.kernel_thread.write(lambda applier: applier.tidy()))
            self._untidy = False

    def _tidies_at(self) -> float:
        """The time of the next tidying; `inf` if there is nothing to tidy."""
        untidy = self._last_commit[0] + TIDY_AFTER if self._untidy else inf
        return min(untidy, self._lingers_until)

    def _linger(self, applied: Applied) -> None:
        """Record the time until which in-flight replies need rules of former backends."""
        now = asyncio.get_running_loop().time()
        self._lingers_until = inf if applied.lingers is None else now + applied.lingers

    @asynccontextmanager
    async def _staged(self, config: Config) -> AsyncIterator[None]:
        """Add the lists of a configuration in parts, and keep them until they are loaded or the load has failed."""
        if not any(pool.guard for pool in config.pools):
            yield
            return
        await self.kernel_thread.keep_lists(config)
        missing = True
        try:
            while missing:
                # A look that waits for the lock comes before the next part.
                async with self._lock:
                    with self._working():
                        missing = await self.kernel_thread.write(lambda applier: applier.swapper.stage())
            yield
        finally:
            self.kernel_thread.release_lists()
            self._untidy = True
            self.wake()

    async def _load(self, config: Config, membership: Membership, reason: str) -> None:
        loop = asyncio.get_running_loop()
        began = self._last_try = loop.time()
        suspicious, self._suspect_tables = self._suspect_tables, False
        self._load_due = False

        def load(applier: Applier) -> tuple[Applied, bool]:
            # The kernel announces our own transactions too, for instance those of parts of lists.
            restored = suspicious and applier.accepted is not None and not applier.unchanged_by_others
            return load_config(applier, config, membership), restored

        try:
            applied, restored = await self.kernel_thread.write(load)
        except BaseException:
            self._load_due = True
            self._suspect_tables = self._suspect_tables or suspicious
            raise
        self._loaded(applied, began, loop.time(), restored=restored, reason=reason)

    def _loaded(self, applied: Applied, began: float, ended: float, *, restored: bool, reason: str) -> None:
        self._committed(applied, began, ended, restored=restored, reason=reason)
        self._untidy = False  # a load waits until it can delete its leftovers
        self._linger(applied)
        self._incomplete = bool(applied.lacking or applied.reduced)
        self.observer.lacking(applied.lacking)  # the survey reports what `reduced` has
        self.observer.slower(applied.slower)

    @property
    def _accepted_membership(self) -> Membership | None:
        accepted = self.kernel_thread.accepted
        return None if accepted is None else accepted.membership

    def _wake_at(self, moment: float | None) -> None:
        """Wake at a time, in the place of the time that was set before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if moment is None else asyncio.get_running_loop().call_at(moment, self.wake)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._working_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._working_since = None

    def _committed(self, applied: Applied, began: float, ended: float, *, restored: bool, reason: str = "") -> None:
        if applied:
            self._untidy = True
            self._last_commit = (ended, ended - began)
            accepted = self.kernel_thread.accepted
            ruleset = None if accepted is None else accepted.ruleset
            self.observer.committed(Commit(applied, ended, ended - began, restored, ruleset, reason))

    def _accepted(self, asked: int) -> None:
        if self._failures:
            self.observer.recovered()
        self._failures, self._rules_gone = 0, False
        self.synced, self.error = True, ""
        self._answer(asked, None)

    def _refused(self, asked: int, error: NftlbError) -> None:
        self._failures += 1
        self.synced, self.error = False, str(error)
        self.observer.refused(error)
        self._answer(asked, error)

    def _answer(self, asked: int, error: NftlbError | None) -> None:
        answered = [waiting for waiting in self._waiting if waiting[0] <= asked]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > asked]
        for _, future in answered:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(
                    Unapplied(f"saved, but the kernel refuses it for now, and nftlb tries again: {error}")
                )
