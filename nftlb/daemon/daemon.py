"""The start of the daemon: the first load first, then the other parts. Also signals, and the end."""

from __future__ import annotations

import asyncio
import resource
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from nftlb.errors import NftlbError
from nftlb.health import Memory
from nftlb.kernel.lock import hold_lock
from nftlb.kernel.monitors import LinkMonitor
from nftlb.kernel.surroundings import addresses_for
from nftlb.model.pool import STATE_DIR
from nftlb.own_thread import OwnThread

from .kernel_thread import KernelThread
from .runtime import initial_state
from .startup import first_source
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from nftlb.model import Config

    from .kernel_thread import FirstLoad
    from .runtime import InitialState
    from .startup import StartupConfig

T = TypeVar("T")

_OPERATION = "nftlb.daemon.operation"
"""Imported once the kernel has the rules: importing the API and the metrics takes longer than all that comes before."""


@dataclass(frozen=True)
class Begun:
    """The objects that the daemon has after its first load."""

    file: str
    source: StartupConfig
    """The configuration file or its last good copy."""
    initial: InitialState
    """The same with the saved state."""
    store: Store
    memory: Memory
    kernel_thread: KernelThread
    links: LinkMonitor | None
    """Opened before the first load, if this host permits it."""
    first: FirstLoad
    faults: tuple[str, ...]
    """Why the saved state can't be used."""


@dataclass(frozen=True)
class SignalRequests:
    """What signals have requested."""

    stopping: asyncio.Event
    reloading: asyncio.Event


class Daemon:
    """One run of the daemon, in the network namespace of the calling thread."""

    def __init__(self, file: str, *, keep: bool = True, directory: str | None = STATE_DIR) -> None:
        """`file`: the configuration file. `keep`: whether the rules stay when the daemon stops.

        `directory`: the directory to search for the last good copy if the file is bad; None: a bad file ends the start.
        """
        self._file = file
        self._keep = keep
        self._directory = directory

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises ConfigError or SystemFault if the start fails."""
        source = first_source(self._file, self._directory)
        _allow_descriptors()
        requests = SignalRequests(asyncio.Event(), asyncio.Event())
        # From the start: a signal during a first load of some seconds must neither be lost nor end the process.
        handlers = {
            signal.SIGTERM: requests.stopping.set,
            signal.SIGINT: requests.stopping.set,
            signal.SIGHUP: requests.reloading.set,
        }
        with hold_lock(source.config.table), _handling(handlers):
            await self._run(source, requests)

    async def _run(self, source: StartupConfig, requests: SignalRequests) -> None:
        base = source.config
        store = Store(base.state_dir, base.table)
        recalled = await _unless(requests.stopping, partial(_recall, store))
        if recalled is None:
            return
        memory, faults = recalled
        initial = initial_state(base, memory, monotonic(), addresses_for(base), datetime.now(UTC))
        config = initial.config
        kernel_thread = KernelThread(config.table)
        await kernel_thread.open()
        links = _links()
        try:
            # The rules of an earlier run work until the kernel has accepted these.
            first = await kernel_thread.first_load(config, initial.health.membership(monotonic()))
            begun = Begun(
                file=self._file,
                source=source,
                initial=initial,
                store=store,
                memory=memory,
                kernel_thread=kernel_thread,
                links=links,
                first=first,
                faults=tuple(faults),
            )
            operate: Callable[[Begun, SignalRequests], Awaitable[Config]] = import_module(_OPERATION).operate
            config = await operate(begun, requests)
        finally:
            try:
                if not self._keep:
                    await kernel_thread.write(lambda applier: applier.remove(config))
            finally:
                kernel_thread.close()


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handle in handlers.items():
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def _unless(stopping: asyncio.Event, read: Callable[[], T]) -> T | None:
    """The result of a function that reads files; None if the daemon shall stop while their disk does not answer."""
    reading = asyncio.get_running_loop().run_in_executor(OwnThread("state"), read)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((reading, stop), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
    return await reading if reading.done() else None


def _links() -> LinkMonitor | None:
    """A monitor of links; None if the kernel refuses: the watcher reports the reason and tries again."""
    with suppress(NftlbError, OSError):
        return LinkMonitor()
    return None


def _recall(store: Store) -> tuple[Memory, list[str]]:
    """Read the saved state. If it can't be read, return an empty state and the reason: the rest does not need it.

    A file that can't be read now, as on a failing disk, may have the wishes of the operator: it is kept.
    """
    try:
        memory, trouble = store.load()
    except OSError as error:
        memory, trouble = None, f"can't read {store}: {error.strerror or error}"
        with suppress(OSError):
            trouble += f"; it was renamed to {store.set_aside()}"
    return memory or Memory(format=1), [trouble] if trouble else []


def _allow_descriptors() -> None:
    """Raise the limit of open files: ten thousand checks may run at a time, each with a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
