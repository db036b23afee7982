"""A process that is waited for without a thread, and leaves nothing, whatever becomes of it and of its check."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from .spawn import spawn
from .strays import STRAYS, boot_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import Capability

_LIMIT = 64 * 1024  # of what it says; a pipe holds as much
_AT_ONCE, _PAUSE = 16, 0.05  # reads without a wait, and the seconds between all others
_DEATH_SECONDS = 1.0  # a killed process is gone at once, unless the kernel holds it, as a dead NFS server has it do


class Process:
    """A program that runs from now on, the leader of its own session; what it says is kept.

    When it ends, what it started is killed, or may go on until it has run for `leaves` seconds in all.
    Reaped by a reader on its pidfd, hence without asyncio's thread for each, and even if nobody waits any more.
    """

    def __init__(
        self,
        argv: tuple[str, ...],
        environment: dict[str, str],
        capabilities: Iterable[Capability] = (),
        *,
        heard: bool = True,
        leaves: float = 0.0,
    ) -> None:
        """Start it, with these of our capabilities. Raises OSError and ValueError.

        `heard`: whether what it says is kept; else that goes where our own output goes.
        """
        self._loop = asyncio.get_running_loop()
        self._started = boot_time()
        self._leaves = leaves
        self._killed = False
        self._reaped = asyncio.Event()
        # Not with Popen's own pipes: it loses some when there are no file descriptors for all (Python 3.11).
        with ExitStack() as unless_it_starts, ExitStack() as always:
            null = os.open(os.devnull, os.O_RDONLY)
            always.callback(os.close, null)
            outputs: list[tuple[int, int]] = []
            for _ in ("stdout", "stderr") if heard else ():
                read, write = os.pipe()
                unless_it_starts.callback(os.close, read)
                always.callback(os.close, write)
                outputs.append((read, write))
            written = (outputs[0][1], outputs[1][1]) if heard else (None, None)
            self._process = spawn(argv, environment, frozenset(capabilities), null, written)
            unless_it_starts.callback(self._process.wait)
            unless_it_starts.callback(self._kill)
            self._pidfd = os.pidfd_open(self._process.pid)
            unless_it_starts.pop_all()
        STRAYS.began(self, self._process.pid, self._started)
        self._said = {read: b"" for read, _ in outputs}
        self._reads = 0
        self._resumptions: dict[int, asyncio.TimerHandle] = {}
        self._loop.add_reader(self._pidfd, self._reap)
        for output in self._said:
            os.set_blocking(output, False)
            self._loop.add_reader(output, self._read, output)

    def said(self) -> bytes:
        """Return what came on stdout until now, or on stderr if there was nothing: so does Nagios."""
        return next((said for said in self._said.values() if said.strip()), b"")

    async def wait(self) -> int:
        """Wait for its end; return the exit status, or the signal that killed it as a negative number."""
        await self._reaped.wait()
        return self._process.returncode

    async def end(self) -> None:
        """Kill it with all its session, unless it has ended; returns when it is reaped, or would take too long."""
        if not self._reaped.is_set():
            self._killed = True
            self._kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await self._reaped.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone, or another user by itself
            os.killpg(self._process.pid, signal.SIGKILL)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # It may have left others behind. Until it is reaped, its number is nobody else's.
        if self._killed or not self._leaves:
            self._kill()
        self._process.wait()
        STRAYS.ended(self, 0.0 if self._killed else self._started + self._leaves)
        for resumption in self._resumptions.values():
            resumption.cancel()
        for output in self._said:
            self._take(output)
            self._loop.remove_reader(output)
            os.close(output)
        self._reaped.set()

    def _read(self, output: int) -> None:
        """Take what is there. One that says much, or in many pieces, has to wait until we look again."""
        self._reads += 1
        ended = not self._take(output)
        if ended or self._reads > _AT_ONCE:
            self._loop.remove_reader(output)
        if not ended and self._reads > _AT_ONCE:
            self._resumptions[output] = self._loop.call_later(_PAUSE, self._resume, output)

    def _resume(self, output: int) -> None:
        self._loop.add_reader(output, self._read, output)

    def _take(self, output: int) -> bool:
        """Return False at the end."""
        try:
            chunk = os.read(output, _LIMIT)
        except BlockingIOError:
            return True
        self._said[output] += chunk[: _LIMIT - len(self._said[output])]
        return bool(chunk)
