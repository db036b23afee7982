"""The state directory: saving, damaged files and obstacles."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nftlb.daemon.store import Store
from nftlb.health import Memory, PoolMemory
from nftlb.health.memory import write_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOMETHING = Memory(format=1, pools={"dns": PoolMemory(removed=("ns1",))})
OTHER = Memory(format=1, pools={"dns": PoolMemory(removed=("ns2",))})

ON_A_SMALL_DISK = """
mount -t tmpfs -o size=64k tmpfs "$1"
cp "$3" "$1/nftlb.json"
case $2 in
full) head -c 48k /dev/zero > "$1/ballast" ;;
read-only) mount -o remount,bind,ro "$1" ;;
esac
exec "$4" -c "$5" "$1"
"""
SAVE = """
import sys
from nftlb.daemon.store import Store
from nftlb.health import Memory, PoolMemory
store = Store(sys.argv[1], "nftlb")
try:
    store.save(Memory(format=1, pools={"big": PoolMemory(removed=tuple(map(str, range(9999))))}))
except OSError as error:
    print(error.errno)
memory, trouble = store.load()
print(memory.pools["dns"].removed, trouble)
"""


def test_without_a_file_there_is_no_saved_state(tmp_path: Path) -> None:
    """Without a file or directory there is no saved state, and no error."""
    assert (None, "") == Store(str(tmp_path), "nftlb").load()
    assert (None, "") == Store(str(tmp_path / "not" / "there"), "nftlb").load()


def test_a_saved_state_is_loaded_by_another_process(tmp_path: Path) -> None:
    """A saved state is read by another process. The directory is created for the owner only."""
    directory = tmp_path / "var" / "nftlb"
    Store(str(directory), "nftlb").save(SOMETHING)

    assert (SOMETHING, "") == Store(str(directory), "nftlb").load()
    assert 0o700 == directory.stat().st_mode & 0o777
    assert 0o600 == (directory / "nftlb.json").stat().st_mode & 0o777


def test_tables_do_not_share(tmp_path: Path) -> None:
    """Daemons of two tables may have one directory."""
    Store(str(tmp_path), "one").save(SOMETHING)
    Store(str(tmp_path), "two").save(OTHER)

    assert (SOMETHING, "") == Store(str(tmp_path), "one").load()


def test_an_unchanged_state_is_not_written_again(tmp_path: Path) -> None:
    """An unchanged state is not written again, unless the file is missing."""
    store, file = Store(str(tmp_path), "nftlb"), tmp_path / "nftlb.json"
    store.save(SOMETHING)
    before = file.stat().st_ino
    store.save(SOMETHING)
    assert before == file.stat().st_ino

    file.unlink()
    store.save(SOMETHING)
    assert (SOMETHING, "") == store.load()

    store.save(OTHER)
    assert (OTHER, "") == store.load()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        write_memory(SOMETHING)[:-3].encode(),
        b'{"hello": "world"}',
        b'{"format": 2, "table": "nftlb"}',
        b"\xff\0\xff",
    ],
    ids=["empty", "torn", "foreign", "newer", "binary"],
)
def test_a_bad_file_is_set_aside(text: bytes, tmp_path: Path) -> None:
    """A damaged file is reported and renamed, and a new file can be saved."""
    (tmp_path / "nftlb.json").write_bytes(text)
    store = Store(str(tmp_path), "nftlb")

    memory, trouble = store.load()

    assert memory is None
    assert trouble.startswith(f"{tmp_path}/nftlb.json is damaged or was not written by nftlb (")
    assert trouble.endswith("): it was renamed to nftlb.bad")
    assert text == (tmp_path / "nftlb.bad").read_bytes()
    assert (None, "") == store.load()
    store.save(SOMETHING)
    assert (SOMETHING, "") == store.load()


def test_an_earlier_bad_file_stays(tmp_path: Path) -> None:
    """Each bad file gets a new name. If there are many, the last is replaced."""
    store, names = Store(str(tmp_path), "nftlb"), []
    for number in range(1, 12):
        (tmp_path / "nftlb.json").write_text(f"bad {number}")
        names.append(store.load()[1].rpartition(" ")[2])

    several = [f"nftlb.{number}.bad" for number in range(2, 10)]
    assert ["nftlb.bad", *several, "nftlb.9.bad", "nftlb.9.bad"] == names
    kept = [(tmp_path / name).read_text() for name in names[:9]]
    assert [*(f"bad {number}" for number in range(1, 9)), "bad 11"] == kept


def test_a_crash_while_saving_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays until the new file is complete; a leftover temporary file does no harm."""
    store = Store(str(tmp_path), "nftlb")
    store.save(SOMETHING)
    with monkeypatch.context() as crash:

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "input/output error")

        crash.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="input/output error"):
            store.save(OTHER)
    assert (SOMETHING, "") == store.load()

    store.save(OTHER)
    assert (OTHER, "") == store.load()
    assert [tmp_path / "nftlb.json"] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("disk", "error"), [("full", errno.ENOSPC), ("read-only", errno.EROFS)])
