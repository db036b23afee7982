"""Only one writes a table; no stranger has a say in that."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unprivileged import NOBODY, ordinary_user

from nftlb.errors import SystemFault
from nftlb.kernel import lock
from nftlb.kernel.lock import hold
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLD = """
import pathlib, sys
from nftlb.kernel import lock
lock.FOLDER = pathlib.Path(sys.argv[2])
held = lock.hold(sys.argv[1])
print("held", flush=True)
input()
"""
TABLE = "lock_of_a_test"
MISSING = Path("/proc/no/nftlb")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /run/nftlb, which the first lock makes."""
    folder = tmp_path / "nftlb"
    monkeypatch.setattr(lock, "FOLDER", folder)
    return folder


def command(folder: Path) -> list[str]:
    return [sys.executable, "-c", HOLD, TABLE, str(folder)]


@contextmanager
def elsewhere(folder: Path, wrapper: list[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with subprocess.Popen(
        [*(wrapper or []), *command(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert "held\n" == process.stdout.readline()
            yield process
        finally:
            process.kill()


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_second_lock_is_refused() -> None:
    """While one holds it, another of the same table can't; one of another table can; afterwards it is free."""
    with hold(TABLE):
        with pytest.raises(SystemFault, match=f"another nftlb runs for the table {TABLE}.*: process {os.getpid()} "):
            hold(TABLE)
        with hold(f"{TABLE}_2"), pytest.raises(SystemFault):
            hold(TABLE)
    hold(TABLE).close()


def test_another_network_namespace_is_another_matter() -> None:
    """As tables belong to a namespace, so does the lock, though the folder is the same."""
    with hold(TABLE), Namespace("other") as other, other.call(hold, TABLE), pytest.raises(SystemFault):
        other.call(hold, TABLE)


def test_the_holder_is_named(folder: Path) -> None:
    """The process by its number, what its command was, and since when; control characters do not get through."""
    with elsewhere(folder) as process:
        with pytest.raises(SystemFault) as refused:
            hold(TABLE)
        said = str(refused.value)
        assert f": process {process.pid} (`-c {TABLE} {folder}`, since 20" in said
        assert " UTC): stop it, have it `nftlb reload`" in said
        the_file(folder).write_text("`nftlb\x1b[2J\nx:1:`")
        with pytest.raises(SystemFault, match=rf"process {process.pid} \(`nftlb\?\[2J\?x:1:`\)"):
            hold(TABLE)


def test_the_lock_is_free_after_kill_9(folder: Path) -> None:
    """The kernel gives it back however the process ends; the file that stays says nothing."""
    with elsewhere(folder) as process:
        process.kill()
        process.wait(20)
        assert the_file(folder).read_text()
        with hold(TABLE), pytest.raises(SystemFault, match=f"process {os.getpid()} "):
            hold(TABLE)


def test_children_do_not_hold_the_lock(folder: Path) -> None:
    """A child holds up nobody once its parent has ended: neither a hook, nor a process that was only forked."""
    script = HOLD.replace(
        "input()", "import os, time\nif not os.fork():\n    print(os.getpid(), flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, TABLE, str(folder)], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert "held\n" == one.stdout.readline()
        child = int(one.stdout.readline())
        try:
            one.wait(20)
            hold(TABLE).close()
        finally:
            os.kill(child, signal.SIGKILL)
    with hold(TABLE):
        opened = {Path(one).resolve() for one in Path("/proc/self/fd").iterdir()}
        assert the_file(folder) in opened
        listing = subprocess.run(["ls", "-l", "/proc/self/fd"], check=True, capture_output=True, text=True)
        assert str(folder) not in listing.stdout


def test_nothing_is_left_behind(folder: Path) -> None:
    """The folder does not grow with each namespace that there ever was."""
    hold(TABLE).close()
    assert [] == list(folder.iterdir())


def test_the_file_goes_while_another_process_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that its holder has just removed is no lock: the next process would make another file."""
    first = hold(TABLE)
    removed: list[bool] = []
    lockf = fcntl.lockf

    def late(file: int, how: int) -> None:
        if not removed:
            removed.append(True)
            first.close()
            (folder / "hurdle").touch()  # so that no new file has the number of the old one
        lockf(file, how)

    lock._held.clear()  # as if another process had the first
    monkeypatch.setattr(fcntl, "lockf", late)
    with hold(TABLE):
        assert removed
        (folder / "hurdle").unlink()
        refused = subprocess.run(command(folder), check=False, capture_output=True, text=True, timeout=30)
        assert f"process {os.getpid()}" in refused.stderr


# --- strangers -------------------------------------------------------------------------------------------------------


def test_an_abstract_socket_of_a_stranger_does_not_matter() -> None:
    """Any local user can bind that name, which was the lock of earlier versions."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(f"\0nftlb/{TABLE}")
        hold(TABLE).close()


def test_a_stranger_can_neither_take_nor_read_the_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and the file are for their owner, whatever the umask of who made them."""
    before = os.umask(0)
    try:
        held = hold(TABLE)
    finally:
        os.umask(before)
    with held:
        assert (0o755, 0o600) == (folder.stat().st_mode & 0o777, the_file(folder).stat().st_mode & 0o777)
    monkeypatch.setattr(lock, "FOLDER", folder.with_name("second"))
    before = os.umask(0o077)
    try:
        hold(TABLE).close()
    finally:
        os.umask(before)
    assert 0o755 == Path(lock.FOLDER).stat().st_mode & 0o777


def test_root_makes_the_lock_for_the_user_of_the_daemon(folder: Path) -> None:
    """After `nftlb apply` by root the daemon's user can have the lock; before, that user is told who holds it."""
    folder.mkdir()
    *_, length = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    daemon = NOBODY if int(length) > NOBODY else 0  # a user namespace of the lab has no other user
    os.chown(folder, daemon, daemon)
    with hold(TABLE):
        assert daemon == the_file(folder).stat().st_uid
        refused = subprocess.run(
            [*ordinary_user(), *command(folder)], check=False, capture_output=True, text=True, timeout=30
        )
        assert f": process {os.getpid()} (" in refused.stderr
    with elsewhere(folder, ordinary_user()) as process, pytest.raises(SystemFault, match=f": process {process.pid} "):
        hold(TABLE)


def _file(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """What is there in the place of the lock's file."""

    def prepare(folder: Path) -> None:
        with hold(TABLE):
            name = the_file(folder).name
        make(folder / name)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        pytest.param(lambda folder: folder.mkdir() or folder.chmod(0o777), "can be written by others", id="world"),
        pytest.param(lambda folder: folder.mkdir() or folder.chmod(0o775), r"mode 0775.*chmod go-w", id="group"),
        pytest.param(lambda folder: folder.symlink_to("/tmp"), "is no folder", id="link"),  # noqa: S108
        pytest.param(lambda folder: folder.write_text(""), "is no folder", id="file"),
        pytest.param(_file(os.mkfifo), "is not a lock of nftlb's", id="fifo"),
        pytest.param(
            _file(lambda path: path.symlink_to("/etc/passwd")), "can't be had: Too many levels", id="file-link"
        ),
        pytest.param(
            _file(lambda path: path.touch(0o644)), r"mode -rw-r--r--.*needed: a file with mode 0600", id="mode"
        ),
        pytest.param(_file(Path.mkdir), "can't be had: Is a directory", id="file-folder"),
    ],
)
def test_what_a_stranger_could_use_is_refused(prepare: Callable[[Path], object], said: str, folder: Path) -> None:
    """And left as it is, with the words to mend it."""
    prepare(folder)
    with pytest.raises(SystemFault, match=said):
        hold(TABLE)


# --- without the folder ----------------------------------------------------------------------------------------------


def test_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /run is missing or read-only, the message says what is needed; so for an ordinary user."""
    monkeypatch.setattr(lock, "_in_user_namespace", lambda: False)
    monkeypatch.setattr(lock, "FOLDER", MISSING)
    with pytest.raises(SystemFault, match=r"can't be had: No such file.*install -d -m 755 -o USER.*tmpfs on /run"):
        hold(TABLE)


def test_a_user_namespace_needs_no_folder() -> None:
    """Nobody else can enter its network: there an abstract socket is the lock."""
    inside = ["unshare", "--user", "--map-root-user", "--net"]
    with elsewhere(MISSING, inside) as process:
        again = ["nsenter", f"--user=/proc/{process.pid}/ns/user", f"--net=/proc/{process.pid}/ns/net"]
        refused = subprocess.run(
            [*again, "--preserve-credentials", *command(MISSING)],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert f"another nftlb runs for the table {TABLE}" in refused.stderr
        assert 0 < refused.returncode
