"""Files that keepalived's configuration includes, read below one folder."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from nftlb.config.document import MAX_BYTES
from nftlb.importer.lines import Source, UnreadError

_MOST_NAMES = 1024
"""Different names, that is; each is looked up once."""
_MOST_WORDS = 64
_BRACES = re.compile(r"\{([^{}]*)\}")


class Includes:
    """Finds what an `include` means, with `root` for keepalived's `/`. Nothing outside of it is read."""

    def __init__(self, root: str) -> None:
        self._root = Path(os.path.realpath(root))
        self._found: dict[str, list[Path]] = {}

    def directory(self, file: str) -> str:
        """The folder of a file as keepalived sees it."""
        path = Path(os.path.realpath(file)).parent
        return f"/{path.relative_to(self._root)}" if path.is_relative_to(self._root) else str(path)

    def __call__(self, pattern: str, within: Source) -> list[Source]:
        """Return the files of a name, which may have wildcards in its last part, and braces."""
        if not pattern.startswith("/") and within.directory is None:
            raise UnreadError("a name without its folder; give the file that includes it by its own name")
        name = os.path.normpath(f"{within.directory if not pattern.startswith('/') else ''}/{pattern}")
        if name not in self._found:
            if len(self._found) == _MOST_NAMES:
                raise UnreadError(f"one of more than {_MOST_NAMES} names of files; allowed: fewer")
            self._found[name] = [path for one in _spelled_out(name) for path in self._files(one)]
        if not self._found[name]:
            raise UnreadError(f"no such file in {self._root}")
        return [self._read(path) for path in self._found[name]]

    def _files(self, name: str) -> list[Path]:
        folder, last = os.path.split(name)
        where = self._root / folder.lstrip("/")
        if any(character in folder for character in "*?["):
            raise UnreadError("wildcards in the name of a folder; allowed: in the last part")
        try:
            wild = any(character in last for character in "*?[")
            names = sorted(one.name for one in where.iterdir()) if wild else [last]
        except OSError:
            return []
        matching = [one for one in names if one == last or (fnmatchcase(one, last) and not one.startswith("."))]
        return [where / one for one in matching if (where / one).is_file()]

    def _read(self, path: Path) -> Source:
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self._root):
            raise UnreadError(f"it is outside of {self._root}")
        try:
            with real.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnreadError(error.strerror or str(error)) from error
        if len(text) > MAX_BYTES:
            raise UnreadError(f"larger than {MAX_BYTES >> 20} MiB")
        return Source(str(path), text.decode("utf-8", "replace"), self.directory(str(path)))


def _spelled_out(name: str) -> list[str]:
    """Write out {a,b}, as csh does."""
    names = [name]
    while match := _BRACES.search(names[0]):
        words = match[1].split(",")
        if len(names) * len(words) > _MOST_WORDS:
            raise UnreadError(f"its braces stand for more than {_MOST_WORDS} names; allowed: fewer")
        names = [one.replace(match[0], word, 1) for one in names for word in words]
    return names