def test_on_a_full_disk_the_old_file_stays(disk: str, error: int, tmp_path: Path) -> None:
    """save() raises OSError on a full disk, and the old file stays."""
    mount, good = tmp_path / "mount", tmp_path / "good.json"
    mount.mkdir()
    good.write_text(write_memory(SOMETHING))
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-euc",
        ON_A_SMALL_DISK,
        "sh",
        *map(str, (mount, disk, good)),
        sys.executable,
        SAVE,
    ]

    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert f"{error}\n('ns1',) \n" == done.stdout


def test_a_symbolic_link_in_its_place(tmp_path: Path) -> None:
    """save() replaces a symbolic link, and leaves its target alone."""
    other = tmp_path / "precious"
    other.write_text(write_memory(SOMETHING))
    (tmp_path / "nftlb.json").symlink_to(other)
    store = Store(str(tmp_path), "nftlb")

    assert (SOMETHING, "") == store.load()
    store.save(OTHER)

    assert write_memory(SOMETHING) == other.read_text()
    assert not (tmp_path / "nftlb.json").is_symlink()
    assert (OTHER, "") == store.load()


def test_a_symbolic_link_to_write_through(tmp_path: Path) -> None:
    """save() does not write through a symbolic link in the place of the temporary file."""
    other = tmp_path / "precious"
    other.write_text("precious")
    (tmp_path / "nftlb.new").symlink_to(other)

    with pytest.raises(OSError, match="symbolic links"):
        Store(str(tmp_path), "nftlb").save(SOMETHING)

    assert "precious" == other.read_text()


@pytest.mark.parametrize("name", ["nftlb.json", "."])
def test_something_else_in_its_place(name: str, tmp_path: Path) -> None:
    """load() and save() raise OSError if a directory is in the place of the file or the reverse."""
    directory = tmp_path / "state"
    if name == ".":
        directory.write_text("a file")
    else:
        (directory / name).mkdir(parents=True)
    store = Store(str(directory), "nftlb")

    with pytest.raises(OSError, match=r"irectory|not a regular file"):
        store.load()
    with pytest.raises(OSError, match=r"irectory|File exists"):
        store.save(SOMETHING)


@pytest.fixture(params=["fifo", "socket", "link to a device"])
def obstacle(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Puts an object in the place of a file on which open(2) could wait."""

    def lay(path: Path) -> None:
        match request.param:
            case "fifo":
                os.mkfifo(path)
            case "socket":
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(path))
            case _:
                path.symlink_to("/dev/zero")

    return lay


def test_objects_other_than_files_never_block(obstacle: Callable[[Path], None], tmp_path: Path) -> None:
    """Such an object is reported and replaced; in the place of the temporary file, save() fails at once."""
    obstacle(tmp_path / "nftlb.json")
    store = Store(str(tmp_path), "nftlb")

    with pytest.raises(OSError, match="not a regular file"):
        store.load()
    store.save(SOMETHING)
    assert (SOMETHING, "") == store.load()

    obstacle(tmp_path / "nftlb.new")
    with pytest.raises(OSError, match=r"No such device|not a regular file|symbolic links"):
        store.save(OTHER)
    assert (SOMETHING, "") == store.load()


def test_a_file_of_gigabytes(tmp_path: Path) -> None:
    """A sparse file that a crash left is renamed like any other bad file."""
    with (tmp_path / "nftlb.json").open("wb") as file:
        file.truncate(1 << 30)

    memory, trouble = Store(str(tmp_path), "nftlb").load()

    assert memory is None
    assert "(larger than 64 MiB): it was renamed to nftlb.bad" in trouble
