"""Saves the state of the daemon: soon after a change, at once for a command, and again after a failure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nftlb.own_thread import OwnThread
from nftlb.swap.applier import UsedZones

from .history import events_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.health import Memory
    from nftlb.service import Event

    from .events import ActiveFaults
    from .startup import Preparation
    from .store import Store

SOON = 0.1
"""Seconds from a change of health to the save: the kernel gets the change first, and a crash loses no more than this
time. Commands of the operator are saved at once."""
EVENTS_APART = 30.0
"""Seconds, at least, between two saves of the kept events, which may be hundreds of kilobytes."""
APART = 2.0
"""Seconds, at least, between two saves of changes of health: many changes in a row wear out no disk."""
AGAIN = 5.0
"""Seconds until a failed save is tried again."""
HUNG = 3.0
"""Seconds that a save waits for the disk. Then commands return, and the status shows the fault. A network file system
without its server may never answer, and `nftlb drain` has to return."""

_WHAT = "state_dir"


class SavedState(Protocol):
    """What is saved."""

    def memory(self) -> Memory:
        """The state of the pools."""

    def good_file(self) -> tuple[str, bytes] | None:
        """The configuration file and its text, if they are to be kept as the last good copy."""

    def preparation(self, used: UsedZones) -> Preparation | None:
        """What prepares the next start; None: don't prepare it. `used`: the conntrack zones that were used."""


@dataclass
class _Target:
    """A place for the state, with a separate thread: its disk may hang, and the next place must not wait for that."""

    store: Store
    thread: OwnThread = field(default_factory=lambda: OwnThread("state"))
    writing: asyncio.Future[None] | None = None
    hangs: bool = False


class StateSaver:
    """Saves `state`.

    `loaded` tells whether the kernel has accepted the configuration: then the file is good. `used_zones` returns the
    conntrack zones that were used since the first load. `events` returns the events to keep.
    """

    def __init__(
        self,
        store: Store,
        state: SavedState,
        faults: ActiveFaults,
        loaded: Callable[[], bool] = lambda: False,
        used_zones: Callable[[], UsedZones] = UsedZones,
        events: Callable[[], tuple[Event, ...]] = tuple,
    ) -> None:
        self._target = _Target(store)
        self._targets = {str(store): self._target}
        self._state = state
        self._faults = faults
        self._is_loaded = loaded
        self._used_zones = used_zones
        self._events = events
        self._events_saved = 0.0
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = False
        self._saved = -APART  # the time of the last save of a change
        self._task: asyncio.Task[None] | None = None

    def use(self, store: Store) -> None:
        """Save to another directory from now on. A write to the directory before may still hang there."""
        self._target = self._targets.setdefault(str(store), _Target(store))
        self._target.store = store

    def begin(self) -> None:
        """Save the first state soon. This is not counted as a change, so that the first change need not wait."""
        self._arm(SOON)

    def touch(self) -> None:
        """Save a change soon."""
        self._changed = True
        self._arm(SOON)

    async def save(self, *, last: bool = False) -> None:
        """Save now. A failure sets a fault and is tried again. `last`: also events that would be saved only later."""
        async with self._lock:
            self._disarm()
            target = self._target
            # A cancelled save stops waiting but not writing, and the next save must not overtake it.
            if target.writing is not None and not await self._ended(target, target.writing):
                return
            time = asyncio.get_running_loop().time()
            events: tuple[Event, ...] = ()
            if last or time >= self._events_saved + EVENTS_APART:
                self._events_saved, events = time, self._events()
            if self._changed:
                self._changed, self._saved = False, time
            memory, loaded = self._state.memory(), self._is_loaded()
            good = self._state.good_file() if loaded else None
            preparation = self._state.preparation(self._used_zones()) if loaded else None
            target.writing = asyncio.get_running_loop().run_in_executor(
                target.thread, _write, target.store, memory, good, preparation, events
            )
            await self._ended(target, target.writing)

    async def _ended(self, target: _Target, writing: asyncio.Future[None]) -> bool:
        """Wait until a write has ended, but only HUNG seconds in all. Sets or clears the fault."""
        await asyncio.wait([writing], timeout=0 if target.hangs else HUNG)
        target.hangs = not writing.done()
        if target.hangs:
            self._faults.set(_WHAT, f"can't write {target.store}: the disk has not answered for more than {HUNG:g} s")
            self._arm(AGAIN)
            return False
        target.writing = None
        try:
            writing.result()
        except OSError as error:
            self._faults.set(_WHAT, f"can't write {target.store}: {error.strerror or error}")
            self._arm(AGAIN)
        else:
            self._faults.clear(_WHAT)
        return True

    async def close(self) -> None:
        """Save for the last time. Does not try again, and does not wait for a disk that hangs."""
        await self.save(last=True)
        if self._task is not None:
            await self._task
        self._disarm()

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
    preparation: Preparation | None,
    events: tuple[Event, ...],
) -> None:
    store.save(memory)
    if events:
        store.keep_events(events_text(events))
    if good is not None:
        store.keep(*good)
    if preparation is not None:
        preparation.write(memory, store)
