"""The programs of the operator, run for checks and at changes of state, with limited capabilities and a limited life.

No thread waits for the end of a program. The processes that a program leaves behind are killed in every case.

Linux stores the capabilities that programs inherit for each thread, so programs are started from threads with these
capabilities. The alternatives cost more: a launcher such as setpriv(1) is one more exec(2) for each check, and hides
why a program can't be run; code between fork(2) and exec(2) keeps Python from using vfork(2). Each program has its own
thread, because a file on a dead file system (NFS) may never be opened. The end of nftlb does not wait for this thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Capability
from nftlb.own_thread import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

_LIMIT = 64 * 1024  # bytes of output that are kept; a pipe holds as much
_AT_ONCE, _PAUSE = 16, 0.05  # reads without a pause, and the pause in seconds before each later read
_DEATH_SECONDS = 1.0
"""A killed process ends at once, unless the kernel blocks it, for instance because of a dead NFS server."""


class Process:
    """A running program, the leader of its own session. Its output is kept.

    When the program ends, the processes that it started are killed, or may run on until `leaves` seconds after the
    program's start. A reader on the pidfd reaps the program, even if no task waits. asyncio would need a thread
    for each program.
    """

    def __init__(self, begun: StartedProgram, leaves: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._started = begun.started
        self._leaves = leaves
        self._killed = False
        self._reaped = asyncio.Event()
        self._process, self._pidfd = begun.process, begun.pidfd
        self._said = dict.fromkeys(begun.outputs, b"")
        self._reads = 0
        self._resumptions: dict[int, asyncio.TimerHandle] = {}
        self._loop.add_reader(self._pidfd, self._reap)
        for output in self._said:
            os.set_blocking(output, False)
            self._loop.add_reader(output, self._read_ready, output)

    @classmethod
    async def start(
        cls,
        argv: tuple[str, ...],
        environment: dict[str, str],
        capabilities: Iterable[Capability] = (),
        *,
        keep_output: bool = True,
        leaves: float = 0.0,
    ) -> Process:
        """Start a program with these of nftlb's capabilities. Raises OSError and ValueError.

        `keep_output`: whether the program's output is kept. Otherwise the program inherits nftlb's output. If the start
        is cancelled, the program is killed as soon as it has started; that is waited for at most for a second.
        """
        loop, start, given = asyncio.get_running_loop(), object(), frozenset(capabilities)
        begin = _thread_for(argv[0], given).submit(_begin, argv, environment, given, start, keep_output=keep_output)
        try:
            begun = await asyncio.wrap_future(begin)
        except asyncio.CancelledError:
            killed = asyncio.Event()

            def end() -> None:
                STRAYS.gave_up(start)
                killed.set()

            begin.add_done_callback(partial(_abandon, loop, end))
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await killed.wait()
            raise
        except BaseException:
            STRAYS.started(start)
            raise
        process = cls(begun, leaves)
        STRAYS.began(process, begun.process.pid, begun.started)
        STRAYS.started(start)
        return process

    def output(self) -> bytes:
        """Return the output on stdout so far or, if that is blank, on stderr, as Nagios does."""
        return next((said for said in self._said.values() if said.strip()), b"")

    async def wait(self) -> int:
        """Wait for the program's end. Return the exit status, or the number of the signal that killed it, negated."""
        await self._reaped.wait()
        return self._process.returncode

    async def end(self) -> None:
        """Kill the program and its session, unless it has ended. Wait until it is reaped, at most for a second."""
        if not self._reaped.is_set():
            self._killed = True
            self._kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await self._reaped.wait()

    def _kill(self) -> None:
        _kill_group(self._process)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # The program may have left processes. Its process id is not reused before it is reaped.
        if self._killed or not self._leaves:
            self._kill()
        self._process.wait()
        STRAYS.ended(self, 0.0 if self._killed else self._started + self._leaves)
        for resumption in self._resumptions.values():
            resumption.cancel()
        for output in self._said:
            self._read_output(output)
            self._loop.remove_reader(output)
            os.close(output)
        self._reaped.set()

    def _read_ready(self, output: int) -> None:
        """Read the waiting output. A program with much output, or many small pieces, is read after pauses."""
        self._reads += 1
        ended = not self._read_output(output)
        if ended or self._reads > _AT_ONCE:
            self._loop.remove_reader(output)
        if not ended and self._reads > _AT_ONCE:
            self._resumptions[output] = self._loop.call_later(_PAUSE, self._resume, output)

    def _resume(self, output: int) -> None:
        self._loop.add_reader(output, self._read_ready, output)

    def _read_output(self, output: int) -> bool:
        """Read and keep a piece of output. Return False at its end."""
        try:
            chunk = os.read(output, _LIMIT)
        except BlockingIOError:
            return True
        self._said[output] += chunk[: _LIMIT - len(self._said[output])]
        return bool(chunk)


