"""What a start goes by: the configuration file or, where that is bad, missing or unreadable, its last good copy."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.config import parse, read_source
from nftlb.config.source import STDIN
from nftlb.errors import ConfigError
from nftlb.preload import STATE_DIR

from .store import kept, last_good

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nftlb.model import Config

# Of a file that can't be parsed. At the beginning of a line, or in a mapping in braces.
_STATE_DIR = re.compile(rb"""(?m)(?:^|[{,])[ \t]*["']?state_dir["']?[ \t]*:[ \t]*["']?(/[^"'#,}\r\n]*)""")


@dataclass(frozen=True)
class Source:
    """A configuration and its text. `copy` is where they are from if not from the file; `problems` says why."""

    config: Config
    text: bytes
    copy: str = ""
    problems: tuple[str, ...] = ()


def first_source(file: str, directory: str | None) -> Source:
    """Read a configuration file, or else the copy that was kept of it.

    The copy is looked for in the `state_dir` that the file names, if that much of the file can be read, and in
    `directory`; None: no copy is wanted. Raises what is wrong with the file when there is no good copy.
    """
    text = b""
    try:
        text = read_source(file)
        return Source(parse(text, file), text)
    except ConfigError as error:
        problems = tuple(str(error).splitlines())
        copy = None if directory is None or file == STDIN else copy_of(file, text, directory)
        if copy is None:
            raise
        with suppress(ConfigError, OSError):
            text = kept(copy)
            return Source(parse(text, str(copy)), text, str(copy), problems)
        raise


def copy_of(file: str, text: bytes, directory: str) -> Path | None:
    """Give the last good copy of a file with such a text; None if there is none."""
    copies = (last_good(place, file) for place in (*_named(text), directory))
    return next((copy for copy in copies if copy is not None), None)


def _named(text: bytes) -> Iterator[str]:
    if found := _STATE_DIR.search(text):
        yield found[1].decode(errors="surrogateescape").strip()


def apis_of(file: str) -> list[str]:
    """Give where the API of a daemon of this file may be: as the file has it, and its last good copy."""
    text = b""
    with suppress(ConfigError):
        text = read_source(file)
    texts = [text]
    if (copy := copy_of(file, text, STATE_DIR)) is not None:
        with suppress(OSError):
            texts.append(kept(copy))
    found: dict[str, None] = {}
    for one in texts:
        with suppress(ConfigError):
            found[str(parse(one, file).api.listen)] = None
    return list(found)
