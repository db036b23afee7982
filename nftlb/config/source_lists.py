"""The files that `guard` of a pool names in `allow` and `deny`: an address or a prefix in each line.

A line may be empty, and `#` or `;` begins a comment, as in the lists that others publish. The caller reads the files,
so this module does no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from nftlb.errors import ConfigError, Problem

from .document import MAX_BYTES
from .reading import Unfit, read_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nftlb.model.kinds import SourceEntry
    from nftlb.model.pool import Pool

    from .faults import Path, ProblemCollector

_MOST_PROBLEMS = 100
"""Problems of one file that are reported: a file of another kind has one in each line."""
_FIRST = re.compile(rb"\S")
_COMMENT = re.compile(rb"[#;]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What editors of Windows write at the beginning of a file."""


@dataclass
class SourceLists:
    """Fills the entries of files. `read` returns the bytes of a file, or raises ConfigError.

    `lenient`: leave out bad lines and unreadable files. The last good copy of a configuration has no copy of its lists,
    so a bad list must not make the copy useless.
    """

    read: Callable[[str], bytes]
    lenient: bool = False
    _known: dict[str, tuple[SourceEntry, list[Problem]]] = field(default_factory=dict)

    def fill(self, pool: Pool, faults: ProblemCollector) -> Pool:
        """Return the pool with the content of its files. Faults have the place in the file, or that of its name."""
        if pool.guard is None:
            return pool
        path = ("pools", pool.name, "guard")
        allow = tuple(self._filled(pool.guard.allow, (*path, "allow"), faults))
        deny = tuple(self._filled(pool.guard.deny, (*path, "deny"), faults))
        return replace(pool, guard=replace(pool.guard, allow=allow, deny=deny))

    def _filled(self, entries: Iterable[SourceEntry], path: Path, faults: ProblemCollector) -> Iterator[SourceEntry]:
        for index, entry in enumerate(entries):
            yield self._file(entry, (*path, index), faults) if entry.path else entry

    def _file(self, entry: SourceEntry, place: Path, faults: ProblemCollector) -> SourceEntry:
        if entry.path not in self._known:
            try:
                self._known[entry.path] = read_source_list(entry, self.read(entry.path))
            except ConfigError as error:
                if not self.lenient:
                    reason = error.problems[0].message.partition(";")[0]
                    faults.add(place, f"{entry.path}: {reason}; allowed: a readable file with addresses and prefixes")
                return entry
        found, problems = self._known[entry.path]
        for problem in () if self.lenient else problems:
            faults.add_elsewhere(problem)
        return found


def read_source_list(entry: SourceEntry, content: bytes) -> tuple[SourceEntry, list[Problem]]:
    """Return the entry of a file with the ranges of its lines, and the problems of bad lines, or of too many bytes."""
    digest = sha256(content).hexdigest()
    spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    problems: list[Problem] = []
    if len(content) > MAX_BYTES:
        problems.append(Problem(entry.path, 1, 1, "", f"larger than {MAX_BYTES >> 20} MiB; allowed: a smaller file"))
        content = content[: content.rfind(b"\n") + 1]  # the last line may go on behind what was read
    for number, line in enumerate(content.removeprefix(_BYTE_ORDER_MARK).splitlines(), 1):
        text = _COMMENT.split(line, 1)[0].strip()
        if not text:
            continue
        try:
            version, span = read_prefix(text.decode(errors="replace"))
        except Unfit as unfit:
            begin = _FIRST.search(line)
            problems.append(Problem(entry.path, number, begin.start() + 1 if begin else 1, "", str(unfit)))
            if len(problems) == _MOST_PROBLEMS:
                problems.append(Problem(entry.path, number + 1, 1, "", "too many faults; not all are shown"))
                break
        else:
            spans[version].append(span)
    found = replace(entry, digest=digest, ip=tuple(spans[4]), ip6=tuple(spans[6]))
    return found, problems
