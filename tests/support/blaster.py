"""Runs the blaster (blast.c): sinks on the backends, one sender, and a ledger that shows where each datagram arrived.

A test module asks for it with `pytest_plugins = ("lab_fixtures",)` and takes the fixture `blaster`:

    with blaster.sinks(lab.backends, log=300_000) as sinks:
        sent = sinks.send(lab.client, (VIP4, 53), count=300_000)
    ledger = sinks.ledger(sent.sent)
    assert (ledger.missing, ledger.twice) == ([], [])
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import time
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nftlb.lab import Host

SOURCE = Path(__file__).with_name("blast.c")
RECORD_WORDS = 3
RECORD_SIZE = RECORD_WORDS * 8
COUNTERS_SIZE = 4096
PATIENCE = 120.0
"""Seconds in which senders and sinks must end."""
SHORTEST_FIRE, LONGEST_FIRE = 2.0, 60.0
"""Seconds in which a sender sends while a test changes the rules."""
MOST_FIRE = 10_000_000
"""More datagrams than a sender sends before there are enough changes: a machine that is slow at one is slow at both."""


@dataclass(frozen=True)
class SendReport:
    """The sender's counts. A clean run has errors, duplicates, damaged, strange, written_off and buffer_drops at 0."""

    sent: int
    seconds: float
    replies: int
    """Number of different datagrams that got a reply."""
    duplicates: int
    damaged: int
    strange: int
    errors: int
    last_error: int
    retries: int
    stalls: int
    """Number of pauses of `timeout_ms` without a reply: on a busy machine not necessarily a loss."""
    written_off: int
    """Datagrams that were given up after such a pause, and did not arrive later."""
    buffer_drops: int
    start_ns: int
    sources: dict[str, int]
    """Replies by their source: {"192.0.2.53:53": 300000}."""

    @property
    def rate(self) -> float:
        """Datagrams sent per second."""
        return self.sent / self.seconds


@dataclass(frozen=True)
class SinkReport:
    """The counts of one sink. `buffer_drops`: losses in its own receive buffer."""

    received: int
    logged: int
    strange: int
    damaged: int
    echoed: int
    echo_failed: int
    batches: int
    buffer_drops: int
    sources: dict[str, int]
    """Datagrams by their source, as in `SendReport`."""


@dataclass(frozen=True)
class Membership:
    """The backends of a pool after a swap. Times are time.monotonic_ns() before and after the transaction."""

    begin_ns: int
    end_ns: int
    names: frozenset[str]


_Set = TypeVar("_Set", bound=Membership)


