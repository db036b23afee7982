"""What this host lacks, and which backends it can't reach: routes, addresses, interfaces, forwarding, neighbours.

When the kernel announces a change, everything is read again and compared with what the configuration needs. For
neighbours, the kernel's state counts: it announces FAILED after three requests, and sends nothing until the neighbour
answers. A backend behind a failed neighbour, which may be itself or a router, is unreachable. The neighbour is asked
until it answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from nftlb.errors import KernelError, NftlbError
from nftlb.kernel import LibNftables
from nftlb.kernel.flow_options import has_option, missing_options
from nftlb.kernel.neighbours import USABLE, State, ask_neighbours
from nftlb.kernel.surroundings import Surroundings, read_host_addresses, read_surroundings
from nftlb.kernel.tunnels import missing_kinds, read_tunnels
from nftlb.requirements import backend_path, lacking, lookups, stale_tunnels, tunnel_kinds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from nftlb.kernel.neighbours import Neighbour
    from nftlb.model import Config, Encap, HostAddresses
    from nftlb.requirements import Lack

    from .events import ActiveFaults

_log = logging.getLogger(__name__)

SETTLE = 0.02
"""Seconds from an announcement to the survey: changes come in groups."""
REST = 10
"""The pause after a survey, as a multiple of its processor time: some seconds with ten thousand backends."""
AGAIN = 5.0
"""Seconds until a failed survey is tried again."""
ASK_AGAIN = 1.0
"""Seconds between two requests to a neighbour that does not answer."""
OFTEN = 0.2
"""Seconds, at least, between two requests to a neighbour, even if the interval of its check is shorter."""


Name: TypeAlias = "tuple[str, str]"
"""The name of a pool and the name of one of its backends."""


_SEARCHED = (State.INCOMPLETE, State.FAILED)
"""The states in which the kernel has asked for a link-layer address and does not know it."""


class HostObserver(Protocol):
    """Receives the findings. Pools and backends that are not named have no fault."""

    async def use_addresses(self, addresses: HostAddresses) -> None:
        """Use the addresses of this host, by interface. Raises NftlbError if the kernel refuses the rules for them."""

    def set_lacks(self, lacks: Iterable[Lack]) -> None:
        """Record what pools need and this host lacks."""

    def load_again(self) -> None:
        """Load again: tunnels send from addresses that this host no longer has."""

    def set_reachability(self, unreachable: Mapping[Name, str], unconfirmed: Mapping[Name, str]) -> None:
        """Record the unreachable backends, and those whose neighbour has not answered yet, each with the reason."""


@dataclass(frozen=True)
class _View:
    """The result of a survey.

    `troubles`: why backends can't be reached. `behind`: the backends behind each neighbour. `intervals`: seconds
    between requests to neighbours of backends whose checks pass when the backend stays silent. `stale`: the tunnels
    that a load has to make again.
    """

    host: Surroundings = field(default_factory=Surroundings)
    lacks: tuple[Lack, ...] = ()
    troubles: Mapping[Name, str] = field(default_factory=dict)
    behind: Mapping[Neighbour, tuple[Name, ...]] = field(default_factory=dict)
    intervals: Mapping[Neighbour, float] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()


class Surveyor:
    """Surveys the network namespace of the loop's thread, inside `with`, on the running loop."""

    def __init__(self, config: Config, observer: HostObserver, faults: ActiveFaults) -> None:
        self._config = config
        self._observer = observer
        self._faults = faults
        self._view = _View()
        self._failed: set[Neighbour] = set()
        self._states: dict[Neighbour, State] = {}
        self._announced: set[Neighbour] = set()
        self._due: dict[Neighbour, float] = {}
        self._thread = ThreadPoolExecutor(1, "surroundings")
        self._address_thread = ThreadPoolExecutor(1, "addresses")
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()
        self._ask_now = asyncio.Event()
        self._surveyed = asyncio.Event()
        self._lacks_modules = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Self:
        self.suspect()
        steps = (self._follow_addresses, self._survey, self._ask_for_modules, self._ask_due)
        self._tasks = [asyncio.create_task(_for_ever(step)) for step in steps]
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown()
        self._address_thread.shutdown()

    async def first_look(self) -> None:
        """Wait until the first survey is done or has failed."""
        await self._surveyed.wait()

    def follow(self, config: Config) -> None:
        """Use another configuration."""
        self._config = config
        self.suspect()

    def suspect(self) -> None:
        """Survey soon: something may have changed."""
        self._changed.set()
        if _follows_addresses(self._config):
            self._moved.set()

    def record_neighbours(self, news: Iterable[tuple[Neighbour, State]]) -> None:
        """Record the states of neighbours that the kernel announced."""
        known = [(neighbour, state) for neighbour, state in news if neighbour in self._view.behind]
        self._announced.update(neighbour for neighbour, _ in known)
        self._record(known, announced=True)

    # --- surveys -----------------------------------------------------------------------------------------------------

    async def _survey(self) -> None:
        """Survey once, when something has changed."""
        await self._changed.wait()
        if self._surveyed.is_set():
            await asyncio.sleep(SETTLE)
        self._changed.clear()
        try:
            seconds = await self._look()
        except Exception:
            self._changed.set()  # nothing else may begin the next survey
            raise
        finally:
            self._surveyed.set()
        await asyncio.sleep(min(AGAIN, REST * seconds))

    async def _look(self) -> float:
        """Survey, and use the findings. Return the seconds of processor time."""
        loop = asyncio.get_running_loop()
        config = self._config
        try:
            view, seconds = await loop.run_in_executor(self._thread, _timed_view, config)
        except KernelError as error:
            self._faults.set("surroundings", str(error))
            loop.call_later(AGAIN, self._changed.set)
            return 0.0
        self._faults.clear("surroundings")
        if config is self._config:  # otherwise another survey follows
            self._use(view)
        return seconds

    async def _follow_addresses(self) -> None:
        """Let listeners have the addresses of this host, when something has changed.

        This is no part of a survey: with thousands of backends, a survey and the pause after it take seconds.
        """
        await self._moved.wait()
        await asyncio.sleep(SETTLE)
        self._moved.clear()
        loop = asyncio.get_running_loop()
        seconds = 0.0
        try:
            addresses, seconds = await loop.run_in_executor(self._address_thread, _timed_addresses)
            await self._observer.use_addresses(addresses)
        except NftlbError as error:
            self._faults.set("addresses", f"listeners still have the former addresses of this host: {error}")
            loop.call_later(AGAIN, self._moved.set)
        except Exception:
            self._moved.set()  # nothing else may begin the next attempt
            raise
        else:
            self._faults.clear("addresses")
        await asyncio.sleep(min(AGAIN, REST * seconds))

    def _use(self, view: _View) -> None:
        # Only once for each tunnel: a load that can't make the tunnel is repeated without us.
        if view.stale - self._view.stale:
            self._observer.load_again()
        self._view = view
        self._failed &= view.behind.keys()
        self._states = {key: state for key, state in self._states.items() if key in view.behind}
        self._observer.set_lacks(view.lacks)
        self._report()
        self._ask_now.set()
        if view.host.missing_options or view.host.missing_tunnels:
            self._lacks_modules.set()
        else:
            self._lacks_modules.clear()

    async def _ask_for_modules(self) -> None:
        """Survey soon if the kernel has what it lacked: it does not announce a new module. A survey reads much more."""
        await self._lacks_modules.wait()
        await asyncio.sleep(AGAIN)
        config, host = self._config, self._view.host
        try:
            missing = await asyncio.get_running_loop().run_in_executor(self._thread, _missing, config)
        except KernelError:
            self._changed.set()  # the survey reports the fault
            return
        if missing != (host.missing_options, host.missing_tunnels):
            self._changed.set()

    # --- neighbours --------------------------------------------------------------------------------------------------

    async def _ask_due(self) -> None:
        """Ask failed neighbours, and at the interval of the check those whose backends are only checked for silence."""
        self._ask_now.clear()
        now = asyncio.get_running_loop().time()
        every = {neighbour: max(OFTEN, interval) for neighbour, interval in self._view.intervals.items()}
        every |= dict.fromkeys(self._failed, ASK_AGAIN)
        due = {neighbour for neighbour in every if self._due.get(neighbour, now) <= now}
        self._due = {
            neighbour: now + seconds if neighbour in due else self._due[neighbour]
            for neighbour, seconds in every.items()
        }
        if due:
            await self._ask(due)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._due.values(), default=None)):
                await self._ask_now.wait()

    async def _ask(self, neighbours: Collection[Neighbour]) -> None:
        self._announced.clear()
        try:
            asked = await asyncio.get_running_loop().run_in_executor(self._thread, ask_neighbours, neighbours)
        except KernelError as error:
            self._faults.set("neighbours", str(error))
            return
        self._faults.set("neighbours", asked.trouble)
        # A state that was announced meanwhile is newer.
        old = [
            neighbour for neighbour in neighbours if neighbour in self._view.behind and neighbour not in self._announced
        ]
        self._record(((neighbour, asked.states.get(neighbour, State.NONE)) for neighbour in old), announced=False)

    def _record(self, states: Iterable[tuple[Neighbour, State]], *, announced: bool) -> None:
        """Record states, and report if something changed: most announcements only confirm the present state."""
        different = False
        for neighbour, state in states:
            before = self._states.get(neighbour, State.NONE)
            different |= (before in _SEARCHED) is not (state in _SEARCHED)
            self._states[neighbour] = state
            if state & USABLE and neighbour in self._failed:
                self._failed.remove(neighbour)
                different = True
            elif state is State.FAILED and announced and neighbour not in self._failed:
                # An old entry that is only listed may have failed long ago.
                self._failed.add(neighbour)
                self._ask_now.set()
                different = True
        if different:
            self._report()

    # --- findings----------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        unreachable = dict(self._view.troubles)
        unconfirmed: dict[Name, str] = {}
        for neighbour in self._failed:
            unreachable |= dict.fromkeys(self._view.behind[neighbour], f"no answer to {self._words(neighbour)} failed")
        for neighbour, state in self._states.items():
            if neighbour in self._view.intervals and state in _SEARCHED:
                unconfirmed |= dict.fromkeys(
                    self._view.behind[neighbour], f"no answer yet to {self._words(neighbour)} is looked for"
                )
        self._observer.set_reachability(unreachable, unconfirmed)

    def _words(self, neighbour: Neighbour) -> str:
        """The name of a neighbour in messages: `ARP: neighbour 10.0.0.12 on eth1`."""
        interfaces = self._view.host.interfaces
        device = next(
            (known.name for known in interfaces if known.index == neighbour.index), "an interface that is gone"
        )
        protocol = "ARP" if neighbour.address.version == 4 else "neighbour discovery"  # noqa: PLR2004 - the version
        return f"{protocol}: neighbour {neighbour.address} on {device}"


