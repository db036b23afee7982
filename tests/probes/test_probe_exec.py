"""Exec checks, which run a plugin."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import clean, open_files, subject
from process_end import ends

from nftlb import programs
from nftlb.errors import SystemFault
from nftlb.model import Exec
from nftlb.probes import probe_for, run_probe

if TYPE_CHECKING:
    from nftlb.health import CheckResult


def shell(script: str, *arguments: str) -> Exec:
    return Exec(argv=("/bin/sh", "-c", script, "sh", *arguments))


def check(script: str, *arguments: str, seconds: float = 20, port: int | None = 53, **way: Any) -> CheckResult:
    async def main() -> CheckResult:
        whom = subject("2001:db8::1", port, seconds=seconds, **way)
        return await clean(probe_for(shell(script, *arguments)), whom)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("script", "passed", "reason"),
    [
        ("echo 'OK - 3 ms|time=3ms;1;2'", True, "OK - 3 ms"),
        ("exit 0", True, "ok"),
        ("echo 'WARNING - slow'; exit 1", True, "WARNING - slow"),
        ("exit 1", True, "warning"),
        ("echo 'CRITICAL - down | x=1'; exit 2", False, "exit status 2: CRITICAL - down"),
        ("exit 3", False, "exit status 3"),
        ("echo; echo; echo second; exit 127", False, "exit status 127: second"),
        ("echo out of luck >&2; exit 2", False, "exit status 2: out of luck"),
        ("echo noise >&2; echo line; exit 2", False, "exit status 2: line"),
        ("printf 'a\\033[31mb\\377'; exit 2", False, "exit status 2: a\ufffd[31mb\ufffd"),
        ("kill -SEGV $$", False, "killed by SIGSEGV"),
        ("echo first; kill -KILL $$", False, "killed by SIGKILL: first"),
        ("kill -35 $$", False, "killed by signal 35"),
    ],
)
def test_outcome(script: str, passed: bool, reason: str) -> None:
    """Nagios' exit statuses: 0 and 1 pass; the first line of output is the reason, without performance data."""
    result = check(script)

    assert (passed, reason) == (result.passed, result.reason)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin gets PATH, and variables with the backend to check, and no other variables."""
    monkeypatch.setenv("SECRET", "of ours")
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    script = 'echo "$NFTLB_POOL $NFTLB_BACKEND $NFTLB_ADDRESS $NFTLB_PORT ${SECRET-none} $PATH"'

    assert "pool backend 2001:db8::1 53 none /bin:/usr/bin" == check(script).reason
    way = 'echo "<${NFTLB_PORT?}/${NFTLB_SOURCE?}/${NFTLB_DEVICE?}/${NFTLB_MARK?}>"'
    assert "<53/2001:db8::2/eth1/16>" == check(way, source="2001:db8::2", device="eth1", mark=16).reason
    assert "<///>" == check(way, port=None).reason


def test_arguments_are_no_shell() -> None:
    """Arguments reach the plugin unchanged."""
    assert "$HOME;ls *" == check('[ "$2" = "a  b" ] && echo "$1"', "$HOME;ls *", "a  b").reason


def test_no_input() -> None:
    """The plugin's standard input is empty."""
    assert check("cat; echo done").reason == "done"


def test_much_output() -> None:
    """A plugin with much output does not block, and only its first line counts."""
    assert "yes" == check("yes yes | head -c 1000000").reason
    assert "exit status 2: yes" == check("yes yes | head -c 1000000 >&2; exit 2").reason


def test_one_long_line() -> None:
    """A line without an end is cut."""
    result = check("head -c 300000 /dev/zero | tr '\\0' x")

    assert result.passed
    assert "x" * 197 + "..." == result.reason


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def wait_for(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()]


# A plugin that starts another process, writes the ids of both, and hangs, also after SIGTERM.
HANGING = "trap '' TERM HUP INT; sleep 1000 & echo $$ $! > $1.new; mv $1.new $1; echo so far; wait; sleep 1000"


def test_time_out_kills_all(tmp_path: Path) -> None:
    """At the time-out, the plugin and its child processes are killed and reaped."""
    file = tmp_path / "pids"

    for seconds in (0.5, 10):
        result = check(HANGING, str(file), seconds=seconds)
        if file.exists() and "so far" in result.reason:  # else this machine was too slow to start the plugin in time
            break

    assert (False, f"no answer within {seconds:g}s; so far") == (result.passed, result.reason)
    assert [True, True] == [ends(pid) for pid in wait_for(file)]
    assert [] == children()
    assert result.seconds < 100  # the plugin would hang for longer


