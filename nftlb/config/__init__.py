"""The configuration file: reads YAML text as the validated model, or reports all faults with their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .assemble import amend, assemble, read_backend, write_backend
from .document import STDIN, read_file, read_yaml
from .resolution import Resolution, lookups_of, resolve
from .source_lists import SourceLists
from .written import json_schema, read_check

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from nftlb.model import Config

__all__ = [
    "STDIN",
    "Resolution",
    "amend",
    "json_schema",
    "load",
    "lookups_of",
    "parse_config",
    "read_backend",
    "read_check",
    "read_file",
    "resolve",
    "write_backend",
]


def load(path: str | os.PathLike[str], *, lenient: bool = False) -> Config:
    """Read and validate a file; `-` stands for standard input. `ConfigError` with all faults of the file.

    `lenient` is as in `parse_config()`.
    """
    name = str(path)
    return parse_config(read_file(name), "standard input" if name == STDIN else name, lenient=lenient)


def parse_config(
    text: str | bytes, file: str = "-", *, lenient: bool = False, read: Callable[[str], bytes] = read_file
) -> Config:
    """Make the model from YAML text. `file` is the name of the file in the problems of a `ConfigError`.

    `read` reads the files that `guard` names. `lenient`: leave their bad lines out, and files that can't be read.
    """
    return assemble(read_yaml(text, file), file, SourceLists(read, lenient))
