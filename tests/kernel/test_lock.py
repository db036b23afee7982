"""The lock: only one process writes a table, and other users can't interfere."""

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
from nftlb.kernel.lock import hold_lock
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLD = """
import pathlib, sys
from nftlb.kernel import lock
lock.FOLDER = pathlib.Path(sys.argv[2])
held = lock.hold_lock(sys.argv[1])
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
    (found,) = folder.glob("*.lock")
    return found


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_second_lock_is_refused() -> None:
    """While a process holds the lock, only other tables can be locked. Afterwards the lock is free."""
    with hold_lock(TABLE):
        with pytest.raises(SystemFault, match=f"another nftlb runs for the table {TABLE}.*: process {os.getpid()} "):
            hold_lock(TABLE)
        with hold_lock(f"{TABLE}_2"), pytest.raises(SystemFault):
            hold_lock(TABLE)
    hold_lock(TABLE).close()


def test_each_network_namespace_has_its_own_lock() -> None:
    """Each network namespace has its own lock, though the folder is the same."""
    with hold_lock(TABLE), Namespace("other") as other, other.call(hold_lock, TABLE), pytest.raises(SystemFault):
        other.call(hold_lock, TABLE)


def test_the_holder_is_named(folder: Path) -> None:
    """The message names the holder's process id, command and start, without control characters."""
    with elsewhere(folder) as process:
        with pytest.raises(SystemFault) as refused:
            hold_lock(TABLE)
        said = str(refused.value)
        assert f": process {process.pid} (`-c {TABLE} {folder}`, since 20" in said
        assert " UTC): stop it, use `nftlb reload`" in said
        the_file(folder).write_text("`nftlb\x1b[2J\nx:1:`")
        with pytest.raises(SystemFault, match=rf"process {process.pid} \(`nftlb\?\[2J\?x:1:`\)"):
            hold_lock(TABLE)


def test_the_lock_is_free_after_kill_9(folder: Path) -> None:
    """The kernel releases the lock however the process ends; a file that stays does not matter."""
    with elsewhere(folder) as process:
        process.kill()
        process.wait(20)
        assert the_file(folder).read_text()
        with hold_lock(TABLE), pytest.raises(SystemFault, match=f"process {os.getpid()} "):
            hold_lock(TABLE)


def test_children_do_not_hold_the_lock(folder: Path) -> None:
    """After the end of the parent, its children hold no lock: neither a hook nor a forked process."""
    script = HOLD.replace(
        "input()", "import os, time\nif not os.fork():\n    print(os.getpid(), flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, TABLE, str(folder)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert "held\n" == parent.stdout.readline()
        child = int(parent.stdout.readline())
        try:
            parent.wait(20)
            hold_lock(TABLE).close()
        finally:
            os.kill(child, signal.SIGKILL)
    with hold_lock(TABLE):
        opened = {Path(path).resolve() for path in Path("/proc/self/fd").iterdir()}
        assert the_file(folder) in opened
        listing = subprocess.run(["ls", "-l", "/proc/self/fd"], check=True, capture_output=True, text=True)
        assert str(folder) not in listing.stdout


def test_nothing_is_left_behind(folder: Path) -> None:
    """The lock file is deleted. One empty file for each table stays, which nftlb/preload.sh reads."""
    hold_lock(TABLE).close()
    assert [f"{TABLE}.used"] == [path.name for path in folder.iterdir()]


def test_a_lock_on_a_deleted_file_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that its holder has just deleted does not count: the next process would make a new file."""
    first = hold_lock(TABLE)
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
    with hold_lock(TABLE):
        assert removed
        (folder / "hurdle").unlink()
        refused = subprocess.run(command(folder), check=False, capture_output=True, text=True, timeout=30)
        assert f"process {os.getpid()}" in refused.stderr


# --- strangers -------------------------------------------------------------------------------------------------------


def test_a_foreign_abstract_socket_does_not_matter() -> None:
    """A foreign abstract socket, the lock of earlier versions, does not matter: any local user can bind its name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(f"\0nftlb/{TABLE}")
        hold_lock(TABLE).close()


def test_only_the_owner_can_take_or_read_the_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the owner can write to the folder and the file, whatever the umask was."""
    before = os.umask(0)
    try:
        held = hold_lock(TABLE)
    finally:
        os.umask(before)
    with held:
        assert (0o755, 0o600) == (folder.stat().st_mode & 0o777, the_file(folder).stat().st_mode & 0o777)
    monkeypatch.setattr(lock, "FOLDER", folder.with_name("second"))
    before = os.umask(0o077)
    try:
        hold_lock(TABLE).close()
    finally:
        os.umask(before)
    assert 0o755 == Path(lock.FOLDER).stat().st_mode & 0o777


def test_root_makes_the_lock_for_the_user_of_the_daemon(folder: Path) -> None:
    """After root's `nftlb apply` the daemon's user can take the lock; before, the message names the holder."""
    folder.mkdir()
    *_, length = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    daemon = NOBODY if int(length) > NOBODY else 0  # a user namespace of the lab has no other user
    os.chown(folder, daemon, daemon)
    with hold_lock(TABLE):
        assert daemon == the_file(folder).stat().st_uid
        refused = subprocess.run(
            [*ordinary_user(), *command(folder)], check=False, capture_output=True, text=True, timeout=30
        )
        assert f": process {os.getpid()} (" in refused.stderr
    with elsewhere(folder, ordinary_user()) as process, pytest.raises(SystemFault, match=f": process {process.pid} "):
        hold_lock(TABLE)


def _file(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else in the place of the lock's file."""

    def prepare(folder: Path) -> None:
        with hold_lock(TABLE):
            name = the_file(folder).name
        make(folder / name)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        pytest.param(lambda folder: folder.mkdir() or folder.chmod(0o777), "can be written by others", id="world"),
        pytest.param(lambda folder: folder.mkdir() or folder.chmod(0o775), r"mode 0775.*chmod go-w", id="group"),
        pytest.param(lambda folder: folder.symlink_to("/tmp"), "is not a folder", id="link"),  # noqa: S108
        pytest.param(lambda folder: folder.write_text(""), "is not a folder", id="file"),
        pytest.param(_file(os.mkfifo), "is not a lock of nftlb ", id="fifo"),
        pytest.param(
            _file(lambda path: path.symlink_to("/etc/passwd")), "can't be taken: Too many levels", id="file-link"
        ),
        pytest.param(
            _file(lambda path: path.touch(0o644)), r"mode -rw-r--r--.*needed: a file with mode 0600", id="mode"
        ),
        pytest.param(_file(Path.mkdir), "can't be taken: Is a directory", id="file-folder"),
    ],
)
def test_a_lock_file_of_another_user_is_refused(prepare: Callable[[Path], object], said: str, folder: Path) -> None:
    """The foreign file is left alone, and the message says how to fix it."""
    prepare(folder)
    with pytest.raises(SystemFault, match=said):
        hold_lock(TABLE)


# --- without the folder ----------------------------------------------------------------------------------------------


def test_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """If /run is missing or read-only, or for an ordinary user, the message says what is needed."""
    monkeypatch.setattr(lock, "_in_user_namespace", lambda: False)
    monkeypatch.setattr(lock, "FOLDER", MISSING)
    with pytest.raises(SystemFault, match=r"can't be taken: No such file.*install -d -m 755 -o USER.*tmpfs on /run"):
        hold_lock(TABLE)


def test_a_user_namespace_needs_no_folder() -> None:
    """In a separate user namespace the lock is an abstract socket: no other user can enter that network."""
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