def test_cancelled(tmp_path: Path) -> None:
    """A cancelled check leaves no process and no pipe."""
    file = tmp_path / "pids"

    async def main() -> None:
        before = open_files()
        task = asyncio.create_task(run_probe(probe_for(shell(HANGING, str(file))), subject(seconds=50)))
        while not file.exists():  # noqa: ASYNC110 - the plugin can't set an event
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert before == open_files()

    asyncio.run(main())
    assert [True, True] == [ends(pid) for pid in wait_for(file)]
    assert [] == children()


def test_child_processes_of_an_ended_plugin_are_killed(tmp_path: Path) -> None:
    """When a plugin ends, its child processes are killed, also if they keep its output open."""
    file = tmp_path / "pids"

    result = check("sleep 1000 & echo $! > $1; echo fine", str(file))

    assert (True, "fine") == (result.passed, result.reason)
    assert result.seconds < 100
    assert [True] == [ends(pid) for pid in wait_for(file)]


def test_many_at_once() -> None:
    """Plugins run side by side."""

    async def main() -> None:
        probe = probe_for(shell("echo $NFTLB_ADDRESS"))
        results = await asyncio.gather(*(run_probe(probe, subject(f"192.0.2.{last}")) for last in range(1, 21)))
        assert [f"192.0.2.{last}" for last in range(1, 21)] == [result.reason for result in results]

    asyncio.run(main())
    assert [] == children()


@pytest.mark.parametrize(
    ("name", "content", "mode", "error"),
    [
        ("missing", None, 0, "No such file or directory"),
        ("plain", "#!/bin/sh\n", 0o644, "Permission denied"),
        ("strange", "nothing to run", 0o755, "Exec format error"),
        ("orphan", "#!/no/such/shell\n", 0o755, "No such file or directory"),
    ],
)
def test_no_plugin(tmp_path: Path, name: str, content: str | None, mode: int, error: str) -> None:
    """If a plugin can't be run, the state of the backend does not change."""
    plugin = tmp_path / name
    if content is not None:
        plugin.write_text(content)
        plugin.chmod(mode)

    with pytest.raises(SystemFault, match=f"can't run {re.escape(str(plugin))}: {error}: put the plugin there"):
        asyncio.run(run_probe(probe_for(Exec(argv=(str(plugin),))), subject()))


def test_a_plugin_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file of a plugin can't be opened in time, nothing is known about the backend."""
    opened = threading.Event()
    monkeypatch.setattr(programs, "_reach", lambda *_: opened.wait(30))

    async def main() -> None:
        with pytest.raises(SystemFault, match=r"can't run /bin/true: it has not started within 0\.05s: its file"):
            await run_probe(probe_for(Exec(argv=("/bin/true",))), subject(seconds=0.05))
        opened.set()
        async with asyncio.timeout(30):
            while programs.starts_for("/bin/true", ()):  # noqa: ASYNC110 - the end of a start that was given up is silent
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_plugin_that_must_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPERM suggests a firewall for a packet, but not for a program."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(SystemFault, match="can't run /bin/true: Operation not permitted: put the plugin there"):
        asyncio.run(run_probe(probe_for(Exec(argv=("/bin/true",))), subject()))


def test_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no process can be started, the message names the fix."""

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)

    with pytest.raises(SystemFault, match="raise TasksMax="):
        asyncio.run(run_probe(probe_for(shell("exit 0")), subject()))


def test_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the message names the fix; the next check has a thread again."""
    plugin = tmp_path / "plugin"
    plugin.write_text("#!/bin/sh\necho it works\n")
    plugin.chmod(0o755)
    probe = probe_for(Exec(argv=(str(plugin),)))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        with pytest.raises(SystemFault, match="raise TasksMax="):
            asyncio.run(run_probe(probe, subject()))

    assert "it works" == asyncio.run(run_probe(probe, subject())).reason


def test_no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that can't be watched is not left running."""

    def refuse(_: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    before = open_files()

    with pytest.raises(SystemFault, match="too many files open"):
        asyncio.run(run_probe(probe_for(shell("sleep 1000")), subject()))

    assert [] == children()
    assert before == open_files()


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes(said: bytes) -> None:
    """Any output of a plugin gives a result of one line."""
    written = "".join(f"\\{byte:03o}" for byte in said)

    result = asyncio.run(run_probe(probe_for(shell('printf "$1"; printf "$1" >&2', written)), subject()))

    assert result.passed
    assert result.reason.isprintable()
