"""The operator's programs: their capabilities, and the end of all processes that they start."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from unprivileged import NOBODY, unprivileged

from nftlb import programs
from nftlb.lab import Namespace
from nftlb.model import Capability
from nftlb.programs import Process

ADMIN, RAW = 1 << 12, 1 << 13
BOTH = ADMIN | RAW

# Prints which of the two capabilities a program has, for each set that it is given.
SHOW = """
import asyncio
from nftlb.model import Capability
from nftlb.programs import Process

async def main():
    for wanted in ((), (Capability.NET_RAW,), (Capability.NET_ADMIN,), tuple(Capability), ()):
        process = await Process.start(("grep", "^Cap", "/proc/self/status"), {"PATH": "/usr/bin:/bin"}, wanted)
        assert await process.wait() == 0
        print(*(int(line.split()[1], 16) & 0x3000 for line in process.output().splitlines()))
    with open("/proc/thread-self/status") as status:
        print(*(int(line.split()[1], 16) & 0x3000 for line in status if line.startswith("Cap")))

asyncio.run(main())
"""


def shown(*wrapper: str) -> list[list[int]]:
    """Return the output of SHOW in a separate process."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, timeout=60
    )
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def test_capabilities_of_programs_of_root() -> None:
    """A program has and can get neither capability unless it is configured; nftlb keeps both."""
    *programs, ours = shown()

    inheritable, permitted, effective, bounding, ambient = zip(*programs, strict=True)
    assert ((0, RAW, ADMIN, BOTH, 0),) * 5 == (inheritable, permitted, effective, bounding, ambient)
    assert [BOTH, BOTH] == ours[1:3]


def test_capabilities_of_programs_of_another_user() -> None:
    """The same for a user with capabilities from systemd, except for the bounding set, which only root can limit."""
    *programs, ours = shown(*user_with_capabilities())

    inheritable, permitted, effective, _, ambient = zip(*programs, strict=True)
    assert ((0, RAW, ADMIN, BOTH, 0),) * 4 == (inheritable, permitted, effective, ambient)
    assert [BOTH, BOTH] == ours[1:3]


