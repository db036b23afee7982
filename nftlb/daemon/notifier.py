"""Reports changes of state: a line in the log, an event for listeners, and the operator's hook programs.

Hooks are limited in time and number, and the daemon never waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from nftlb.model import EventKind
from nftlb.programs import Process, starts_for
from nftlb.service import Event

from .events import wall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from nftlb.health import Change
    from nftlb.model import Capability, Config, Pool

    from .events import Bus

_log = logging.getLogger(__name__)

HOOK_SECONDS = 10.0
"""Seconds after which a hook is killed. Processes that it leaves behind are killed after the same time, counted from
their own start."""
HOOKS_AT_ONCE = 8
HOOK_BACKLOG = 256
"""The number of hooks that may wait for one backend or pool. After that the oldest are dropped: the latest counts."""

_ABOUT_POOLS = {
    EventKind.QUORUM_UP: "quorum ",
    EventKind.QUORUM_DOWN: "quorum ",
    EventKind.PRIORITY_CHANGED: "priority ",
}
_LEVELS = {
    EventKind.BACKEND_DOWN: logging.WARNING,
    EventKind.COLLECTOR_DOWN: logging.WARNING,
    EventKind.QUORUM_DOWN: logging.ERROR,
}
_WHAT = {EventKind.COLLECTOR_UP: "collector ", EventKind.COLLECTOR_DOWN: "collector "}


@dataclass(frozen=True)
class HookCall:
    """A hook to run. Calls with the same `key` run one after the other, in order."""

    key: tuple[str, str]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    capabilities: tuple[Capability, ...] = ()

    def __str__(self) -> str:
        return f"hook {self.argv[0]} ({self.environment.get('NFTLB_EVENT', '')} of {'/'.join(filter(None, self.key))})"


class HookRunner:
    """Runs hooks. `ended` receives the pool, each result (one of HOOK_OUTCOMES of the metrics) and a message."""

    def __init__(self, ended: Callable[[str, str, str], None], seconds: float = HOOK_SECONDS) -> None:
        self._ended = ended
        self._seconds = seconds
        self._waiting: dict[tuple[str, str], deque[HookCall]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(HOOKS_AT_ONCE)
        # Of each program: held during a start, and taken before a slot. So hanging starts of a program hold one slot.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def run(self, call: HookCall) -> None:
        """Run a hook after the earlier hooks with the same key."""
        queue = self._waiting.get(call.key)
        if queue is None:
            self._waiting[call.key] = deque([call])
            task = asyncio.create_task(self._drain(call.key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        if len(queue) >= HOOK_BACKLOG:
            self._ended(call.key[0], "dropped", f"{queue.popleft()} was dropped: too many hooks wait")
        queue.append(call)

    async def close(self) -> None:
        """Kill the running hooks and drop the waiting hooks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, key: tuple[str, str]) -> None:
        queue = self._waiting[key]
        try:
            while queue:
                call = queue.popleft()
                self._ended(call.key[0], *await self._run_program(call))
        finally:
            del self._waiting[key]

    async def _run_program(self, call: HookCall) -> tuple[str, str]:
        program = call.argv[0]
        async with AsyncExitStack() as slot:
            async with self._turns.setdefault(program, asyncio.Lock()):
                if starts_for(program, call.capabilities) >= self._seconds:
                    return "unstarted", f"{call} was not started: an earlier start of this program still hangs"
                await slot.enter_async_context(self._slots)
                until = asyncio.get_running_loop().time() + self._seconds
                try:
                    async with asyncio.timeout_at(until):
                        process = await self._start(call)
                except TimeoutError:
                    cause = "its file system does not answer, or this host is overloaded"
                    return "unstarted", f"{call} has not started within {self._seconds:g} s: {cause}"
                except (OSError, ValueError) as error:
                    return "unstarted", f"{call} can't be started: {getattr(error, 'strerror', None) or error}"
            try:
                async with asyncio.timeout_at(until):
                    status = await process.wait()
            except TimeoutError:
                return "timeout", f"{call} took more than {self._seconds:g} s and was killed"
            finally:
                await process.end()
            return ("failed", f"{call} ended with status {status}") if status else ("ok", "")

    async def _start(self, call: HookCall) -> Process:
        return await Process.start(
            call.argv,
            {**_inherited(), **call.environment},
            call.capabilities,
            keep_output=False,  # the hook's output goes where our own log goes
            leaves=self._seconds,
        )


