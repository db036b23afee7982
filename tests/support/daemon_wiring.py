"""The parts of the daemon wired over a kernel in memory, as in nftlb/daemon/operation.py."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from fake_kernel_thread import FakeKernelThread, RecordedCalls, has
from pool_builders import DNS as DNS_POOL
from pool_builders import config
from virtual_time import elapsed, settle

from nftlb.config import parse_config, read_file
from nftlb.daemon.checker import CheckKey
from nftlb.daemon.controller import Controller
from nftlb.daemon.counters import CounterReader
from nftlb.daemon.daemon_service import DaemonService
from nftlb.daemon.events import ActiveFaults, Bus, wall
from nftlb.daemon.notifier import Notifier
from nftlb.daemon.reconciler import Commit, Reconciler, Wanted
from nftlb.daemon.runtime import initial_state
from nftlb.daemon.startup import StartupConfig
from nftlb.daemon.state_saver import StateSaver
from nftlb.daemon.swap_recorder import SwapRecorder
from nftlb.daemon.wanted_state import WantedState
from nftlb.health import CheckResult, Memory
from nftlb.health.memory import read_memory, write_memory
from nftlb.metrics import Metrics
from nftlb.model import Membership
from nftlb.service import Actor

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.daemon.notifier import HookCall
    from nftlb.daemon.store import Store
    from nftlb.errors import NftlbError
    from nftlb.model import Config, EventKind
    from nftlb.service import BackendStatus, Event, PoolStatus
    from nftlb.swap import Shortfall

BACKENDS = {"ns1": "10.0.0.11:53", "ns2": "10.0.0.12:53", "ns3": "10.0.0.13:53"}
CHECK = {"icmp": {}, "interval": "2s", "fast_interval": "500ms", "rise": 2, "fall": 3}
DNS = {"listen": "192.0.2.53:53/udp", "backends": BACKENDS, "health": CHECK}
OTHER = {"listen": "192.0.2.54:53/udp", "backends": {"a": "10.0.1.1:53"}}
TESTER = Actor("tester", "unix socket")
PASS, FAIL = (
    CheckResult(passed=True, reason="fine", seconds=0.001),
    CheckResult(passed=False, reason="no answer", seconds=1.0),
)


def document(**pools: Any) -> str:
    """The text of a configuration file."""
    return json.dumps({"pools": pools})


@dataclass
class FakeStore:
    """Records the table names that it saves, with the times, and the text of the last state. `error`: an errno."""

    name: str = "store"
    error: int = 0
    saved: list[tuple[float, str]] = field(default_factory=list)
    text: str = ""

    def __str__(self) -> str:
        return self.name

    def save(self, memory: Memory) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.saved.append((elapsed(), memory.table))
        self.text = write_memory(memory)

    def keep_events(self, lines: bytes) -> None:
        """Keep nothing."""

    def keep(self, file: str, source: bytes) -> None:
        """Keep nothing."""

    def prepare(self, content: bytes | None) -> None:
        """Prepare nothing."""


class RecordingBus(Bus):
    """Records all published events."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Event] = []

    def publish(self, event: Event) -> None:
        self.published.append(event)
        super().publish(event)


