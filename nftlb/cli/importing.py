"""`nftlb import`, and the files that a configuration of keepalived includes."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nftlb.config import parse_config
from nftlb.config.document import MAX_BYTES, STDIN, read_file
from nftlb.errors import ConfigError, Problem
from nftlb.importer import from_ipvsadm, from_keepalived, from_ldirectord
from nftlb.importer.keepalived_statements import ReadContext, SourceFile, UnreadError

from .arguments import examples
from .check import warn_of_cautions
from .output import STANDARD_OUTPUT, write_error, write_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.importer import Imported
    from nftlb.model import Config

FROM: dict[str, Callable[..., Imported]] = {
    "keepalived": from_keepalived,
    "ldirectord": from_ldirectord,
    "ipvsadm": from_ipvsadm,
}
_MOST_NAMES = 1024
"""Different names of included files; each is looked up once."""
_MOST_WORDS = 64
"""Names that the braces of one name may stand for."""
_BRACES = re.compile(r"\{([^{}]*)\}")


@click.command(
    "import",
    epilog=examples(
        "nftlb import keepalived /etc/keepalived/keepalived.conf -o pools.yaml",
        "nftlb import keepalived copy/etc/keepalived/keepalived.conf --root copy --id main",
        "nftlb import ldirectord /etc/ha.d/ldirectord.cf -o pools.yaml",
        "ipvsadm -S -n | nftlb import ipvsadm - > pools.yaml",
    ),
)
@click.argument("what", metavar="keepalived|ldirectord|ipvsadm", type=click.Choice(list(FROM)))
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("-o", "--output", default="-", type=click.Path(), metavar="OUT", help="Replace this file atomically.")
@click.option("--id", "ident", metavar="ID", help="keepalived's configuration id (its option -i), for lines with @.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="Read files that keepalived's file includes, below DIR instead of /; use / on the host itself.",
)
def import_command(what: str, file: str, output: str, ident: str | None, root: str | None) -> None:
    """Convert FILE (- for standard input): a configuration of keepalived or ldirectord, or the output of ipvsadm.

    Settings without a counterpart in nftlb become a comment at their place, and a message with their line on standard
    error. The output of ipvsadm may come from `ipvsadm -S -n` or `ipvsadm -L -n`. The result passes `nftlb check`.
    """
    name = "standard input" if file == STDIN else file
    source = read_file(file)
    if len(source) > MAX_BYTES:
        raise ConfigError([Problem(name, 0, 0, "", f"larger than {MAX_BYTES >> 20} MiB; allowed: a smaller file")])
    # Comments may be in any encoding; everything else is ASCII.
    found = _reader(what, file, ident, root)(source.decode("utf-8", "replace"), name)
    target = "standard output" if output == STANDARD_OUTPUT else output
    try:
        config = _checked(found, target)
        write_file(output, [found.text])
    finally:
        write_error("".join(f"{remark}\n" for remark in found.remarks))
    warn_of_cautions(config, target)


def _reader(what: str, file: str, ident: str | None, root: str | None) -> Callable[[str, str], Imported]:
    if what != "keepalived":
        for option, value in (("--id", ident), ("--root", root)):
            if value is not None:
                raise click.UsageError(f"{option} is only used for keepalived's configuration; leave it out")
        return FROM[what]
    includes = None if root is None else KeepalivedIncludes(root)
    directory = None
    if file != STDIN:
        directory = str(Path(file).absolute().parent) if includes is None else includes.directory(file)
    return partial(FROM[what], directory=directory, reading=ReadContext(ident, includes))


def _checked(found: Imported, target: str) -> Config:
    """Validate the result as `nftlb check` does. The ConfigError names the source line of each problem."""
    try:
        return parse_config(found.text, target)
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            message = "nftlb check refuses the result for this line, and nothing is written"
            file, line = found.origin(problem.line) or (problem.file, 0)
            problems.append(Problem(file, line, 1 if line else 0, "", f"{message}: {problem.path}: {problem.message}"))
        raise ConfigError(problems) from error


class KeepalivedIncludes:
    """Finds the files of an `include`, with `root` in place of keepalived's `/`. Reads no file outside of `root`."""

    def __init__(self, root: str) -> None:
        self._root = Path(os.path.realpath(root))
        self._found: dict[str, list[Path]] = {}

    def directory(self, file: str) -> str:
        """The folder of a file, by its name below `root`."""
        path = Path(os.path.realpath(file)).parent
        return f"/{path.relative_to(self._root)}" if path.is_relative_to(self._root) else str(path)

    def __call__(self, pattern: str, within: SourceFile) -> list[SourceFile]:
        """Return the files that `pattern` names in the file `within`. UnreadError if there are none, or too many.

        `pattern` may have braces, and wildcards in its last part.
        """
        if not pattern.startswith("/") and within.directory is None:
            raise UnreadError("the folder of the including file is unknown; give that file by its name, not as -")
        name = os.path.normpath(f"{within.directory if not pattern.startswith('/') else ''}/{pattern}")
        if name not in self._found:
            if len(self._found) == _MOST_NAMES:
                raise UnreadError(f"more than {_MOST_NAMES} different names of files; allowed: {_MOST_NAMES}")
            self._found[name] = [path for spelling in _spelled_out(name) for path in self._files(spelling)]
        if not self._found[name]:
            raise UnreadError(f"no such file in {self._root}")
        return [self._read(path) for path in self._found[name]]

    def _files(self, name: str) -> list[Path]:
        folder, last = os.path.split(name)
        where = self._root / folder.lstrip("/")
        if any(character in folder for character in "*?["):
            raise UnreadError("wildcards in the name of a folder; allowed: only in the last part")
        try:
            wild = any(character in last for character in "*?[")
            names = sorted(path.name for path in where.iterdir()) if wild else [last]
        except OSError:
            return []
        matching = [
            candidate
            for candidate in names
            if candidate == last or (fnmatchcase(candidate, last) and not candidate.startswith("."))
        ]
        return [where / match for match in matching if (where / match).is_file()]

    def _read(self, path: Path) -> SourceFile:
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self._root):
            raise UnreadError(f"the file is outside of {self._root}")
        try:
            with real.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnreadError(error.strerror or str(error)) from error
        if len(text) > MAX_BYTES:
            raise UnreadError(f"larger than {MAX_BYTES >> 20} MiB")
        return SourceFile(str(path), text.decode("utf-8", "replace"), self.directory(str(path)))


def _spelled_out(name: str) -> list[str]:
    """Expand {a,b}, as csh does."""
    names = [name]
    while match := _BRACES.search(names[0]):
        words = match[1].split(",")
        if len(names) * len(words) > _MOST_WORDS:
            raise UnreadError(f"its braces stand for more than {_MOST_WORDS} names; allowed: {_MOST_WORDS}")
        names = [former.replace(match[0], word, 1) for former in names for word in words]
    return names