# include/uapi/linux/capability.h and prctl.h
_NUMBERS = {Capability.NET_ADMIN: 12, Capability.NET_RAW: 13}
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 24, 47
_RAISE, _CLEAR_ALL = 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class StartedProgram(NamedTuple):
    """A program that has just started: the time by `boot_time`, its process, and descriptors for its end and output."""

    started: float
    process: subprocess.Popen[bytes]
    pidfd: int
    outputs: tuple[int, ...]


def _begin(
    argv: Sequence[str],
    environment: dict[str, str],
    capabilities: frozenset[Capability],
    start: object,
    *,
    keep_output: bool,
) -> StartedProgram:
    """Start a program as the leader of its own session. Raises OSError and ValueError. Runs in a thread."""
    _give(capabilities)
    _reach(argv[0], environment)
    # Popen's own pipes are not used: Popen leaks some if too few file descriptors are free (Python 3.11).
    with ExitStack() as unless_it_starts, ExitStack() as always:
        null = os.open(os.devnull, os.O_RDONLY)
        always.callback(os.close, null)
        outputs: list[tuple[int, int]] = []
        for _ in ("stdout", "stderr") if keep_output else ():
            read, write = os.pipe()
            unless_it_starts.callback(os.close, read)
            always.callback(os.close, write)
            outputs.append((read, write))
        stdout, stderr = (outputs[0][1], outputs[1][1]) if keep_output else (None, None)
        started = boot_time()
        STRAYS.starting(start, started)
        process = subprocess.Popen(  # noqa: S603 - the configuration names the program
            argv, stdin=null, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
        )
        unless_it_starts.callback(process.wait)
        unless_it_starts.callback(_kill_group, process)
        pidfd = os.pidfd_open(process.pid)
        unless_it_starts.pop_all()
    return StartedProgram(started, process, pidfd, tuple(read for read, _ in outputs))


_MOST_INTERPRETERS = 5
"""The kernel follows no more first lines of scripts."""
_FIRST_LINE = re.compile(rb"#![ \t]*([^ \t\n\0]+)")


def _reach(program: str, environment: dict[str, str]) -> None:
    """Open and read the files that exec(2) opens: a program, and the interpreter that the first line of a script names.

    On a dead file system, this never returns. Popen keeps all threads of Python waiting until exec(2) has opened the
    files: with vfork(2), it keeps the lock of the interpreter. These calls release the lock.
    """
    path: str | bytes | None = shutil.which(program, path=environment.get("PATH"))
    with suppress(OSError):  # Popen reports the reason
        for _ in range(1 + _MOST_INTERPRETERS):
            if path is None or not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
                return
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                line = _FIRST_LINE.match(file.read(256))  # BINPRM_BUF_SIZE
            path = line[1] if line else None


def _abandon(loop: asyncio.AbstractEventLoop, end: Callable[[], None], begin: Future[StartedProgram]) -> None:
    """Kill a program that was given up, if it has started; then call `end` in the loop. Runs in any thread."""
    if not begin.cancelled() and begin.exception() is None:
        begun = begin.result()
        _kill_group(begun.process)
        begun.process.wait()
        for descriptor in (begun.pidfd, *begun.outputs):
            os.close(descriptor)
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(end)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended, or changed its user
        os.killpg(process.pid, signal.SIGKILL)


class _Threads(threading.local):
    """The starting threads of the calling thread, whose network namespace they share."""

    def __init__(self) -> None:
        self.by_program: dict[tuple[str, frozenset[Capability]], OwnThread] = {}


_threads = _Threads()


def _thread_for(program: str, capabilities: frozenset[Capability]) -> OwnThread:
    """The thread that starts a program with these of nftlb's capabilities."""
    thread = _threads.by_program.get((program, capabilities))
    if thread is None:
        thread = _threads.by_program[program, capabilities] = OwnThread("programs")
    return thread


def starts_for(program: str, capabilities: Iterable[Capability]) -> float:
    """Seconds for which a start of this program has been going on, also if it was given up; 0 if there is none."""
    return _thread_for(program, frozenset(capabilities)).busy_for()


