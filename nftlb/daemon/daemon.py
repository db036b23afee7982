"""How the daemon begins: the first load before all else, then the other parts. Also signals, and the way out."""

from __future__ import annotations

import asyncio
import resource
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.health import Memory
from nftlb.kernel.links import Links
from nftlb.kernel.lock import hold
from nftlb.preload import STATE_DIR

from .clock import now
from .hands import Hands
from .runtime import begin
from .source import first_source
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from nftlb.health import Fleet
    from nftlb.model import Config

    from .hands import FirstLoad
    from .source import Source

_OPERATION = "nftlb.daemon.operation"
"""Imported once the kernel has the rules: importing the API and the metrics takes longer than all that comes before."""


@dataclass(frozen=True)
class Begun:
    """What the daemon goes on with after its first load."""

    file: str
    source: Source
    """What the file says, or its last good copy."""
    config: Config
    """The same with what was added and removed at run time."""
    store: Store
    memory: Memory
    fleet: Fleet
    hands: Hands
    links: Links | None
    """Hears since before the first load, if that is possible here."""
    first: FirstLoad
    faults: tuple[str, ...]
    """Why nothing is remembered."""
    misfits: tuple[str, ...]
    """What is remembered and does not fit the file."""


@dataclass(frozen=True)
class Wishes:
    """What signals ask for."""

    stopping: asyncio.Event
    reloading: asyncio.Event


class Daemon:
    """One run of it, for the network namespace of the calling thread."""

    def __init__(self, file: str, *, keep: bool = True, directory: str | None = STATE_DIR) -> None:
        """`file`: the configuration. `keep`: whether the rules stay when it stops.

        `directory`: where the last good copy is looked for when the file is bad; None: a bad file is an end.
        """
        self._file = file
        self._keep = keep
        self._directory = directory

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises ConfigError and SystemFault if it can't even begin."""
        source = first_source(self._file, self._directory)
        _allow_descriptors()
        wishes = Wishes(asyncio.Event(), asyncio.Event())
        # From the start: a signal that comes during a first load of seconds must neither be lost nor end all.
        heeds = {
            signal.SIGTERM: wishes.stopping.set,
            signal.SIGINT: wishes.stopping.set,
            signal.SIGHUP: wishes.reloading.set,
        }
        with hold(source.config.table), _heeding(heeds):
            await self._run(source, wishes)

    async def _run(self, source: Source, wishes: Wishes) -> None:
        base = source.config
        store = Store(base.state_dir, base.table)
        memory, faults = _recall(store)
        config, fleet, misfits = begin(base, memory.pools, now())
        hands = Hands(config.table)
        await hands.open()
        links = _links()
        try:
            # What is there from before keeps working until this has been accepted.
            first = await hands.first_load(config, fleet.membership(now()))
            begun = Begun(
                file=self._file,
                source=source,
                config=config,
                store=store,
                memory=memory,
                fleet=fleet,
                hands=hands,
                links=links,
                first=first,
                faults=tuple(faults),
                misfits=tuple(misfits),
            )
            operate: Callable[[Begun, Wishes], Awaitable[Config]] = import_module(_OPERATION).operate
            config = await operate(begun, wishes)
        finally:
            try:
                if not self._keep:
                    await hands.remove(config)
            finally:
                hands.close()


@contextmanager
def _heeding(wishes: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, heed in wishes.items():
        loop.add_signal_handler(number, heed)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, wishes)  # those that came since the preload, now that they are heard
    try:
        yield
    finally:
        for number in wishes:
            loop.remove_signal_handler(number)


def _links() -> Links | None:
    """None where that is refused: the watcher tells why, and tries again."""
    with suppress(NftlbError, OSError):
        return Links()
    return None


def _recall(store: Store) -> tuple[Memory, list[str]]:
    """What is remembered, as far as it can be read, and why it can't: a bad file costs no more than the memory."""
    try:
        memory, trouble = store.load()
    except OSError as error:
        memory, trouble = None, f"can't read {store}: {error.strerror or error}"
    return memory or Memory(format=1), [trouble] if trouble else []


def _allow_descriptors() -> None:
    """Ten thousand checks may be under way at a time, each with a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
