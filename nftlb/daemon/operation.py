"""Runs the parts of the daemon beside each other, from the first load in the kernel to the end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from nftlb.errors import KernelError, NftlbError
from nftlb.kernel import lock
from nftlb.kernel.conntrack import read_fill
from nftlb.metrics import Metrics
from nftlb.name_list import names_text
from nftlb.programs import STRAYS
from nftlb.service import Actor
from nftlb.sockets import LONGEST, socket_path

from . import systemd
from .api import ApiServer
from .checker import Checker
from .controller import Controller
from .counters import CounterReader
from .daemon_service import DaemonService
from .events import ActiveFaults, Bus
from .garbage import Garbage
from .history import EventHistory
from .names import NameWatch
from .notifier import HookRunner, Notifier
from .reconciler import Reconciler
from .silence_watch import SilenceWatch
from .state_saver import StateSaver
from .store import Store
from .surveyor import Surveyor
from .swap_recorder import SwapRecorder
from .wanted_state import WantedState
from .watcher import Watcher

if TYPE_CHECKING:
    from nftlb.model import Config
    from nftlb.service import Service

    from .daemon import Begun, SignalRequests

_log = logging.getLogger(__name__)

SIGNAL = Actor("a process that may signal the daemon", "SIGHUP")
"""The kernel does not tell who sent a signal that asyncio handles."""

WEDGED = 120.0
"""Seconds after which a transaction counts as stuck, and systemd gets no more signs of life. A first load of 10,000
pools of four takes libnftables some 3 s where a processor is free, and ten times that on a busy host."""

SWITCH = 0.00005
"""Seconds after which a thread that runs Python gives way to the event loop; Python's own number is 0.005. The loop
lets the others run at each system call, so while a thread reads counters, each of a check's four system calls took
5 ms: 18 checks held up `/healthz` for 80 ms (`python bench/floods.py`)."""


async def operate(begun: Begun, wishes: SignalRequests) -> Config:
    """Run until the daemon shall stop. Return the last configuration."""
    sys.setswitchinterval(SWITCH)
    config, kernel_thread = begun.initial.config, begun.kernel_thread
    metrics, bus = Metrics(), Bus(EventHistory(begun.store.events()))
    metrics.watch(asyncio.get_running_loop(), read_fill)
    faults = ActiveFaults(bus.publish)
    _report_saved_state(begun, faults)

    def hook_ended(pool: str, outcome: str, message: str) -> None:
        metrics.hook(pool, outcome)
        if message:
            _log.warning("%s", message)

    STRAYS.adopt()
    hooks = HookRunner(hook_ended)
    recorder = SwapRecorder(metrics, bus, faults)
    state = WantedState(begun.file, begun.source, begun.initial, begun.memory)
    reconciler = Reconciler(kernel_thread, state.wanted, recorder)
    saver = StateSaver(
        begun.store, state, faults, lambda: reconciler.loaded, lambda: kernel_thread.used_zones, bus.history.kept
    )
    notifier = Notifier(bus, hooks)
    control = Controller(
        state, reconciler, saver, notifier, metrics=metrics, bus=bus, faults=faults, problems=begun.source.problems
    )
    counter_reader = CounterReader(kernel_thread)
    service = DaemonService(control, kernel_thread, counter_reader, recorder=recorder, bus=bus, faults=faults)
    checker = Checker(control.record_result, control.set_check_fault, metrics.lag)
    api = ApiServer(service, metrics, faults, _own_socket(config.table))
    surveyor = Surveyor(config, control, faults)
    watcher = Watcher(config, reconciler, control, surveyor, checker, faults, begun.links)
    silence = SilenceWatch(config, control, kernel_thread, counter_reader.counters)
    garbage, names = Garbage(), NameWatch(config, control)
    control.on_config(
        *(checker.configure, api.follow, watcher.follow, surveyor.follow, garbage.follow, silence.follow),
        *(names.follow, _Directory(saver, config).follow),
    )
    try:
        with surveyor, watcher, names, closing(garbage), closing(counter_reader):
            with suppress(KernelError):
                await reconciler.start(begun.first)
            await surveyor.first_look()
            reconciler.suspect_tables()  # another program may have changed the tables between the load and the watch
            garbage.begin(config)
            checker.configure(config)
            api.follow(config)
            names.begin()
            saver.begin()
            await _serve(control, service, reconciler, api, silence, wishes)
    finally:
        _log.info("stopping")
        systemd.notify("STOPPING=1")
        await checker.close()
        control.close()
        await hooks.close()
        await STRAYS.close()
        await saver.close()
        recorder.changes.close()
    return state.config


def _report_saved_state(begun: Begun, faults: ActiveFaults) -> None:
    """Report what of the saved state can't be used."""
    for fault in begun.faults:
        faults.set("memory", fault)
    for misfit in begun.initial.misfits:
        _log.warning("%s", misfit)


