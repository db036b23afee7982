"""The daemon's parts put together: what is started in which order, signals, and the way out."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from nftlb.config import parse, read_source
from nftlb.errors import KernelError, NftlbError
from nftlb.health import Memory
from nftlb.kernel.lock import hold
from nftlb.metrics import Metrics

from . import systemd
from .announcer import Announcer
from .api import ApiServer
from .bus import Bus
from .checker import Checker
from .chronicle import Chronicle
from .clock import now
from .control import Control
from .faults import Faults
from .hands import Hands
from .hooks import Hooks
from .keeper import Keeper
from .reconciler import Reconciler
from .runtime import begin
from .store import Store
from .watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nftlb.model import Config

_log = logging.getLogger(__name__)

_GARBAGE = 10_000
"""New objects between two looks for circles among them. With Python's 700, the status of 10,000 backends takes 0.41 s
to make; with this 0.29 s."""

WEDGED = 120.0
"""Seconds after which a transaction counts as stuck, and systemd gets no more signs of life. A first load of 10,000
pools of four takes libnftables some 12 s (docs/packets.md)."""


class Daemon:
    """One run of it, for the network namespace of the calling thread."""

    def __init__(self, file: str, *, keep: bool = True) -> None:
        """`file`: the configuration. `keep`: whether the rules stay when it stops."""
        self._file = file
        self._keep = keep
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises ConfigError and SystemFault if it can't even begin."""
        source = read_source(self._file)
        base = parse(source, self._file)
        _allow_descriptors()
        # From the start: a signal that comes during a first load of seconds must neither be lost nor end all.
        wishes = {
            signal.SIGTERM: self._stopping.set,
            signal.SIGINT: self._stopping.set,
            signal.SIGHUP: self._reloading.set,
        }
        with hold(base.table), _heeding(wishes):
            await self._run(base, source)

    async def _run(self, base: Config, source: bytes) -> None:
        metrics, bus = Metrics(), Bus()
        metrics.watch(asyncio.get_running_loop())
        faults = Faults(bus.publish)
        store = Store(base.state_dir, base.table)
        memory = _recall(store, faults)
        config, fleet, misfits = begin(base, memory.pools, now())
        for misfit in misfits:
            _log.warning("%s", misfit)

        def hook_ended(outcome: str, message: str) -> None:
            metrics.hook(outcome)
            if message:
                _log.warning("%s", message)

        hooks = Hooks(hook_ended)
        hands = Hands(config.table)
        chronicle = Chronicle(metrics, bus, faults)
        control = Control(
            self._file,
            base,
            fleet,
            config,
            memory,
            hands=hands,
            metrics=metrics,
            bus=bus,
            faults=faults,
            announcer=Announcer(bus, hooks),
            chronicle=chronicle,
        )
        reconciler = Reconciler(
            hands, control.wanted, chronicle.committed, chronicle.refusal, chronicle.mended, chronicle.lacking
        )
        keeper = Keeper(store, control.memory, faults, control.good)
        control.reconciler, control.keeper, control.source = reconciler, keeper, source
        checker = Checker(control.hear, control.unable, metrics.lag)
        api = ApiServer(control, metrics, faults)
        watcher = Watcher(config, reconciler, control, faults)
        for follow in (checker.configure, api.follow, watcher.follow, _Directory(keeper, config).follow):
            control.on_config(follow)

        await hands.open()
        try:
            with watcher:
                # What is there from before keeps working until this has been accepted.
                with suppress(KernelError):
                    await reconciler.start()
                gc.collect()
                gc.freeze()  # what is there now stays: there is no sense in looking at it again and again
                gc.set_threshold(_GARBAGE)
                checker.configure(config)
                api.follow(config)
                keeper.begin()
                await self._serve(control, reconciler, api)
        finally:
            _log.info("stopping")
            systemd.notify("STOPPING=1")
            await checker.close()
            await hooks.close()
            await keeper.close()
            control.close()
            try:
                if not self._keep:
                    await hands.remove(control.config)
            finally:
                hands.close()

    async def _serve(self, control: Control, reconciler: Reconciler, api: ApiServer) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(reconciler.run()),
                group.create_task(api.run()),
                group.create_task(_sign_of_life(control, reconciler)),
                group.create_task(self._reloads(control)),
            ]
            _log.info("running: %s", _summary(control))
            systemd.notify("READY=1", f"STATUS={_summary(control)}")
            await self._stopping.wait()
            for task in tasks:
                task.cancel()

    async def _reloads(self, control: Control) -> None:
        """Reload at every SIGHUP; those that come during a reload make one more."""
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            try:
                await control.reload()
            except NftlbError:
                pass  # it is in the log and in the status
            except Exception:  # noqa: BLE001 - it is in the log, and the old configuration stays
                _log.exception("a fault of nftlb itself in a reload")


class _Directory:
    """Moves the memory when `state_dir` is another one."""

    def __init__(self, keeper: Keeper, config: Config) -> None:
        self._keeper = keeper
        self._directory = config.state_dir

    def follow(self, config: Config) -> None:
        if config.state_dir != self._directory:
            self._directory = config.state_dir
            self._keeper.use(Store(config.state_dir, config.table))


@contextmanager
def _heeding(wishes: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, heed in wishes.items():
        loop.add_signal_handler(number, heed)
    try:
        yield
    finally:
        for number in wishes:
            loop.remove_signal_handler(number)


async def _sign_of_life(control: Control, reconciler: Reconciler) -> None:
    """Feed systemd's watchdog while the loop turns and no transaction is stuck; and say how things are."""
    interval = systemd.watchdog_interval()
    told = ""
    while True:
        await asyncio.sleep(interval or 5.0)
        lines = ["WATCHDOG=1"] if interval and reconciler.busy_for() < WEDGED else []
        if (summary := _summary(control)) != told:
            told = summary
            lines.append(f"STATUS={summary}")
        if lines:
            systemd.notify(*lines)


def _summary(control: Control) -> str:
    """How things are, in a line."""
    pools = control.fleet.pools.values()
    # What was told last: to judge ten thousand anew would hold up checks for 12 ms.
    healthy = sum(one.counted for pool in pools for one in pool.backends.values())
    everyone = sum(len(pool.backends) for pool in pools)
    short = [pool.pool.name for pool in pools if not pool.ready]
    words = f"{len(pools)} pool(s), {healthy} of {everyone} backends healthy"
    if short:
        words += f", without quorum: {', '.join(short[:5])}"
    return words if control.reconciler.synced else f"{words}; the kernel refuses: see the log"


def _recall(store: Store, faults: Faults) -> Memory:
    """What is remembered, as far as it can be read: a bad file is shown, and costs no more than the memory."""
    try:
        memory, trouble = store.load()
    except OSError as error:
        memory, trouble = None, f"can't read {store}: {error.strerror or error}"
    if trouble:
        faults.set("memory", trouble)
    return memory or Memory(format=1)


def _allow_descriptors() -> None:
    """Ten thousand checks may be under way at a time, each with a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