class Ledger:
    """The backend of each datagram, from the logs of the sinks."""

    def __init__(self, count: int, logs: dict[str, array[int]]) -> None:
        self.names = tuple(logs)
        self.logs = logs
        owners = bytearray(count)
        self.twice: list[int] = []
        """Numbers that arrived more than once."""
        for place, log in enumerate(logs.values(), start=1):
            for sequence in log[::RECORD_WORDS]:
                if owners[sequence]:
                    self.twice.append(sequence)
                owners[sequence] = place
        self.owners = bytes(owners)
        """For each datagram, the number of its backend, from 1; 0 if it did not arrive."""

    @property
    def missing(self) -> list[int]:
        """The numbers of the lost datagrams."""
        return [sequence for sequence, owner in enumerate(self.owners) if not owner] if 0 in self.owners else []

    @property
    def counts(self) -> dict[str, int]:
        """The number of datagrams by backend."""
        return {name: len(log) // RECORD_WORDS for name, log in self.logs.items()}

    def follows(self, *cycle: str) -> bool:
        """Whether all datagrams went to these backends in strict turn."""
        turn = bytes(self.names.index(name) + 1 for name in cycle)
        return self.owners == (turn * (len(self.owners) // len(turn) + 1))[: len(self.owners)]

    def records(self, name: str) -> Iterator[tuple[int, int, int]]:
        """Yield number, time of sending and time of arrival (monotonic ns) of a backend's datagrams."""
        log = self.logs[name]
        yield from zip(log[0::RECORD_WORDS], log[1::RECORD_WORDS], log[2::RECORD_WORDS], strict=True)

    def outside(self, history: Sequence[Membership]) -> list[tuple[str, int]]:
        """(backend, number) of the datagrams that reached a backend outside of all sets of their time.

        A datagram is balanced at some moment between its sending and its arrival, and a set takes effect at some moment
        between the begin and the end of its transaction. A datagram is outside if no such moments explain its backend.
        """
        found = []
        for name, sequence, sets in self.moments(history):
            if not any(name in membership.names for membership in sets):
                found.append((name, sequence))
        return found

    def moments(self, history: Sequence[_Set]) -> Iterator[tuple[str, int, Sequence[_Set]]]:
        """Yield backend and number of each datagram, and the sets of which one was in force when it was balanced."""
        begins = [membership.begin_ns for membership in history]
        ends = [
            membership.end_ns for membership in history[1:]
        ]  # a set lasts until the transaction of the next set has ended
        for name in self.names:
            for sequence, sent, received in self.records(name):
                yield name, sequence, history[bisect_left(ends, sent) : bisect_right(begins, received)]


class Sender:
    """A running sender."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._begin = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether the sender is still sending."""
        return self._process.poll() is None

    def goes_on(self, *, enough: bool) -> bool:
        """Whether to change the rules once more: until there are enough changes, and for at least two seconds.

        Then this stops the sender. If there are not enough changes after a minute, the test has to fail.
        """
        seconds = time.monotonic() - self._begin
        if self.running and seconds < LONGEST_FIRE and (seconds < SHORTEST_FIRE or not enough):
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """Stop the sender. Its report then has the datagrams that it sent."""
        self._process.terminate()

    def report(self) -> SendReport:
        """Wait for the sender's end, and return its report."""
        output = _finish(self._process)
        return SendReport(**json.loads(output))


class Sinks:
    """One sink on each host. A context manager: after `with`, the reports and the ledger exist."""

    def __init__(
        self, binary: Path, hosts: Sequence[Host], arguments: Sequence[str], *, address: str, log_capacity: int
    ) -> None:
        self.reports: dict[str, SinkReport] = {}
        self._binary = str(binary)
        self._hosts = tuple(hosts)
        self._arguments = tuple(arguments)
        self._address = address
        self._log_capacity = log_capacity
        self._logs: dict[str, int] = {}
        self._arrivals: dict[str, array[int]] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._senders: list[subprocess.Popen[str]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._shared = _memory("blast-counters", COUNTERS_SIZE)
            stack.callback(os.close, self._shared)
            for index, host in enumerate(self._hosts):
                self._start(index, host, stack)
            for process in self._processes.values():
                _await_ready(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._stack:
            if kind is None:
                for host, process in self._processes.items():
                    self.reports[host] = SinkReport(**json.loads(_finish(process)))
                self._read_logs()

    def start(
        self,
        host: Host,
        target: tuple[str, int],
        *,
        count: int,
        size: int = 64,
        replies: bool = False,
        connected: bool = False,
        source_port: int = 0,
        rate: int = 0,
        batch: int = 32,
        window: int = 512,
        timeout_ms: int = 3000,
        cpu: int | None = None,
    ) -> Sender:
        """Start sending from ONE socket on `host`, one sender at a time; `size` must be that of the sinks.

        An unconnected socket (the default) receives replies from any address, and the report has their sources. `rate`
        is datagrams per second, 0 for as many as possible. `window` is the most datagrams in flight.
        """
        numbers = {
            "port": target[1], "from-port": source_port, "count": count, "size": size, "rate": rate, "batch": batch,
            "window": window, "timeout-ms": timeout_ms, "shared": self._shared, "sinks": len(self._hosts),
        }  # fmt: skip
        argv = [self._binary, "send", "--to", target[0]]
        argv += [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
        argv += ["--replies"] * replies + ["--connect"] * connected
        argv += [] if cpu is None else ["--cpu", str(cpu)]
        process = host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(self._shared,))
        self._stack.callback(_end, process)
        _await_ready(process)
        return Sender(process)

    def send(self, host: Host, target: tuple[str, int], *, count: int, **options: Any) -> SendReport:
        """Send as `start` does, and wait for the end."""
        return self.start(host, target, count=count, **options).report()

    def ledger(self, count: int) -> Ledger:
        """The ledger of the datagrams 0 to `count`. Needs `log=`, after the sinks have ended."""
        return Ledger(count, self._arrivals)

    def _start(self, index: int, host: Host, stack: contextlib.ExitStack) -> None:
        argv = [self._binary, "sink", "--bind", self._address, *self._arguments]
        argv += ["--shared", str(self._shared), "--index", str(index)]
        fds = [self._shared]
        if self._log_capacity:
            fds.append(_memory(f"blast-{host.name}", self._log_capacity * RECORD_SIZE))
            self._logs[host.name] = fds[-1]
            stack.callback(os.close, fds[-1])
            argv += ["--log", str(fds[-1]), "--capacity", str(self._log_capacity)]
        process = host.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=fds)
        stack.callback(_end, process)
        self._processes[host.name] = process

    def _read_logs(self) -> None:
        for name, fd in self._logs.items():
            log = self._arrivals[name] = array("Q")
            with mmap.mmap(fd, self._log_capacity * RECORD_SIZE, prot=mmap.PROT_READ) as memory:
                log.frombytes(memory[: self.reports[name].logged * RECORD_SIZE])


class Blaster:
    """The compiled program."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def sinks(
        self,
        hosts: Sequence[Host],
        *,
        port: int = 5353,
        version: int = 4,
        address: str = "",
        size: int = 64,
        echo: bool = False,
        stamps: bool = False,
        log: int = 0,
        cpu: int | None = None,
    ) -> Sinks:
        """Return sinks on these hosts; they run inside `with`.

        address: the address to bind to, by default any; for dsr the VIP, so that replies come from the VIP.
        echo: send every datagram back.
        log: the number of records that each sink keeps for the ledger.
        stamps: log the kernel's time of arrival instead of the time of reading; costs some speed.
        """
        arguments = ["--port", str(port), "--size", str(size), *["--echo"] * echo, *["--stamps"] * stamps]
        arguments += [] if cpu is None else ["--cpu", str(cpu)]
        anywhere = {4: "0.0.0.0", 6: "::"}[version]  # noqa: S104 - inside a namespace
        return Sinks(self.binary, hosts, arguments, address=address or anywhere, log_capacity=log)


def compile_blast(binary: Path) -> Blaster:
    """Compile blast.c to `binary`. Warnings are errors."""
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", str(binary), str(SOURCE)], check=True)
    return Blaster(binary)


def _memory(name: str, size: int) -> int:
    """Return a descriptor of shared memory. It is in no file system and needs no deletion."""
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return fd


def _await_ready(process: subprocess.Popen[str]) -> None:
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise RuntimeError(f"blast did not start: {process.communicate(timeout=PATIENCE)[1]}")


def _finish(process: subprocess.Popen[str]) -> str:
    """End a process by closing its input, and return its output."""
    output, error = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"blast ended with {process.returncode}: {error}")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    """Make sure that a process has ended, also after a failed test."""
    if process.poll() is None:
        process.kill()
        process.communicate()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
