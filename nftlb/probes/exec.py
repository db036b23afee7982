"""Runs a Nagios or mon plugin."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault

from .faults import reason_of
from .line import one_line
from .probe import Answer, Failed, Probe, noting

if TYPE_CHECKING:
    from nftlb.model import Exec

    from .subject import Subject

_OK, _WARNING = 0, 1
_LIMIT = 64 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEATH_SECONDS = 1.0  # a killed process is gone at once, unless the kernel holds it, as a dead NFS server has it do


class ExecProbe(Probe):
    def __init__(self, check: Exec) -> None:
        self._argv = check.argv

    async def probe(self, subject: Subject) -> Answer:
        plugin = _Plugin(self._argv, _environment(subject))
        try:
            with noting(plugin.first_line):
                status = await plugin.wait()
        finally:
            await plugin.end()
        return _judge(status, plugin.first_line())


def _judge(status: int, said: str) -> Answer:
    if status in {_OK, _WARNING}:
        return Answer(said or ("ok" if status == _OK else "warning"))
    ended = f"exit status {status}" if status > 0 else f"killed by {_signal(-status)}"
    raise Failed(f"{ended}: {said}" if said else ended)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return f"signal {number}"


def _environment(subject: Subject) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", _PATH),
        "NFTLB_POOL": subject.pool,
        "NFTLB_BACKEND": subject.backend,
        "NFTLB_ADDRESS": str(subject.address),
        "NFTLB_PORT": "" if subject.port is None else str(subject.port),
    }


class _Plugin:
    """A process, the leader of its own session, with what it writes.

    Reaped by a reader on its pidfd, hence without asyncio's thread for each, and even if nobody waits any more.
    """

    def __init__(self, argv: tuple[str, ...], environment: dict[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = _start(argv, environment)
        self._reaped = asyncio.Event()
        # stdout, then stderr: Nagios too shows the latter if there is nothing else
        self._pipes = {pipe.fileno(): pipe for pipe in (self._process.stdout, self._process.stderr) if pipe}
        self._said = dict.fromkeys(self._pipes, b"")
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            self._process.kill()
            self._process.wait()
            self._close_pipes()
            raise SystemFault(f"can't watch {argv[0]}: {error.strerror}") from error
        self._loop.add_reader(self._pidfd, self._reap)
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._read, descriptor)

    def first_line(self) -> str:
        """Return the first line of its output, without Nagios' performance data."""
        for said in self._said.values():
            if lines := said.strip().splitlines():
                return one_line(lines[0].partition(b"|")[0])
        return ""

    async def wait(self) -> int:
        """Wait for its end; return the exit status, or the signal that killed it as a negative number."""
        await self._reaped.wait()
        return self._process.returncode

    async def end(self) -> None:
        """Kill what is left of the session and forget the pipes; returns when it is reaped, usually at once."""
        if not self._reaped.is_set():
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
        # Until it is reaped, its number is nobody else's.
        self._kill()
        self._process.wait()
        for descriptor in self._pipes:
            self._read(descriptor)
        self._close_pipes()
        self._reaped.set()

    def _read(self, descriptor: int) -> None:
        try:
            chunk = os.read(descriptor, _LIMIT)
        except BlockingIOError:
            return
        self._said[descriptor] += chunk[: _LIMIT - len(self._said[descriptor])]
        if not chunk:
            self._loop.remove_reader(descriptor)

    def _close_pipes(self) -> None:
        for descriptor, pipe in self._pipes.items():
            self._loop.remove_reader(descriptor)
            pipe.close()


def _start(argv: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - it is what the configuration asks for
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        reason_of(error)  # for want of memory, files or processes it raises
        raise SystemFault(
            f"can't run {argv[0]}: {error.strerror}: put the plugin there, executable for nftlb's user"
        ) from error
