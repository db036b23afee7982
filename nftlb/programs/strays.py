"""Finds and kills what programs leave behind, also what has left their process group by setsid(2).

As a subreaper this process becomes the parent of all whose own parent has died. Whoever is our child then, in another
session than ours, and is no program that we wait for, is a stray. A stray may belong to any program that was started
before it; when the last of these has ended, nobody waits for the stray.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_TICK = 2 / os.sysconf("SC_CLK_TCK")
"""Seconds, at most, by which the kernel's time of a start differs from ours."""
_SHARE = 20
"""So many times as long as it took nobody looks again: with thousands of programs it must not be all that is done."""
_SOON, _LATER = 0.02, 1.0
"""Seconds until strays are looked at again: what was killed, and what can't be."""
_DEATH_SECONDS = 1.0


class _Stray(NamedTuple):
    pid: int
    dead: bool
    started: float


class Strays:
    """The children of this process that nobody waits for; a process has one of these.

    Finds them between `adopt` and `close`.
    """

    def __init__(self) -> None:
        self._programs: dict[object, tuple[int, float]] = {}
        self._before: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._adopts = False
        self._not_before = 0.0

    def adopt(self) -> None:
        """Become the parent of strays; what are our children already are none."""
        self._before = set(_children())
        self._adopts = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def began(self, program: object, pid: int, started: float) -> None:
        """Hear of a program, and since when (of `boot_time`) it runs."""
        self._programs[program] = pid, started

    def ended(self, program: object, until: float = 0.0) -> None:
        """Hear that a program has been reaped. What it left behind may go on `until` then, of `boot_time`."""
        _, started = self._programs.pop(program)
        if not self._adopts:
            return
        if until > (now := boot_time()) and any(stray.started + _TICK >= started for stray in self._all()):
            self._programs[program] = 0, started
            asyncio.get_running_loop().call_later(until - now, self._forget, program)
        self._look(0.0)

    async def close(self) -> None:
        """Kill all of them, and return when they are gone, or it would take too long."""
        self._disarm()
        if self._adopts:
            self._programs.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    while self._sweep():  # noqa: ASYNC110 - nothing tells of a stray's end
                        await asyncio.sleep(_SOON)
            self._disarm()
            self._adopts = False
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def _forget(self, program: object) -> None:
        if self._programs.pop(program, None) is not None:
            self._look(0.0)

    def _look(self, delay: float) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + delay, self._not_before), self._sweep_now)

    def _sweep_now(self) -> None:
        self._timer = None
        began = time.monotonic()
        killed = self._sweep()
        ended = time.monotonic()
        self._not_before = ended + _SHARE * (ended - began)
        if killed is not None:
            self._look(_SOON if killed else _LATER)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> bool | None:
        """Kill whom nobody waits for, and reap; None if no stray is left, else whether one is on its way out."""
        oldest = min((started for _, started in self._programs.values()), default=float("inf"))
        killed = left = False
        for stray in self._all():
            if stray.dead:
                with suppress(ChildProcessError):
                    os.waitpid(stray.pid, os.WNOHANG)
                continue
            left = True
            if oldest > stray.started + _TICK:
                with suppress(ProcessLookupError, PermissionError):  # another user by itself
                    os.kill(stray.pid, signal.SIGKILL)
                    killed = True
        return killed if left else None

    def _all(self) -> list[_Stray]:
        programs = {pid for pid, _ in self._programs.values()} | self._before
        ours = os.getsid(0)
        return [
            _Stray(pid, fields[0] == "Z", int(fields[19]) / os.sysconf("SC_CLK_TCK"))
            for pid in _children()
            if pid not in programs and (fields := _stat(pid)) and int(fields[3]) != ours
        ]


STRAYS = Strays()


def boot_time() -> float:
    """Seconds since the boot: the clock that tells when processes were started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _children() -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the state on; empty if there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
