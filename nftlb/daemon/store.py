"""The state directory: what is remembered of a table, and its last good configuration, a file each.

They are replaced as a whole, so that a reader sees the old text or the new.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.files import NotRegularError, opened_regular, read_from, read_regular
from nftlb.health import memory as text
from nftlb.preload import place

if TYPE_CHECKING:
    from nftlb.health import Memory

_MOST_BYTES = 64 * 1024 * 1024

_TELLS = "# The last good "
"""Begins the first line of a copy; the name of the file that it is of follows."""


class Store:
    """Where the memory of one table is kept. The methods raise OSError; nothing is half done then."""

    def __init__(self, directory: str, table: str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / f"{table}.json"
        self._copy = self._directory / f"{table}.yaml"
        self._prepared = Path(place(directory, table))
        self._written: dict[Path, bytes] = {}

    def __str__(self) -> str:
        return str(self._path)

    def load(self) -> tuple[Memory | None, str]:
        """What is remembered, None if nothing is; and, if the file was no good, why and where it was put."""
        try:
            return self.look(), ""
        except ValueError as error:
            aside = self._path.with_suffix(".bad")
            self._path.replace(aside)
            return None, f"{self._path} is not ours, or torn ({error}): it was set aside as {aside.name}"

    def look(self) -> Memory | None:
        """What is remembered, None if nothing is. Raises ValueError if it is no good, and leaves it where it is."""
        try:
            found = read_regular(self._path, _MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(found) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES >> 20} MiB")
        return text.read(found)

    def save(self, memory: Memory) -> None:
        """Remember this instead; costs nothing if it is what was saved last."""
        self._replace(self._path, text.write(memory).encode())

    def keep(self, file: str, source: bytes) -> None:
        """Keep the text of a configuration file that is in the kernel now, for `nftlb restore`."""
        name = os.fsencode(Path(file).absolute())
        self._replace(self._copy, b"%s%s\n%s" % (_TELLS.encode(), name, source))

    def prepare(self, content: bytes | None) -> None:
        """Keep what the next start loads first; None: nothing."""
        if content is None:
            self._prepared.unlink(missing_ok=True)
        else:
            self._replace(self._prepared, content)

    def _replace(self, path: Path, new: bytes) -> None:
        if new == self._written.get(path) and path.exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        # What is there may be no file: a FIFO that nobody reads from would hold up open(2) for ever.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotRegularError(errno.EINVAL, f"{temporary} is not a regular file")
            os.ftruncate(descriptor, 0)
            os.fchmod(descriptor, 0o600)
            opened.write(new)
            opened.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        self._sync_directory()
        self._written[path] = new

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def last_good(directory: str | Path, file: str) -> Path | None:
    """The copy that was kept of a configuration file: the newest, should its table have had other names before.

    It says which programs are run, so it has to be a file of root's, of this user's, or of the directory's owner, which
    nobody else may write.
    """
    first = os.fsencode(f"{_TELLS}{Path(file).absolute()}\n")
    copies = []
    for copy in Path(directory).glob("*.yaml"):
        with suppress(OSError), opened_regular(copy, os.O_NOFOLLOW) as descriptor:
            status = os.fstat(descriptor)
            owners = {0, os.geteuid(), copy.parent.stat().st_uid}
            trusted = status.st_uid in owners and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if trusted and read_from(descriptor, len(first)) == first:
                copies.append((status.st_mtime, copy))
    return max(copies, default=(0.0, None))[1]


def kept(copy: Path) -> bytes:
    """The text of a configuration file that a copy was kept of. Raises OSError."""
    with opened_regular(copy, os.O_NOFOLLOW) as descriptor:
        return read_from(descriptor, _MOST_BYTES).partition(b"\n")[2]
