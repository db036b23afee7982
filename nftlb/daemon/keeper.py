"""Saves what is to be remembered: soon after it changed, at once when somebody waits for it, and again if it failed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.daemon.faults import Faults
    from nftlb.daemon.store import Store
    from nftlb.health import Memory

SOON = 0.1
"""Seconds from a change of health to its saving: the kernel has it first, and a crash forgets no more. The operator's
wishes don't wait."""
APART = 2.0
"""Seconds, at least, between two savings of what changes by itself: a storm of changes wears out no disk."""
AGAIN = 5.0
"""Seconds until what could not be saved is tried again."""

_WHAT = "state_dir"


class Keeper:
    """`memory` gives what is to be remembered now, `good` the file that is in the kernel, with its text.

    `ready` gives what makes, of such a memory, what the next start loads first; None if it is too early for that.
    """

    def __init__(
        self,
        store: Store,
        memory: Callable[[], Memory],
        faults: Faults,
        good: Callable[[], tuple[str, bytes] | None] = lambda: None,
        ready: Callable[[], Callable[[Memory], bytes | None] | None] = lambda: None,
    ) -> None:
        self._store = store
        self._memory = memory
        self._faults = faults
        self._good = good
        self._ready = ready
        self._lock = asyncio.Lock()
        # One thread: who is cancelled stops waiting, not writing, and the next must neither meet nor overtake that.
        self._thread = ThreadPoolExecutor(1, "state")
        self._timer: asyncio.TimerHandle | None = None
        self._changed = False
        self._saved = -APART  # when a change was saved last
        self._task: asyncio.Task[None] | None = None

    def use(self, store: Store) -> None:
        """Save elsewhere from now on."""
        self._store = store

    def begin(self) -> None:
        """Have it saved soon as it is at the start. That is no change: the first one does not wait for its sake."""
        self._arm(SOON)

    def touch(self) -> None:
        """Have a change saved soon."""
        self._changed = True
        self._arm(SOON)

    async def save(self) -> None:
        """Save now; that it can't be done is a fault, and tried again."""
        async with self._lock:
            self._disarm()
            if self._changed:
                self._changed, self._saved = False, asyncio.get_running_loop().time()
            memory, good, ready = self._memory(), self._good(), self._ready()
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, _write, self._store, memory, good, ready)
            except OSError as error:
                self._faults.set(_WHAT, f"can't write {self._store}: {error.strerror or error}")
                self._arm(AGAIN)
            else:
                self._faults.clear(_WHAT)

    async def close(self) -> None:
        """Save for the last time."""
        await self.save()
        if self._task is not None:
            await self._task
        self._disarm()  # what failed now is not tried again
        self._thread.shutdown()

    def _arm(self, delay: float) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + delay, self._saved + APART), self._save_now)

    def _save_now(self) -> None:
        self._timer = None
        self._task = asyncio.create_task(self.save())

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _write(
    store: Store,
    memory: Memory,
    good: tuple[str, bytes] | None,
    ready: Callable[[Memory], bytes | None] | None,
) -> None:
    store.save(memory)
    if good is not None:
        store.keep(*good)
    if ready is not None:
        store.prepare(ready(memory))
