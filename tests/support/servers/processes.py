"""Process groups: their processes, and waiting until all have stopped, continued, or ended."""

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
"""Time limit in seconds for events that usually take milliseconds."""
_PAUSE = 0.002
_ENDED = {"Z", "X"}


def await_that(condition: Callable[[], bool], what: str) -> None:
    """Test a condition repeatedly until it is true, for conditions without an event from the kernel.

    Raises SystemFault with `what`, which names the missing thing.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemFault(f"after {PATIENCE:.0f} s not yet: {what}")
        time.sleep(_PAUSE)


def members(group: int) -> dict[int, str]:
    """The living processes of a group, with their states as in /proc (`S`, `R`, `T` for stopped, ...)."""
    found = {}
    for directory in [path for path in Path("/proc").iterdir() if path.name.isdigit()]:
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            # The second field is the name in parentheses, which may have blanks and parentheses too.
            text = (directory / "stat").read_text(encoding="utf-8", errors="replace")
            state, _parent, of, *_ = text.rpartition(")")[2].split()
            if int(of) == group and state not in _ENDED:
                found[int(directory.name)] = state
    return found


def stop(group: int) -> None:
    """Stop a group, and wait until each of its processes has noticed."""
    os.killpg(group, signal.SIGSTOP)
    await_that(lambda: set(members(group).values()) <= {"T"}, f"process group {group} stopped")


def resume(group: int) -> None:
    """Continue a group, and wait until each of its processes runs."""
    os.killpg(group, signal.SIGCONT)
    await_that(lambda: "T" not in members(group).values(), f"process group {group} resumed")


def kill(group: int) -> None:
    """Kill a group, which may be empty, and wait until its processes have ended and their sockets are closed."""
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
