"""Process groups: who is in one, and how to be sure that all of them have stopped, gone on, or ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0
"""Seconds that something may take which is expected to come, most often within milliseconds."""
_PAUSE = 0.002
_ENDED = {"Z", "X"}


def await_that(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until something is so, of which the kernel sends no event.

    Raises SystemFault with `what`, which names the thing that did not come.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemFault(f"after {PATIENCE:.0f} s not yet: {what}")
        time.sleep(_PAUSE)


def members(group: int) -> dict[int, str]:
    """Return the living processes of a group, with their states as /proc has them (`S`, `R`, `T` for stopped, ...)."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The second field is the name in parentheses, and may hold blanks and parentheses itself.
            state, _parent, of, *_ = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(of) == group and state not in _ENDED:
                found[int(path.parent.name)] = state
    return found


def stop(group: int) -> None:
    """Stop a group, and wait until each of its processes has noticed."""
    os.killpg(group, signal.SIGSTOP)
    await_that(lambda: set(members(group).values()) <= {"T"}, f"process group {group} stopped")


def resume(group: int) -> None:
    """Let a group go on, and wait until each of its processes does."""
    os.killpg(group, signal.SIGCONT)
    await_that(lambda: "T" not in members(group).values(), f"process group {group} resumed")


def kill(group: int) -> None:
    """Kill a group and wait until each of its processes has ended, and with it the sockets. None left is all right."""
    while living := members(group):
        with contextlib.ExitStack() as stack:
            ends = select.poll()
            waiting = set()
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    fd = os.pidfd_open(pid)
                    stack.callback(os.close, fd)
                    ends.register(fd, select.POLLIN)
                    waiting.add(fd)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            while waiting:
                ended = ends.poll(PATIENCE * 1000)
                if not ended:
                    raise SystemFault(f"after {PATIENCE:.0f} s not yet: process group {group} killed")
                for fd, _ in ended:
                    ends.unregister(fd)
                    waiting.discard(fd)
