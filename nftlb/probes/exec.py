"""Probes by running a plugin of Nagios or mon."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault
from nftlb.printable import one_line
from nftlb.programs import Process

from .probe import Failed, Probe, Success, noting, reason_of, within

if TYPE_CHECKING:
    from nftlb.model import Exec

    from .probe import Subject

_OK, _WARNING = 0, 1
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ExecProbe(Probe):
    keeps_time = True

    def __init__(self, check: Exec) -> None:
        self._argv = check.argv
        self._capabilities = check.capabilities

    async def probe(self, subject: Subject) -> Success:
        until = asyncio.get_running_loop().time() + subject.timeout
        return await within(subject.timeout, self._judged(await self._start(subject, until)), until)

    async def _start(self, subject: Subject, until: float) -> Process:
        try:
            async with asyncio.timeout_at(until):
                return await Process.start(self._argv, _environment(subject), self._capabilities)
        except TimeoutError as error:
            raise SystemFault(
                f"can't run {self._argv[0]}: it has not started within {subject.timeout:g}s: its file system does not "
                "answer, or this host is overloaded"
            ) from error
        except OSError as error:
            fix = "put the plugin there, executable for nftlb's user"
            if error.errno == errno.EPERM:
                fix += "; if it needs a capability (getcap), name that under `capabilities`, and give it to nftlb"
            else:
                reason_of(
                    error
                )  # raises if memory, files or processes are exhausted; its text for EPERM is about packets
            raise SystemFault(f"can't run {self._argv[0]}: {error.strerror}: {fix}") from error

    async def _judged(self, plugin: Process) -> Success:
        try:
            with noting(lambda: _first_line(plugin.output())):
                status = await plugin.wait()
        finally:
            await plugin.end()
        return _judge(status, _first_line(plugin.output()))


def _environment(subject: Subject) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", _PATH),
        "NFTLB_POOL": subject.pool,
        "NFTLB_BACKEND": subject.backend,
        "NFTLB_ADDRESS": str(subject.address),
        "NFTLB_PORT": "" if subject.port is None else str(subject.port),
        "NFTLB_SOURCE": "" if subject.source is None else str(subject.source),
        "NFTLB_DEVICE": subject.device or "",
        "NFTLB_MARK": "" if subject.mark is None else str(subject.mark),
        **{
            name: os.environ[name] for name in ("TMPDIR",) if name in os.environ
        },  # the systemd unit permits no other directory
    }


def _first_line(said: bytes) -> str:
    """Return the first non-blank line, without Nagios' performance data."""
    line = said.strip().partition(b"\n")[0]
    return one_line(line.partition(b"|")[0])


def _judge(status: int, said: str) -> Success:
    if status in {_OK, _WARNING}:
        return Success(said or ("ok" if status == _OK else "warning"))
    ended = f"exit status {status}" if status > 0 else f"killed by {_signal(-status)}"
    raise Failed(f"{ended}: {said}" if said else ended)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
