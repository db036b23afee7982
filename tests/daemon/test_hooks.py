"""Hooks: run in order, limited in time and number, and killed with all processes that they started."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Self

import pytest
from process_end import ends
from virtual_time import elapsed, play

from nftlb import programs
from nftlb.daemon.notifier import HOOK_BACKLOG, HOOK_SECONDS, HOOKS_AT_ONCE, HookCall, HookRunner


class RecordedOutcomes:
    """Records the results of hooks, and waits for them."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, _: str, outcome: str, message: str) -> None:
        self.all.append((outcome, message))
        self._tasks.add(asyncio.create_task(self._notify()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def count(self, number: int) -> list[str]:
        """Wait for a number of results and return them."""
        async with self._changed, asyncio.timeout(30):
            await self._changed.wait_for(lambda: len(self.all) >= number)
        return [outcome for outcome, _ in self.all]


def call(*argv: str, key: tuple[str, str] = ("dns", "ns1"), **environment: str) -> HookCall:
    return HookCall(key, argv, {"NFTLB_EVENT": "backend_down", **environment})


def test_the_environment_is_complete_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook gets PATH and the variables of the call, and no other variable of the daemon."""
    monkeypatch.setenv("SECRET", "1")
    file = tmp_path / "environment"

    async def scene() -> list[str]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        program = "import os,sys; open(sys.argv[1], 'w').write(repr(dict(os.environ)))"
        hooks.run(call(sys.executable, "-I", "-c", program, str(file), NFTLB_REASON="no answer; rm -rf $HOME"))
        outcomes = await recorded.count(1)
        await hooks.close()
        return outcomes

    assert ["ok"] == asyncio.run(scene())
    found = file.read_text()
    assert "'NFTLB_EVENT': 'backend_down'" in found
    assert "'NFTLB_REASON': 'no answer; rm -rf $HOME'" in found
    assert f"'PATH': {os.environ['PATH']!r}" in found
    assert "SECRET" not in found


def test_every_result_of_a_hook_is_reported() -> None:
    """Every result is reported, with a message unless it is `ok`."""

    async def scene() -> list[tuple[str, str]]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        for argv in (["true"], ["false"], ["sh", "-c", "kill -9 $$"], ["/does/not/exist"], ["/etc/passwd"], ["a\0b"]):
            hooks.run(call(*argv))
        await recorded.count(6)
        await hooks.close()
        return recorded.all

    assert [
        ("ok", ""),
        ("failed", "hook false (backend_down of dns/ns1) ended with status 1"),
        ("failed", "hook sh (backend_down of dns/ns1) ended with status -9"),
        ("unstarted", "hook /does/not/exist (backend_down of dns/ns1) can't be started: No such file or directory"),
        ("unstarted", "hook /etc/passwd (backend_down of dns/ns1) can't be started: Permission denied"),
        ("unstarted", "hook a\0b (backend_down of dns/ns1) can't be started: embedded null byte"),
    ] == asyncio.run(scene())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, the file of the program `false` can't be opened."""
    event = threading.Event()
    monkeypatch.setattr(programs, "_reach", lambda program, _: event.wait(30) if program == "false" else None)
    return event


async def started_after_all() -> None:
    """Wait for the end of a start of `false` that was given up, which nothing announces."""
    async with asyncio.timeout(30):
        while programs.starts_for("false", ()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_hook_that_does_not_start(opened: threading.Event) -> None:
    """A hook whose file can't be opened has the time limit. Others of its program fail at once until the start ends."""

    async def scene() -> list[tuple[str, str]]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded, seconds=0.5)
        for name in ("ns1", "ns2", "ns3"):
            hooks.run(call("false", key=("dns", name)))
        await recorded.count(3)
        await hooks.close()
        opened.set()
        await started_after_all()
        hooks = HookRunner(recorded)
        hooks.run(call("false"))
        await recorded.count(4)
        await hooks.close()
        return recorded.all

    first, *others, last = asyncio.run(scene())
    message = (
        "hook false (backend_down of dns/ns1) has not started within 0.5 s: "
        "its file system does not answer, or this host is overloaded"
    )
    assert ("unstarted", message) == first
    assert [
        (
            "unstarted",
            f"hook false (backend_down of dns/{name}) was not started: an earlier start of this program still hangs",
        )
        for name in ("ns2", "ns3")
    ] == others
    assert "failed" == last[0]


def test_hooks_that_do_not_start_delay_no_others(opened: threading.Event) -> None:
    """More hooks than may run at once wait for the file of their program: a hook of another program runs."""

    async def scene() -> list[str]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded, seconds=30)
        for number in range(HOOKS_AT_ONCE + 1):
            hooks.run(call("false", key=("dns", f"b{number}")))
        hooks.run(call("true", key=("sip", "gw")))
        assert ["ok"] == await recorded.count(1)
        opened.set()
        outcomes = await recorded.count(HOOKS_AT_ONCE + 2)
        await hooks.close()
        return outcomes

    assert ["ok"] + ["failed"] * (HOOKS_AT_ONCE + 1) == asyncio.run(scene())


def test_the_time_of_a_hook_includes_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that starts late has less time to run."""

    class SlowProcess:
        async def wait(self) -> int:
            await asyncio.sleep(7)
            return 0

        async def end(self) -> None:
            ends_at.append(elapsed())

    async def start(*_: object, **__: object) -> SlowProcess:
        await asyncio.sleep(7)
        return SlowProcess()

    ends_at: list[float] = []
    monkeypatch.setattr(programs.Process, "start", start)

    async def scene() -> list[str]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        hooks.run(call("slow"))
        return await recorded.count(1)

    assert (["timeout"], [HOOK_SECONDS]) == (play(scene()), ends_at)


def test_calls_of_a_backend_keep_their_order(tmp_path: Path) -> None:
    """Hooks of one backend run one after the other, even if the first is slow."""
    file = tmp_path / "order"

    async def scene() -> None:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        for number, seconds in enumerate(("0.2", "0", "0.1", "0")):
            hooks.run(call("sh", "-c", f"sleep {seconds}; echo {number} >> {file}"))
        await recorded.count(4)
        await hooks.close()

    asyncio.run(scene())
    assert ["0", "1", "2", "3"] == file.read_text().split()


class Gate:
    """A program that reports its start and waits until it may end."""

    def __init__(self, directory: Path) -> None:
        self._started, self._release = directory / "started", directory / "release"
        for path in (self._started, self._release):
            os.mkfifo(path)
        self.argv = ("sh", "-c", f"echo > {self._started}; read x < {self._release}")

    async def __aenter__(self) -> Self:
        self._out = os.open(self._release, os.O_RDWR)
        self._reader = asyncio.StreamReader()
        pipe = os.fdopen(os.open(self._started, os.O_RDWR | os.O_NONBLOCK), "rb", 0)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), pipe)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()
        os.close(self._out)
        await asyncio.sleep(0)

    async def started(self, number: int) -> None:
        """Wait until a number of further programs run."""
        async with asyncio.timeout(30):
            await self._reader.readexactly(number)

    def release(self, number: int) -> None:
        os.write(self._out, b"\n" * number)


def test_a_limited_number_of_hooks_runs_at_once(tmp_path: Path) -> None:
    """Hooks of several backends run in parallel, at most HOOKS_AT_ONCE."""

    async def scene() -> list[str]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        async with Gate(tmp_path) as gate:
            for number in range(HOOKS_AT_ONCE + 3):
                hooks.run(call(*gate.argv, key=("dns", f"b{number}")))
            await gate.started(HOOKS_AT_ONCE)
            assert HOOKS_AT_ONCE == len(children())
            gate.release(HOOKS_AT_ONCE + 3)
            outcomes = await recorded.count(HOOKS_AT_ONCE + 3)
        await hooks.close()
        return outcomes

    assert ["ok"] * (HOOKS_AT_ONCE + 3) == asyncio.run(scene())


def children() -> list[int]:
    """The running child processes of this process."""
    lists = (path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for found in lists for pid in found]


def test_a_hook_that_times_out_is_killed_with_its_processes(tmp_path: Path) -> None:
    """After its time, a hook and its background processes are killed."""
    pids = tmp_path / "pids"

    async def scene(seconds: float) -> list[tuple[str, str]]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded, seconds)
        hooks.run(call("sh", "-c", f"trap '' TERM; sleep 1000 & echo $! $$ > {pids}; wait"))
        hooks.run(call("true"))
        await recorded.count(2)
        await hooks.close()
        return recorded.all

    for seconds in (0.3, 10):
        found = asyncio.run(scene(seconds))
        if pids.exists() and pids.read_text() and found[1] == ("ok", ""):  # else this machine was too slow to start it
            break
    assert [
        ("timeout", f"hook sh (backend_down of dns/ns1) took more than {seconds:g} s and was killed"),
        ("ok", ""),
    ] == found
    assert all(ends(int(pid)) for pid in pids.read_text().split())


def test_the_oldest_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the latest HOOK_BACKLOG hooks of a backend wait; each dropped hook is reported."""

    async def scene() -> tuple[list[tuple[str, str]], list[str]]:
        ran: list[str] = []
        free = asyncio.Event()

        async def run_program(_: HookRunner, which: HookCall) -> tuple[str, str]:
            await free.wait()
            ran.append(which.argv[0])
            return "ok", ""

        monkeypatch.setattr(HookRunner, "_run_program", run_program)
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        hooks.run(call("first"))
        await asyncio.sleep(0)
        for number in range(HOOK_BACKLOG + 2):
            hooks.run(call(str(number)))
        dropped = list(recorded.all)
        free.set()
        await recorded.count(len(dropped) + HOOK_BACKLOG + 1)
        await hooks.close()
        return dropped, ran

    dropped, ran = asyncio.run(scene())
    assert [
        ("dropped", f"hook {number} (backend_down of dns/ns1) was dropped: too many hooks wait") for number in (0, 1)
    ] == dropped
    assert ["first", *map(str, range(2, HOOK_BACKLOG + 2))] == ran


def test_run_does_not_wait_for_the_hook(tmp_path: Path) -> None:
    """run() returns before the program starts; close() kills running hooks and drops waiting hooks."""

    async def scene() -> tuple[int, list[tuple[str, str]]]:
        recorded = RecordedOutcomes()
        hooks = HookRunner(recorded)
        async with Gate(tmp_path) as gate:
            hooks.run(call(*gate.argv))
            hooks.run(call("true"))
            hooks.run(call(*gate.argv, key=("pool", "")))
            assert [] == children()
            await gate.started(2)
            await hooks.close()
        return len(children()), recorded.all

    assert (0, []) == asyncio.run(scene())


def test_the_text_of_a_hook_call() -> None:
    """The name of a hook for a pool has no backend."""
    assert "hook notify (quorum_down of dns)" == str(
        HookCall(("dns", ""), ("notify", "x"), {"NFTLB_EVENT": "quorum_down"})
    )
