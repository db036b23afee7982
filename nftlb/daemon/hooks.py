"""Programs of the operator's, run at transitions: bounded in time and number, and nothing ever waits for them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.programs import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nftlb.model import Capability

_log = logging.getLogger(__name__)

SECONDS = 10.0
"""So long a hook may take before it is killed; and what it leaves behind when it ends, counted from its own start."""
AT_ONCE = 8
BACKLOG = 256
"""So many wait for one backend or pool; beyond that the oldest are left out: what counts is the latest."""


@dataclass(frozen=True)
class Call:
    """A program to run. Calls with the same `key` run one after the other, in order."""

    key: tuple[str, str]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    capabilities: tuple[Capability, ...] = ()

    def __str__(self) -> str:
        return f"hook {self.argv[0]} ({self.environment.get('NFTLB_EVENT', '')} of {'/'.join(filter(None, self.key))})"


class Hooks:
    """Runs calls. `told` hears of each: `ok`, `failed`, `timeout`, `unstarted` or `dropped`, and a message."""

    def __init__(self, told: Callable[[str, str], None], seconds: float = SECONDS) -> None:
        self._told = told
        self._seconds = seconds
        self._waiting: dict[tuple[str, str], deque[Call]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def run(self, call: Call) -> None:
        """Have it run when its turn comes."""
        queue = self._waiting.get(call.key)
        if queue is None:
            self._waiting[call.key] = deque([call])
            task = asyncio.create_task(self._drain(call.key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        if len(queue) >= BACKLOG:
            self._told("dropped", f"{queue.popleft()} was left out: too many wait")
        queue.append(call)

    async def close(self) -> None:
        """End those that run; forget those that wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, key: tuple[str, str]) -> None:
        queue = self._waiting[key]
        try:
            while queue:
                call = queue.popleft()
                async with self._slots:
                    self._told(*await self._one(call))
        finally:
            del self._waiting[key]

    async def _one(self, call: Call) -> tuple[str, str]:
        try:
            # What it says goes where our own log goes.
            process = Process(
                call.argv,
                {**_inherited(), **call.environment},
                call.capabilities,
                heard=False,
                leaves=self._seconds,
            )
        except (OSError, ValueError) as error:
            return "unstarted", f"{call} can't be started: {getattr(error, 'strerror', None) or error}"
        try:
            async with asyncio.timeout(self._seconds):
                status = await process.wait()
        except TimeoutError:
            return "timeout", f"{call} took more than {self._seconds:g} s and was killed"
        finally:
            await process.end()
        return ("failed", f"{call} ended with status {status}") if status else ("ok", "")


def _inherited() -> dict[str, str]:
    """What of our environment is theirs: where programs are, and where the unit for systemd lets files be written."""
    return {"PATH": os.defpath} | {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