async def _serve(
    control: Controller,
    service: DaemonService,
    reconciler: Reconciler,
    api: ApiServer,
    silence: SilenceWatch,
    wishes: SignalRequests,
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(reconciler.run()),
            group.create_task(api.run()),
            group.create_task(silence.run()),
            group.create_task(_sign_of_life(control, reconciler)),
        ]
        # `systemctl start nftlb && nftlb status` must find the API.
        await api.first_try()
        _log.info("running: %s", _summary(control))
        systemd.notify("READY=1", f"STATUS={_summary(control)}")
        tasks.append(group.create_task(_reloads(service, wishes.reloading)))
        await wishes.stopping.wait()
        for task in tasks:
            task.cancel()


def _own_socket(table: str) -> str:
    """The path of the daemon's own socket; empty if the folder of locks is not for this user, or the path too long."""
    path = socket_path(lock.FOLDER, table)
    usable = os.access(lock.FOLDER, os.W_OK | os.X_OK) and len(os.fsencode(path)) <= LONGEST
    if not usable:
        _log.info("no own socket: this user can't write to %s, or the path is too long: %s", lock.FOLDER, path)
    return path if usable else ""


async def _reloads(service: Service, wanted: asyncio.Event) -> None:
    """Reload at every SIGHUP. Any number of signals during a reload causes one more reload."""
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await service.reload(SIGNAL)
        except NftlbError:
            pass  # it is in the log and in the status
        except Exception:  # noqa: BLE001 - it is in the log, and the old configuration stays
            _log.exception("a fault of nftlb itself in a reload")


class _Directory:
    """Moves the saved state when `state_dir` changes."""

    def __init__(self, saver: StateSaver, config: Config) -> None:
        self._saver = saver
        self._directory = config.state_dir

    def follow(self, config: Config) -> None:
        if config.state_dir != self._directory:
            self._directory = config.state_dir
            self._saver.use(Store(config.state_dir, config.table))


async def _sign_of_life(control: Controller, reconciler: Reconciler) -> None:
    """Notify systemd's watchdog while the loop runs and no transaction is stuck; and report the status."""
    interval = systemd.watchdog_interval()
    text = ""
    while True:
        await asyncio.sleep(interval or 5.0)
        lines = ["WATCHDOG=1"] if interval and reconciler.busy_for() < WEDGED else []
        if (summary := _summary(control)) != text:
            text = summary
            lines.append(f"STATUS={summary}")
        if lines:
            systemd.notify(*lines)


def _summary(control: Controller) -> str:
    """The status of the daemon in a line."""
    pools = control.state.health.pools.values()
    # The values that were reported last: to compute ten thousand backends again would delay checks by 12 ms.
    healthy = sum(backend.counted for pool in pools for backend in pool.backends.values())
    everyone = sum(len(pool.backends) for pool in pools)
    short = [pool.pool.name for pool in pools if not pool.ready]
    words = f"{len(pools)} pool(s), {healthy} of {everyone} backends usable"
    if short:
        words += f", without quorum: {names_text(short)}"
    if control.state.copy:
        words += f"; the file is bad, its last good copy is in use: {control.state.copy}"
    return words if control.reconciler.synced else f"{words}; the kernel refuses: see the log"
