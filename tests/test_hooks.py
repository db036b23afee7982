"""Programs of the operator's: in order, bounded in time and number, and killed with all that they started."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nftlb.daemon.hooks import AT_ONCE, BACKLOG, Call, Hooks

if TYPE_CHECKING:
    import pytest


class Told:
    """What hooks came to; can be waited for."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, outcome: str, message: str) -> None:
        self.all.append((outcome, message))
        self._tasks.add(asyncio.create_task(self._tell()))

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def count(self, number: int) -> list[str]:
        """Wait for so many, and return the outcomes."""
        async with self._changed, asyncio.timeout(30):
            await self._changed.wait_for(lambda: len(self.all) >= number)
        return [outcome for outcome, _ in self.all]


def call(*argv: str, key: tuple[str, str] = ("dns", "ns1"), **environment: str) -> Call:
    return Call(key, argv, {"NFTLB_EVENT": "backend_down", **environment})


def test_the_environment_is_complete_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook has PATH and what the call says; what is secret in the daemon's own environment stays there."""
    monkeypatch.setenv("SECRET", "1")
    file = tmp_path / "environment"

    async def scene() -> list[str]:
        told = Told()
        hooks = Hooks(told)
        program = "import os,sys; open(sys.argv[1], 'w').write(repr(dict(os.environ)))"
        hooks.run(call(sys.executable, "-I", "-c", program, str(file), NFTLB_REASON="no answer; rm -rf $HOME"))
        outcomes = await told.count(1)
        await hooks.close()
        return outcomes

    assert ["ok"] == asyncio.run(scene())
    found = file.read_text()
    assert "'NFTLB_EVENT': 'backend_down'" in found
    assert "'NFTLB_REASON': 'no answer; rm -rf $HOME'" in found
    assert f"'PATH': {os.environ['PATH']!r}" in found
    assert "SECRET" not in found


def test_what_a_hook_comes_to() -> None:
    """Every end is told, with a message unless all is well."""

    async def scene() -> list[tuple[str, str]]:
        told = Told()
        hooks = Hooks(told)
        for argv in (["true"], ["false"], ["sh", "-c", "kill -9 $$"], ["/does/not/exist"], ["/etc/passwd"], ["a\0b"]):
            hooks.run(call(*argv))
        await told.count(6)
        await hooks.close()
        return told.all

    assert [
        ("ok", ""),
        ("failed", "hook false (backend_down of dns/ns1) ended with status 1"),
        ("failed", "hook sh (backend_down of dns/ns1) ended with status -9"),
        ("unstarted", "hook /does/not/exist (backend_down of dns/ns1) can't be started: No such file or directory"),
        ("unstarted", "hook /etc/passwd (backend_down of dns/ns1) can't be started: Permission denied"),
        ("unstarted", "hook a\0b (backend_down of dns/ns1) can't be started: embedded null byte"),
    ] == asyncio.run(scene())


def test_calls_of_a_backend_keep_their_order(tmp_path: Path) -> None:
    """One ends before the next begins, also if the first is the slowest."""
    file = tmp_path / "order"

    async def scene() -> None:
        told = Told()
        hooks = Hooks(told)
        for number, seconds in enumerate(("0.2", "0", "0.1", "0")):
            hooks.run(call("sh", "-c", f"sleep {seconds}; echo {number} >> {file}"))
        await told.count(4)
        await hooks.close()

    asyncio.run(scene())
    assert ["0", "1", "2", "3"] == file.read_text().split()


class Gate:
    """A program that says when it runs, and then waits until it may end."""

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
        """Wait until so many more run."""
        async with asyncio.timeout(30):
            await self._reader.readexactly(number)

    def release(self, number: int) -> None:
        os.write(self._out, b"\n" * number)


def test_no_more_than_some_at_once(tmp_path: Path) -> None:
    """Calls of many backends run side by side, but never more than AT_ONCE."""

    async def scene() -> list[str]:
        told = Told()
        hooks = Hooks(told)
        async with Gate(tmp_path) as gate:
            for number in range(AT_ONCE + 3):
                hooks.run(call(*gate.argv, key=("dns", f"b{number}")))
            await gate.started(AT_ONCE)
            assert AT_ONCE == len(children())
            gate.release(AT_ONCE + 3)
            outcomes = await told.count(AT_ONCE + 3)
        await hooks.close()
        return outcomes

    assert ["ok"] * (AT_ONCE + 3) == asyncio.run(scene())


def children() -> list[int]:
    """The processes that this one started and that have not ended."""
    lists = (path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for found in lists for pid in found]


def test_who_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """The time over, the hook and the processes that it left in the background are gone."""
    pids = tmp_path / "pids"

    async def scene() -> list[tuple[str, str]]:
        told = Told()
        hooks = Hooks(told, 0.3)
        hooks.run(call("sh", "-c", f"trap '' TERM; sleep 1000 & echo $! $$ > {pids}; wait"))
        hooks.run(call("true"))
        await told.count(2)
        await hooks.close()
        return told.all

    assert [("timeout", "hook sh (backend_down of dns/ns1) took more than 0.3 s and was killed"), ("ok", "")] == (
        asyncio.run(scene())
    )
    assert [False, False] == [alive(pid) for pid in pids.read_text().split()]


def alive(pid: str) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_oldest_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that wait for one backend only the latest BACKLOG are kept, and each that is not is told."""

    async def scene() -> tuple[list[tuple[str, str]], list[str]]:
        ran: list[str] = []
        free = asyncio.Event()

        async def one(_: Hooks, which: Call) -> tuple[str, str]:
            await free.wait()
            ran.append(which.argv[0])
            return "ok", ""

        monkeypatch.setattr(Hooks, "_one", one)
        told = Told()
        hooks = Hooks(told)
        hooks.run(call("first"))
        await asyncio.sleep(0)
        for number in range(BACKLOG + 2):
            hooks.run(call(str(number)))
        dropped = list(told.all)
        free.set()
        await told.count(len(dropped) + BACKLOG + 1)
        await hooks.close()
        return dropped, ran

    dropped, ran = asyncio.run(scene())
    assert [
        ("dropped", f"hook {number} (backend_down of dns/ns1) was left out: too many wait") for number in (0, 1)
    ] == dropped
    assert ["first", *map(str, range(2, BACKLOG + 2))] == ran


def test_nothing_waits_for_a_hook(tmp_path: Path) -> None:
    """run() returns before the program is even started, and closing ends those that run and forgets those that wait."""

    async def scene() -> tuple[int, list[tuple[str, str]]]:
        told = Told()
        hooks = Hooks(told)
        async with Gate(tmp_path) as gate:
            hooks.run(call(*gate.argv))
            hooks.run(call("true"))
            hooks.run(call(*gate.argv, key=("pool", "")))
            assert [] == children()
            await gate.started(2)
            await hooks.close()
        return len(children()), told.all

    assert (0, []) == asyncio.run(scene())


def test_a_call_in_words() -> None:
    """A pool's own event names the pool alone."""
    assert "hook notify (quorum_down of dns)" == str(Call(("dns", ""), ("notify", "x"), {"NFTLB_EVENT": "quorum_down"}))