async def _for_ever(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 - it is logged, and the rest goes on
            _log.exception("a fault of nftlb itself while it looked at the host")
            await asyncio.sleep(AGAIN)


def _follows_addresses(config: Config) -> bool:
    """Whether a listener stands, or was made, for addresses of this host."""
    return any(listener.host or listener.origin for pool in config.pools for listener in pool.listen)


def _timed_addresses() -> tuple[HostAddresses, float]:
    """Read the addresses of this host. Return the seconds of processor time too."""
    began = time.thread_time()
    return read_host_addresses(), time.thread_time() - began


def _timed_view(config: Config) -> tuple[_View, float]:
    """Survey, and return the seconds of processor time too: to wait for the kernel costs no processor time."""
    began = time.thread_time()
    return _view(config), time.thread_time() - began


def _missing_options(config: Config) -> frozenset[str]:
    if not any(pool.helper or pool.session_timeout for pool in config.pools):
        return frozenset()
    with LibNftables() as kernel:
        return missing_options(config, lambda name: has_option(kernel, name))


def _missing(config: Config) -> tuple[frozenset[str], frozenset[tuple[Encap, int]]]:
    """What the kernel lacks: `missing_options` and `missing_tunnels` of the surroundings."""
    return _missing_options(config), missing_kinds(tunnel_kinds(config))


def _view(config: Config) -> _View:
    """Survey. Runs in a thread: with ten thousand backends this takes some tenths of a second."""
    options, kinds = _missing(config)
    host = replace(
        read_surroundings(lookups(config)),
        missing_options=options,
        missing_tunnels=kinds,
        tunnels=read_tunnels() if tunnel_kinds(config) else None,
    )
    troubles: dict[Name, str] = {}
    behind: dict[Neighbour, list[Name]] = {}
    intervals: dict[Neighbour, float] = {}
    for pool in config.pools:
        weak = [health.interval / 1000 for health in pool.health if health.check.silence_passes]
        for backend in pool.backends:
            found = backend_path(pool, backend, host)
            if found.trouble:
                troubles[pool.name, backend.name] = found.trouble
            elif found.neighbour is not None:
                behind.setdefault(found.neighbour, []).append((pool.name, backend.name))
                if weak:
                    intervals[found.neighbour] = min(*weak, intervals.get(found.neighbour, inf))
    names = {neighbour: tuple(behind_it) for neighbour, behind_it in behind.items()}
    return _View(host, tuple(lacking(config, host)), troubles, names, intervals, stale_tunnels(config, host))
