"""What this host lacks, and whom it can't reach: routes, addresses, interfaces, forwarding, and neighbours.

All is read anew when the kernel announces a change, and compared with what the configuration needs. Of neighbours, the
kernel's own verdict counts: FAILED is announced once it has asked three times, and until the neighbour answers it sends
nothing there. A backend behind such a neighbour, its own or a router, is out; asking goes on until there is an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from nftlb.errors import KernelError
from nftlb.kernel.neighbours import USABLE, State, ask
from nftlb.kernel.surroundings import Surroundings, look_around
from nftlb.requirements import lacking, lookups, path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from nftlb.daemon.faults import Faults
    from nftlb.kernel.neighbours import Neighbour
    from nftlb.model import Config
    from nftlb.requirements import Lack

_log = logging.getLogger(__name__)

SETTLE = 0.02
"""Seconds from an announcement to the look: changes come in groups."""
REST = 10
"""After a look, so many times as much as it took of a processor: with ten thousand backends some tenths of a second."""
AGAIN = 5.0
"""Seconds until what could not be read is tried again."""
ASK_AGAIN = 1.0
"""Seconds between two questions to a neighbour that does not answer."""
OFTEN = 0.2
"""At most every so many seconds a neighbour is asked, however short the interval of its check is."""


Name: TypeAlias = "tuple[str, str]"
"""A pool's name, and the name of a backend of it."""


_SEARCHED = (State.INCOMPLETE, State.FAILED)
"""No link-layer address is known, and it was asked for."""


class Hearer(Protocol):
    """Who is told; what is not named is well."""

    def lacks(self, lacks: Iterable[Lack]) -> None:
        """Hear what pools need and this host lacks."""

    def reaches(self, unreachable: Mapping[Name, str], doubtful: Mapping[Name, str]) -> None:
        """Hear which backends can't be reached, and which have not answered yet; by pool and name, with the reason."""


@dataclass(frozen=True)
class _View:
    """The host as it was found, and what that means for a configuration.

    `troubles`: why backends can't be reached, by pool and name. `behind`: the backends behind each neighbour.
    `intervals`: how often a neighbour is checked whose silence passes, in seconds.
    """

    host: Surroundings = field(default_factory=Surroundings)
    lacks: tuple[Lack, ...] = ()
    troubles: Mapping[Name, str] = field(default_factory=dict)
    behind: Mapping[Neighbour, tuple[Name, ...]] = field(default_factory=dict)
    intervals: Mapping[Neighbour, float] = field(default_factory=dict)


