"""The state directory: what is remembered of a table, and its last good configuration, a file each.

They are replaced as a whole, so that a reader sees the old text or the new.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.health import memory as text

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
            with self._path.open("rb") as file:
                found = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None
        return text.read(found)

    def save(self, memory: Memory) -> None:
        """Remember this instead; costs nothing if it is what was saved last."""
        self._replace(self._path, text.write(memory).encode())

    def keep(self, file: str, source: bytes) -> None:
        """Keep the text of a configuration file that is in the kernel now, for `nftlb restore`."""
        name = os.fsencode(Path(file).absolute())
        self._replace(self._copy, b"%s%s\n%s" % (_TELLS.encode(), name, source))

    def _replace(self, path: Path, new: bytes) -> None:
        if new == self._written.get(path) and path.exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
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


def last_good(directory: str, file: str) -> Path | None:
    """The copy that was kept of a configuration file: the newest, should its table have had other names before."""
    first = os.fsencode(f"{_TELLS}{Path(file).absolute()}\n")
    copies = []
    for copy in Path(directory).glob("*.yaml"):
        with suppress(OSError), copy.open("rb") as opened:
            if opened.readline(len(first)) == first:
                copies.append((os.fstat(opened.fileno()).st_mtime, copy))
    return max(copies, default=(0.0, None))[1]