AT_ONCE = 100
"""The most changes that are reported in one turn of the loop: 10,000 reports take some tenths of a second."""


class _Reported(NamedTuple):
    """A change that waits for its report, the configuration with its hooks, and its time."""

    change: Change
    config: Config
    at: datetime


class Notifier:
    """Reports changes of pools and backends. Never waits."""

    def __init__(self, bus: Bus, hooks: HookRunner) -> None:
        self._bus = bus
        self._hooks = hooks
        self._waiting: deque[_Reported] = deque()
        self._turn: asyncio.Handle | None = None

    def report(self, changes: Iterable[Change], config: Config) -> None:
        """Report changes, in order: the first AT_ONCE now, and the others in the next turns of the loop.

        `config` has the hooks.
        """
        at = wall()
        self._waiting.extend(_Reported(change, config, at) for change in changes)
        if self._turn is None:
            self._report_some()

    def close(self) -> None:
        """Report now what waits for its report."""
        if self._turn is not None:
            self._turn.cancel()
        while self._waiting:
            self._report(*self._waiting.popleft())

    def _report_some(self) -> None:
        self._turn = None
        try:
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._report(*self._waiting.popleft())
        finally:
            if self._waiting:
                self._turn = asyncio.get_running_loop().call_soon(self._report_some)

    def _report(self, change: Change, config: Config, at: datetime) -> None:
        subject = f"{change.pool}/{change.backend}" if change.backend else f"pool {change.pool}"
        what = _WHAT.get(change.kind, "") if change.backend else _ABOUT_POOLS[change.kind]
        level = _LEVELS.get(change.kind, logging.INFO)
        fields = {
            "event": change.kind,
            "pool": change.pool,
            "backend": change.backend,
            "old": change.old,
            "new": change.new,
            "reason": change.reason,
        }
        extra = {"fields": {key: value for key, value in fields.items() if value}}
        _log.log(level, "%s: %s%s, was %s: %s", subject, what, change.new, change.old, change.reason, extra=extra)
        self._bus.publish(
            Event(
                kind=change.kind,
                at=at,
                pool=change.pool,
                backend=change.backend,
                old=change.old,
                new=change.new,
                reason=change.reason,
            )
        )
        pool = config.pool(change.pool)
        argv = getattr(pool.hooks, change.kind, ()) if pool else ()
        if pool and argv:
            self._hooks.run(
                HookCall((change.pool, change.backend), argv, _environment(change, pool), pool.hooks.capabilities)
            )


def _environment(change: Change, pool: Pool) -> dict[str, str]:
    collectors = (collector.server for collector in pool.mirror if collector.name == change.backend)
    backend = pool.backend(change.backend) or next(collectors, None)
    return {
        "NFTLB_EVENT": change.kind,
        "NFTLB_POOL": change.pool,
        "NFTLB_BACKEND": change.backend,
        "NFTLB_ADDRESS": str(backend.address) if backend else "",
        "NFTLB_PORT": str(backend.port) if backend and backend.port is not None else "",
        "NFTLB_OLD": change.old,
        "NFTLB_NEW": change.new,
        "NFTLB_REASON": change.reason.replace("\0", ""),
    }


def _inherited() -> dict[str, str]:
    """The part of our environment that hooks get: the search path, and the directory that they may write."""
    return {"PATH": os.defpath} | {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
