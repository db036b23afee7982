"""The state directory: one file a table, replaced as a whole, so that a reader sees the old text or the new."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.health import memory as text

if TYPE_CHECKING:
    from nftlb.health import Memory

_MOST_BYTES = 64 * 1024 * 1024


class Store:
    """Where the memory of one table is kept. The methods raise OSError; nothing is half done then."""

    def __init__(self, directory: str, table: str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / f"{table}.json"
        self._written = ""

    def __str__(self) -> str:
        return str(self._path)

    def load(self) -> tuple[Memory | None, str]:
        """What is remembered, None if nothing is; and, if the file was no good, why and where it was put."""
        try:
            with self._path.open("rb") as file:
                found = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None, ""
        try:
            return text.read(found), ""
        except ValueError as error:
            aside = self._path.with_suffix(".bad")
            self._path.replace(aside)
            return None, f"{self._path} is not ours, or torn ({error}): it was set aside as {aside.name}"

    def save(self, memory: Memory) -> None:
        """Remember this instead; costs nothing if it is what was saved last."""
        new = text.write(memory)
        if new == self._written and self._path.exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(new)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(self._path)
        self._sync_directory()
        self._written = new

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
