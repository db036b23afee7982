"""The daemon's parts put together, once the kernel has the first rules: what runs beside what, until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from nftlb.errors import KernelError, NftlbError
from nftlb.metrics import Metrics
from nftlb.programs import STRAYS

from . import systemd
from .announcer import Announcer
from .api import ApiServer
from .bus import Bus
from .checker import Checker
from .chronicle import Chronicle
from .control import Control
from .faults import Faults
from .hooks import Hooks
from .keeper import Keeper
from .reconciler import Reconciler
from .store import Store
from .surveyor import Surveyor
from .watcher import Watcher

if TYPE_CHECKING:
    from nftlb.model import Config

    from .daemon import Begun, Wishes

_log = logging.getLogger(__name__)

WEDGED = 120.0
"""Seconds after which a transaction counts as stuck, and systemd gets no more signs of life. A first load of 10,000
pools of four takes libnftables some 3 s where a processor is free, and ten times that on a busy host."""


async def operate(begun: Begun, wishes: Wishes) -> Config:
    """Run until it is to stop; return the configuration of then."""
    config, hands = begun.config, begun.hands
    metrics, bus = Metrics(), Bus()
    metrics.watch(asyncio.get_running_loop())
    faults = Faults(bus.publish)
    for fault in begun.faults:
        faults.set("memory", fault)
    for misfit in begun.misfits:
        _log.warning("%s", misfit)

    def hook_ended(outcome: str, message: str) -> None:
        metrics.hook(outcome)
        if message:
            _log.warning("%s", message)

    STRAYS.adopt()
    hooks = Hooks(hook_ended)
    chronicle = Chronicle(metrics, bus, faults)
    control = Control(
        begun.file,
        begun.source.config,
        begun.fleet,
        config,
        begun.memory,
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
    keeper = Keeper(begun.store, control.memory, faults, control.good, control.ready_for)
    control.reconciler, control.keeper, control.source = reconciler, keeper, begun.source.text
    if begun.source.copy:
        control.without_file(begun.source.copy, begun.source.problems)
    checker = Checker(control.hear, control.unable, metrics.lag)
    control.hurry = checker.hurry
    api = ApiServer(control, metrics, faults)
    surveyor = Surveyor(config, control, faults)
    watcher = Watcher(config, reconciler, control, surveyor, faults, begun.links)
    control.on_config(checker.configure, api.follow, watcher.follow, surveyor.follow, _Directory(keeper, config).follow)
    try:
        with surveyor, watcher:
            with suppress(KernelError):
                await reconciler.start(begun.first)
            await surveyor.first_look()
            reconciler.suspect()  # between the load and the watch, somebody may have changed the tables unheard
            gc.collect()
            gc.freeze()  # what is there now stays: there is no sense in looking at it again and again
            checker.configure(config)
            api.follow(config)
            keeper.begin()
            await _serve(control, reconciler, api, wishes)
    finally:
        _log.info("stopping")
        systemd.notify("STOPPING=1")
        await checker.close()
        await hooks.close()
        await STRAYS.close()
        await keeper.close()
        control.close()
    return control.config


async def _serve(control: Control, reconciler: Reconciler, api: ApiServer, wishes: Wishes) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(reconciler.run()),
            group.create_task(api.run()),
            group.create_task(_sign_of_life(control, reconciler)),
            group.create_task(_reloads(control, wishes.reloading)),
        ]
        _log.info("running: %s", _summary(control))
        systemd.notify("READY=1", f"STATUS={_summary(control)}")
        await wishes.stopping.wait()
        for task in tasks:
            task.cancel()


async def _reloads(control: Control, wanted: asyncio.Event) -> None:
    """Reload at every SIGHUP; those that come during a reload make one more."""
    while True:
        await wanted.wait()
        wanted.clear()
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
    if control.copy:
        words += f"; the file is bad, its last good copy is in use: {control.copy}"
    return words if control.reconciler.synced else f"{words}; the kernel refuses: see the log"