class Surveyor:
    """Looks inside `with`, on the running loop, at the network namespace of the loop's thread."""

    def __init__(self, config: Config, hearer: Hearer, faults: Faults) -> None:
        self._config = config
        self._hearer = hearer
        self._faults = faults
        self._view = _View()
        self._failed: set[Neighbour] = set()
        self._states: dict[Neighbour, State] = {}
        self._heard: set[Neighbour] = set()
        self._due: dict[Neighbour, float] = {}
        self._thread = ThreadPoolExecutor(1, "surroundings")
        self._changed = asyncio.Event()
        self._to_ask = asyncio.Event()
        self._looked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        self._changed.set()
        self._tasks = [asyncio.create_task(_for_ever(step)) for step in (self._look, self._ask_the_due)]
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown()

    async def first_look(self) -> None:
        """Wait until it has looked, or tried to."""
        await self._looked.wait()

    def follow(self, config: Config) -> None:
        """Take another configuration."""
        self._config = config
        self._changed.set()

    def look(self) -> None:
        """Say that something may have changed."""
        self._changed.set()

    def hear(self, news: Iterable[tuple[Neighbour, State]]) -> None:
        """Hear what the kernel announced of neighbours."""
        known = [(neighbour, state) for neighbour, state in news if neighbour in self._view.behind]
        self._heard.update(neighbour for neighbour, _ in known)
        self._note(known, announced=True)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Look once, when something has changed."""
        await self._changed.wait()
        if self._looked.is_set():
            await asyncio.sleep(SETTLE)
        self._changed.clear()
        loop = asyncio.get_running_loop()
        config = self._config
        seconds = 0.0
        try:
            view, seconds = await loop.run_in_executor(self._thread, _timed_view, config)
        except KernelError as error:
            self._faults.set("surroundings", str(error))
            loop.call_later(AGAIN, self._changed.set)
        else:
            self._faults.clear("surroundings")
            if config is self._config:  # else it looks once more
                self._take(view)
        finally:
            self._looked.set()
        await asyncio.sleep(min(AGAIN, REST * seconds))

    def _take(self, view: _View) -> None:
        self._view = view
        self._failed &= view.behind.keys()
        self._states = {one: state for one, state in self._states.items() if one in view.behind}
        self._hearer.lacks(view.lacks)
        self._tell()
        self._to_ask.set()

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _ask_the_due(self) -> None:
        """Ask those that are checked for silence alone, each at its check's interval, and those that have failed."""
        self._to_ask.clear()
        now = asyncio.get_running_loop().time()
        every = {one: max(OFTEN, interval) for one, interval in self._view.intervals.items()}
        every |= dict.fromkeys(self._failed, ASK_AGAIN)
        due = {one for one in every if self._due.get(one, now) <= now}
        self._due = {one: now + seconds if one in due else self._due[one] for one, seconds in every.items()}
        if due:
            await self._ask(due)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._due.values(), default=None)):
                await self._to_ask.wait()

    async def _ask(self, neighbours: Collection[Neighbour]) -> None:
        self._heard.clear()
        try:
            asked = await asyncio.get_running_loop().run_in_executor(self._thread, ask, neighbours)
        except KernelError as error:
            self._faults.set("neighbours", str(error))
            return
        if asked.trouble:
            self._faults.set("neighbours", asked.trouble)
        else:
            self._faults.clear("neighbours")
        # What was announced meanwhile is newer.
        old = [one for one in neighbours if one in self._view.behind and one not in self._heard]
        self._note(((one, asked.states.get(one, State.NONE)) for one in old), announced=False)

    def _note(self, states: Iterable[tuple[Neighbour, State]], *, announced: bool) -> None:
        """Take these states for true, and tell if that makes a difference: most merely confirm what was."""
        different = False
        for one, state in states:
            before = self._states.get(one, State.NONE)
            different |= (before in _SEARCHED) is not (state in _SEARCHED)
            self._states[one] = state
            if state & USABLE and one in self._failed:
                self._failed.remove(one)
                different = True
            elif state is State.FAILED and announced and one not in self._failed:
                # An entry that merely lies there may have failed long ago, when nobody was home.
                self._failed.add(one)
                self._to_ask.set()
                different = True
        if different:
            self._tell()

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        unreachable = dict(self._view.troubles)
        doubtful: dict[Name, str] = {}
        for one in self._failed:
            unreachable |= dict.fromkeys(self._view.behind[one], f"no answer to {self._words(one)} failed")
        for one, state in self._states.items():
            if one in self._view.intervals and state in _SEARCHED:
                doubtful |= dict.fromkeys(self._view.behind[one], f"no answer yet to {self._words(one)} is looked for")
        self._hearer.reaches(unreachable, doubtful)

    def _words(self, neighbour: Neighbour) -> str:
        """Who it is: `ARP: neighbour 10.0.0.12 on eth1`."""
        interfaces = self._view.host.interfaces
        device = next((one.name for one in interfaces if one.index == neighbour.index), "an interface that is gone")
        protocol = "ARP" if neighbour.address.version == 4 else "neighbour discovery"  # noqa: PLR2004 - the version
        return f"{protocol}: neighbour {neighbour.address} on {device}"


async def _for_ever(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - it is in the log, and the rest goes on
            _log.exception("a fault of nftlb itself while it looked at the host")
            await asyncio.sleep(AGAIN)


def _timed_view(config: Config) -> tuple[_View, float]:
    """Give it with the seconds of processor time that it took: waiting for the kernel costs nobody anything."""
    began = time.thread_time()
    return _view(config), time.thread_time() - began


def _view(config: Config) -> _View:
    """Look, and draw the conclusions. In a thread: with ten thousand backends this takes some tenths of a second."""
    host = look_around(lookups(config))
    troubles: dict[Name, str] = {}
    behind: dict[Neighbour, list[Name]] = {}
    intervals: dict[Neighbour, float] = {}
    for pool in config.pools:
        weak = [health.interval / 1000 for health in pool.health if health.check.silence_passes]
        for backend in pool.backends:
            found = path(pool, backend, host)
            if found.trouble:
                troubles[pool.name, backend.name] = found.trouble
            elif found.neighbour is not None:
                behind.setdefault(found.neighbour, []).append((pool.name, backend.name))
                if weak:
                    intervals[found.neighbour] = min(*weak, intervals.get(found.neighbour, inf))
    names = {neighbour: tuple(behind_it) for neighbour, behind_it in behind.items()}
    return _View(host, tuple(lacking(config, host)), troubles, names, intervals)