class WiredDaemon:
    """A daemon without checks, monitors and HTTP server. Hooks are recorded, not run. It runs inside `async with`."""

    def __init__(self, file: Path, memory: str = "", store: Store | None = None) -> None:
        self.file = file
        self.hooks: list[HookCall] = []
        self.followed: list[Config] = []
        self.store = FakeStore()
        self.kernel_thread = FakeKernelThread()
        self.metrics = Metrics()
        self.bus = bus = RecordingBus()
        self.events = bus.published
        self.faults = ActiveFaults(bus.publish)
        self.recorder = SwapRecorder(self.metrics, bus, self.faults)
        remembered = read_memory(memory) if memory else Memory(format=1)
        text = read_file(str(file))
        source = StartupConfig(parse_config(text, str(file)), text)
        start = asyncio.get_running_loop().time()
        initial = initial_state(source.config, remembered, start, at=wall())
        self.misfits = initial.misfits
        self.state = WantedState(str(file), source, initial, remembered)
        self.reconciler = Reconciler(self.kernel_thread, self.state.wanted, self.recorder)
        self.saver = StateSaver(store or self.store, self.state, self.faults)  # type: ignore[arg-type]
        self.controller = Controller(
            self.state,
            self.reconciler,
            self.saver,
            Notifier(bus, self),  # type: ignore[arg-type]
            metrics=self.metrics,
            bus=bus,
            faults=self.faults,
        )
        self._counter_reader = CounterReader(self.kernel_thread)
        self.service = DaemonService(
            self.controller,
            self.kernel_thread,
            self._counter_reader,
            recorder=self.recorder,
            bus=bus,
            faults=self.faults,
        )
        self.controller.on_config(self.followed.append)

    async def __aenter__(self) -> Self:
        await self.kernel_thread.open()
        await self.reconciler.start()
        self._task = asyncio.create_task(self.reconciler.run())
        await settle()
        self.events.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.saver.close()
        self.recorder.changes.close()
        self._counter_reader.close()
        self.kernel_thread.close()
        await settle()
        assert 1 == len(asyncio.all_tasks())

    def run(self, call: HookCall) -> None:
        """Record a hook, in the place of a HookRunner."""
        self.hooks.append(call)

    def write(self, **pools: Any) -> None:
        """Write the configuration file."""
        self.file.write_text(document(**pools))

    def record_results(self, name: str, outcomes: str, pool: str = "dns") -> list[float]:
        """Record results of checks, written as `+` and `-`. Return the delays that the checker would get."""
        key = CheckKey(pool, name, 0)
        return [self.controller.record_result(key, PASS if outcome == "+" else FAIL) for outcome in outcomes]

    def events_of(self, *kinds: EventKind) -> list[str]:
        """The events of these kinds, each as its kind and subject."""
        return [f"{event.kind} {event.backend or event.pool}" for event in self.events if event.kind in kinds]

    @property
    def is_right(self) -> bool:
        """Whether the kernel has the wanted rules."""
        wanted = self.state.wanted()
        return has(self.kernel_thread.kernel, wanted.config, wanted.membership)

    @property
    def shown(self) -> list[str]:
        """The subjects of the present faults."""
        return [fault.what for fault in self.faults.all()]


class WiredReconciler:
    """A reconciler over a kernel in memory. It runs inside `async with`, after a first load."""

    def __init__(self, wanted: Config | None = None) -> None:
        self.config = wanted or config(DNS_POOL)
        self.down: set[str] = set()
        self.kernel_thread = FakeKernelThread()
        self.calls = RecordedCalls()
        self.lacks: tuple[str, ...] = ()
        self.reconciler = Reconciler(self.kernel_thread, self.wanted, self)

    async def __aenter__(self) -> Self:
        await self.kernel_thread.open()
        await self.reconciler.start()
        self.task = asyncio.create_task(self.reconciler.run())
        await settle()
        self.calls.all.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.kernel_thread.close()

    def wanted(self) -> Wanted:
        """The configuration, with some backends down."""
        return Wanted(self.config, Membership.with_down((self.config.pools[0].name, name) for name in self.down))

    def fall(self, *names: str) -> None:
        """Take backends down."""
        self.down |= set(names)
        self.reconciler.wake()

    def rise(self, *names: str) -> None:
        """Bring backends up."""
        self.down -= set(names)
        self.reconciler.wake()

    def flush_by_others(self) -> None:
        """Flush the kernel's tables as another program would."""
        self.kernel_thread.kernel.flush()
        self.reconciler.suspect_tables()

    @property
    def is_right(self) -> bool:
        """Whether the kernel has the wanted rules."""
        wanted = self.wanted()
        return has(self.kernel_thread.kernel, wanted.config, wanted.membership)

    # --- SwapObserver ------------------------------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        self.calls("restored" if commit.restored else "commit")

    def refused(self, error: NftlbError) -> None:
        del error
        self.calls("refused")

    def recovered(self) -> None:
        self.calls("recovered")

    def lacking(self, what: tuple[Shortfall, ...]) -> None:
        self.lacks = tuple(map(str, what))

    def slower(self, pools: tuple[Shortfall, ...]) -> None:
        self.slow = pools


async def shares(daemon: WiredDaemon, pool: str = "dns") -> dict[str, float]:
    """The share of each backend of a pool."""
    return {backend.name: round(backend.share, 3) for backend in (await daemon.service.pool(pool)).backends}


def found(status: PoolStatus, name: str) -> BackendStatus:
    """The status of one backend of a pool."""
    return next(backend for backend in status.backends if backend.name == name)