def user_with_capabilities(*more: str) -> list[str]:
    """Words before a command that have another user than root run it, with the capabilities of the unit for systemd.

    In a user namespace there is no other user: there it is a root that has no other power either.
    """
    alone = int(Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2]) <= NOBODY
    who = ["--securebits=+noroot"] if alone else [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    names = ",".join(f"+{name}" for name in ("net_admin", "net_raw", "dac_read_search"))
    return ["setpriv", *who, f"--inh-caps=-all,{names}", f"--ambient-caps=-all,{names}", *more]


def test_a_missing_capability_prevents_the_program() -> None:
    """A program is not run without a configured capability."""

    async def main() -> None:
        with pytest.raises(OSError, match="itself lacks the capabilities to give: net_raw"):
            await Process.start(("true",), {}, (Capability.NET_RAW,))

    with Namespace("programs") as namespace:
        unprivileged(namespace, lambda: asyncio.run(main()))


def test_the_network_is_that_of_the_caller() -> None:
    """The programs of two loops run in the loops' two network namespaces."""

    async def main() -> bytes:
        process = await Process.start(("readlink", "/proc/self/ns/net"), {"PATH": "/usr/bin:/bin"})
        assert 0 == await process.wait()
        return process.output().strip()

    with Namespace("one") as first, Namespace("two") as two:
        found = [namespace.call(lambda: asyncio.run(main())) for namespace in (first, two, first)]
        assert [
            os.fsencode(f"net:[{os.fstat(namespace.fileno()).st_ino}]") for namespace in (first, two, first)
        ] == found


# --- strays ----------------------------------------------------------------------------------------------------------

# Starts a separate process, so that strays of the test runner do not matter.
BEGIN = """
import asyncio, os, sys, time
from nftlb.programs import STRAYS, Process

FILE = sys.argv[1]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "FILE": FILE}

async def script(text, **options):
    return await Process.start(("sh", "-c", text), ENVIRONMENT, **options)

def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

async def pids(count):
    async with asyncio.timeout(30):
        while not os.path.exists(FILE) or len(found := open(FILE).read().split()) < count:
            await asyncio.sleep(0.01)
    return [int(pid) for pid in found]

async def gone(count=1):
    async with asyncio.timeout(30):
        while any(map(alive, await pids(count))):
            await asyncio.sleep(0.01)

def zombies():
    found = []
    for task in os.listdir("/proc/self/task"):
        found += open(f"/proc/self/task/{task}/children").read().split()
    return len(found)

async def without_children():
    async with asyncio.timeout(30):
        while zombies():
            await asyncio.sleep(0.01)

STRAY = "setsid sh -c 'echo $$ >> $FILE; exec sleep 1000' &"
# The shell in the middle ends at once, so that the stray is our child from the start.
ORPHAN = "(setsid sh -c 'echo $$ >> $FILE; exec sleep 1000' &); "
WRITTEN = "while ! [ -s $FILE ]; do sleep 0.01; done"
WRITTEN_TWICE = "while ! [ -s $FILE ] || [ $(wc -l < $FILE) -lt 2 ]; do sleep 0.01; done"

async def main():
    STRAYS.adopt()
"""
END = """
    await STRAYS.close()
    print("fine")

asyncio.run(main())
"""


def play(body: str, tmp_path: Path) -> None:
    """Run this code between BEGIN and END."""
    program = BEGIN + textwrap.indent(textwrap.dedent(body), "    ") + END
    argv = [sys.executable, "-c", program, str(tmp_path / "pids")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert ("fine\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("kind", ["STRAY", "ORPHAN"])
def test_strays_are_killed_when_the_program_ends(kind: str, tmp_path: Path) -> None:
    """A stray is killed and reaped as soon as the program has ended, in whatever session it is."""
    play(
        f"""
        await (await script({kind} + WRITTEN)).wait()
        await gone()
        await without_children()
        """,
        tmp_path,
    )


def test_a_timed_out_program_is_killed_with_its_strays(tmp_path: Path) -> None:
    """A check that times out kills its program and all processes that the program started, strays too."""
    play(
        """
        nested = "setsid sh -c 'echo $$ >> $FILE; " + STRAY.replace("'", '"') + " exec sleep 1000' &"
        process = await script(nested + "sleep 1000")
        await pids(2)
        await process.end()
        await gone(2)
        await without_children()
        """,
        tmp_path,
    )


def test_strays_of_a_running_program_are_not_killed(tmp_path: Path) -> None:
    """A running program may have orphaned processes; the strays of other programs are killed meanwhile."""
    play(
        """
        old = await script(ORPHAN + "sleep 1000")
        (first,) = await pids(1)
        await asyncio.sleep(0.1)  # by the kernel's clock it was started before the next program
        young = await script(ORPHAN + WRITTEN_TWICE)
        await young.wait()
        for _ in range(5):
            STRAYS._sweep()
        assert [True, True] == [alive(pid) for pid in await pids(2)]
        await old.end()
        await gone(2)
        """,
        tmp_path,
    )


def test_processes_of_a_hook_have_the_time_limit_of_the_hook(tmp_path: Path) -> None:
    """A hook may end before the processes that it started: all have until its time limit, in whatever session."""
    play(
        """
        began = time.monotonic()
        text = STRAY + "sh -c 'echo $$ >> $FILE; exec sleep 1000' & " + WRITTEN_TWICE
        hook = await script(text, keep_output=False, leaves=2.0)
        await hook.wait()
        await gone(2)
        assert time.monotonic() - began > 1.9
        await without_children()
        """,
        tmp_path,
    )


def test_close_kills_all_strays(tmp_path: Path) -> None:
    """`close` kills all strays, also if they start new processes repeatedly."""
    play(
        """
        await script(STRAY * 20 + "sleep 1000")
        found = await pids(20)
        for process in list(STRAYS._programs):
            await process.end()
        await STRAYS.close()
        assert not any(map(alive, found))
        assert zombies() == 0
        """,
        tmp_path,
    )


def test_other_children_are_not_killed(tmp_path: Path) -> None:
    """Earlier children and children in our own session are not strays."""
    play(
        """
        import subprocess
        inside = subprocess.Popen(["sleep", "1000"])
        await (await script(STRAY + WRITTEN)).wait()
        await gone()
        assert inside.poll() is None
        inside.kill()
        inside.wait()
        """,
        tmp_path,
    )


# --- starts ----------------------------------------------------------------------------------------------------------


def test_a_start_that_is_given_up(tmp_path: Path) -> None:
    """A program whose file can't be opened delays no other program; it is killed when it starts after all."""
    play(
        """
        import threading
        from nftlb import programs
        opened, reach = threading.Event(), programs._reach
        programs._reach = lambda program, *more: opened.wait(30) if program == "sh" else reach(program, *more)
        files = len(os.listdir("/proc/self/fd"))
        start = asyncio.create_task(script("sleep 1000"))
        next_ = asyncio.create_task(script("sleep 1000"))  # waits for the same thread
        assert 0 == await (await Process.start(("true",), ENVIRONMENT)).wait()
        for given_up in (start, next_):
            given_up.cancel()
        await asyncio.wait([start, next_])
        assert start.cancelled() and next_.cancelled()
        opened.set()
        async with asyncio.timeout(30):
            while programs.starts_for("sh", ()):
                await asyncio.sleep(0.01)
        await without_children()
        assert files == len(os.listdir("/proc/self/fd"))
        """,
        tmp_path,
    )


def test_strays_are_killed_while_a_start_hangs(tmp_path: Path) -> None:
    """A program whose file can't be opened has no processes: the strays of other programs are killed."""
    play(
        """
        import threading
        from nftlb import programs
        opened, reached, reach = threading.Event(), threading.Event(), programs._reach

        def reach_slowly(program, *more):
            if program == "true":
                reached.set()
                opened.wait(60)
            reach(program, *more)

        programs._reach = reach_slowly
        start = asyncio.create_task(Process.start(("true",), ENVIRONMENT))
        await asyncio.to_thread(reached.wait, 30)
        await (await script(STRAY + WRITTEN)).wait()
        await gone()
        opened.set()
        assert 0 == await (await start).wait()
        await without_children()
        """,
        tmp_path,
    )


def test_the_files_that_a_start_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter of a script is on a dead file system: it is opened too, before all threads wait for exec(2)."""
    script, interpreter = tmp_path / "script", tmp_path / "interpreter"
    script.write_text(f"#! {interpreter} -x\n")
    interpreter.write_text("#!/bin/sh\n")
    for file in (script, interpreter):
        file.chmod(0o755)
    opened: list[str] = []

    def record(file: str | bytes, *arguments: Any, **options: Any) -> Any:
        opened.append(os.fsdecode(file))
        return open(file, *arguments, **options)  # noqa: PTH123

    monkeypatch.setattr(programs, "open", record, raising=False)
    programs._reach("script", {"PATH": str(tmp_path)})
    assert [str(script), str(interpreter), "/bin/sh"] == opened


def test_a_program_that_has_just_started_is_no_stray(tmp_path: Path) -> None:
    """A program may end before the loop knows its process id: its exit status is not lost."""
    play(
        """
        import threading
        from nftlb import programs
        begun, known, begin = threading.Event(), threading.Event(), programs._begin

        def begin_slowly(*arguments, **options):
            found = begin(*arguments, **options)
            os.waitid(os.P_PID, found.process.pid, os.WEXITED | os.WNOWAIT)
            begun.set()
            known.wait(30)
            return found

        programs._begin = begin_slowly
        start = asyncio.create_task(script("exit 3"))
        await asyncio.to_thread(begun.wait, 30)
        STRAYS._sweep()
        known.set()
        assert 3 == await (await start).wait()
        await without_children()
        """,
        tmp_path,
    )