def _give(capabilities: frozenset[Capability]) -> None:
    """Give these of nftlb's capabilities to the programs of this thread. OSError if nftlb lacks one of them."""
    try:
        confine(capabilities)
    except OSError as error:
        names = ", ".join(sorted(capabilities)) or "no capabilities"
        raise OSError(
            error.errno, f"nftlb itself lacks the capabilities to give: {names} ({error.strerror})"
        ) from error


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def confine(wanted: Iterable[Capability]) -> None:
    """Limit the capabilities that programs inherit from this thread to the wanted ones.

    Programs of root keep root's other capabilities, but not CAP_NET_ADMIN and CAP_NET_RAW, if this process has
    CAP_SETPCAP. Raises OSError if this process lacks a wanted capability.
    """
    numbers = {_NUMBERS[name] for name in wanted}
    _set_inheritable(sum(1 << number for number in numbers))
    _prctl(_PR_CAP_AMBIENT, _CLEAR_ALL)
    for number in numbers:
        _prctl(_PR_CAP_AMBIENT, _RAISE, number)
    for number in set(_NUMBERS.values()) - numbers:
        # At exec(2) root gets all capabilities in this set. Other users get none from it, and may not change the set.
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def _set_inheritable(wanted: int) -> None:
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    if _libc.capget(ctypes.byref(header), sets):
        raise _error()
    enough = sets[0].inheritable & wanted == wanted
    sets[0].inheritable, sets[1].inheritable = wanted, 0
    # The systemd unit forbids capset(2). Inheritable capabilities have no effect there without ambient capabilities.
    if _libc.capset(ctypes.byref(header), sets) and not enough:
        raise _error()


def _prctl(option: int, what: int, number: int = 0) -> None:
    if _libc.prctl(option, what, number, 0, 0):
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_TICK = 2 / os.sysconf("SC_CLK_TCK")
"""The largest difference in seconds between the kernel's time of a start and nftlb's."""
_SHARE = 20
"""After a search, the pause is this many times as long as the search: with thousands of programs a search is slow."""
_SOON, _LATER = 0.02, 1.0
"""Seconds until the next search: after strays were killed, and while strays remain that may not be killed."""


class _Stray(NamedTuple):
    pid: int
    dead: bool
    started: float


class Strays:
    """The processes that programs leave behind, also those that left the process group by setsid(2).

    As a subreaper, nftlb becomes the parent of descendants whose parent has died. A child in another session that is
    not a program that nftlb started is a stray. A stray may belong to any program that was started before it. When the
    last of these programs has ended, the stray is killed. A process has one instance, which works between `adopt` and
    `close`.
    """

    def __init__(self) -> None:
        self._programs: dict[object, tuple[int, float]] = {}
        self._starting: dict[object, float] = {}
        self._before: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._adopts = False
        self._not_before = 0.0

    def adopt(self) -> None:
        """Become the parent of strays. Present children of this process do not count as strays."""
        self._before = set(_children())
        self._adopts = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def starting(self, start: object, moment: float) -> None:
        """Record that a program starts from this moment of `boot_time` on. Called in the thread that starts it."""
        self._starting[start] = moment

    def started(self, start: object) -> None:
        """Record that a start has ended. A start that succeeded calls `began` before."""
        self._starting.pop(start, None)

    def gave_up(self, start: object) -> None:
        """Record that a program was given up. If it has started, it was reaped, and may have left processes."""
        self.started(start)
        if self._adopts:
            self._look(0.0)

    def began(self, program: object, pid: int, started: float) -> None:
        """Record a started program. `started`: its start by `boot_time`."""
        self._programs[program] = pid, started

    def ended(self, program: object, until: float = 0.0) -> None:
        """Record that a program was reaped. Processes that it left may run `until` that time of `boot_time`."""
        _, started = self._programs.pop(program)
        if not self._adopts:
            return
        if until > (now := boot_time()) and any(stray.started + _TICK >= started for stray in self._all()):
            self._programs[program] = 0, started
            asyncio.get_running_loop().call_later(until - now, self._forget, program)
        self._look(0.0)

    async def close(self) -> None:
        """Kill all strays, and wait until they have ended, at most for a second."""
        self._disarm()
        if self._adopts:
            self._programs.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    while self._sweep():  # noqa: ASYNC110 - the end of a stray is not announced
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
        """Kill strays whose programs have ended, and reap dead strays.

        Returns None if no stray is left, otherwise whether a stray was killed.
        """
        oldest = min((started for _, started in self._programs.values()), default=float("inf"))
        strays = self._all()
        # A child that is not known yet may be a program: its process id comes with the end of its start. Its start was
        # recorded before it existed, so the starts are read after the children.
        unknown = min(list(self._starting.values()), default=float("inf"))
        killed = left = False
        for stray in strays:
            if stray.started + _TICK >= unknown:
                left = True
                continue
            if stray.dead:
                with suppress(ChildProcessError):
                    os.waitpid(stray.pid, os.WNOHANG)
                continue
            left = True
            if oldest > stray.started + _TICK:
                with suppress(ProcessLookupError, PermissionError):  # it has changed its user
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
    """Return the seconds since the boot, by the clock of the kernel's process start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _children() -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty if the process no longer exists."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
