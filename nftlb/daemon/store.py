"""The state directory: the saved state, the last events, the last good configuration and the prepared first load.

Each has a file or two. Each file is replaced as a whole, so that a reader sees the old text or the new text.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.files import NotRegularError, opened_regular, read_from, read_regular
from nftlb.health import memory as text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.health import Memory

_MOST_BYTES = 64 * 1024 * 1024

_SUMS = ".prepared"
"""The end of the name of the file with the sums, after the name of a table. The file with the rules adds `.nft`."""
_PREPARED = "# nftlb, prepared rules of "
"""The beginning of the sums; the name of the configuration file follows. nftlb/preload.sh reads this line."""
_MOST_BAD = 9
"""The number of bad files of a table that are kept."""
_ESCAPED = frozenset("\\\n\r")

_HEADER = "# The last good "
"""The beginning of the first line of a copy. The name of the configuration file follows."""


class Store:
    """The files of one table. Methods raise OSError; the files are then as before."""

    def __init__(self, directory: str, table: str) -> None:
        self._directory = Path(directory)
        self._path = self._directory / f"{table}.json"
        self._copy = self._directory / f"{table}.yaml"
        self._events = self._directory / f"{table}.events"
        self._sums = self._directory / f"{table}{_SUMS}"
        self._rules = self._directory / f"{table}{_SUMS}.nft"
        self._written: dict[Path, bytes] = {}

    def __str__(self) -> str:
        return str(self._path)

    def load(self) -> tuple[Memory | None, str]:
        """Read the saved state, None if there is none. Rename a bad file, and return the reason and the new name."""
        try:
            return self.look(), ""
        except ValueError as error:
            return None, f"{error}: it was renamed to {self.set_aside()}"

    def set_aside(self) -> str:
        """Rename the file of the saved state, so that the next save does not replace it. Return the new name.

        Earlier bad files stay, except for the last if there are many: the first may have the wishes of the operator.
        """
        names = [self._path.with_suffix(".bad")]
        names += [self._path.with_suffix(f".{number}.bad") for number in range(2, _MOST_BAD + 1)]
        free = (name for name in names if not os.path.lexists(name))
        return self._path.replace(next(free, names[-1])).name

    def look(self) -> Memory | None:
        """Read the saved state, None if there is none. Raises ValueError for a bad file, which stays where it is."""
        try:
            found = read_regular(self._path, _MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        try:
            if len(found) > _MOST_BYTES:
                raise ValueError(f"larger than {_MOST_BYTES >> 20} MiB")  # noqa: TRY301 - a reason as that of another text
            return text.read_memory(found)
        except ValueError as error:
            raise ValueError(f"{self._path} is damaged or was not written by nftlb ({error})") from None

    def save(self, memory: Memory) -> None:
        """Save a state. Writes nothing if it equals the last saved state."""
        self._replace(self._path, text.write_memory(memory).encode())

    def keep(self, file: str, source: bytes) -> None:
        """Keep a copy of a configuration file that the kernel has accepted, for the next start and `nftlb restore`."""
        name = os.fsencode(Path(file).absolute())
        self._replace(self._copy, b"%s%s\n%s" % (_HEADER.encode(), name, source))

    def keep_events(self, lines: bytes) -> None:
        """Keep the last events, for the history after the next start."""
        self._replace(self._events, lines)

    def events(self) -> bytes:
        """The events that were kept; empty if there are none, or if they can't be read."""
        try:
            return read_regular(self._events, _MOST_BYTES)
        except OSError:
            return b""

    def prepare(self, file: str, rules: bytes, made_of: Mapping[str, str]) -> None:
        """Keep the rules that nftlb/preload.sh loads for a configuration file, with the SHA-256 of their sources.

        The sums are written last: until then the old sums do not fit, and the rules are not used.
        """
        head = f"{_PREPARED}{Path(file).absolute()}"
        sums = {**made_of, str(self._rules): sha256(rules).hexdigest()}
        if any(set(line) & _ESCAPED for line in (head, *sums)):
            self.unprepare()  # sha256sum writes these names in another form
            return
        self._replace(self._rules, rules)
        self._forget_other_tables(head)
        lines = (head, *(f"{digest}  {path}" for path, digest in sums.items()))
        self._replace(self._sums, os.fsencode("".join(f"{line}\n" for line in lines)))

    def prepared(self) -> bytes:
        """The rules that are kept for the next start; empty if there are none."""
        try:
            return read_regular(self._rules, _MOST_BYTES)
        except FileNotFoundError:
            return b""

    def unprepare(self) -> None:
        """Delete the rules for the next start."""
        for path in (self._sums, self._rules):
            path.unlink(missing_ok=True)

    def _forget_other_tables(self, head: str) -> None:
        """Delete the rules for the same file from when its table had another name."""
        first = os.fsencode(f"{head}\n")
        for path in self._directory.glob(f"*{_SUMS}"):
            with suppress(OSError):
                if path != self._sums and read_regular(path, len(first)) == first:
                    path.unlink()
                    path.with_name(f"{path.name}.nft").unlink()

    def _replace(self, path: Path, new: bytes) -> None:
        if new == self._written.get(path) and path.exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        # The path may exist and not be a regular file: open(2) of a FIFO without a reader would never return.
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
    """The path of the newest copy of a configuration file; there are several if its table had other names before.

    A configuration names programs to run. So a copy counts only if root, this user or the owner of the directory owns
    it, and no other user may write it.
    """
    first = os.fsencode(f"{_HEADER}{Path(file).absolute()}\n")
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
    """The text of the configuration file in a copy. Raises OSError."""
    with opened_regular(copy, os.O_NOFOLLOW) as descriptor:
        return read_from(descriptor, _MOST_BYTES).partition(b"\n")[2]
