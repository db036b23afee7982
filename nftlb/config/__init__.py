"""The configuration file: YAML text to the validated model, or every fault of it with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.config.amend import amend, read_backend
from nftlb.config.assemble import assemble
from nftlb.config.document import read
from nftlb.config.schema import schema
from nftlb.config.source import STDIN, read_source

if TYPE_CHECKING:
    import os

    from nftlb.model import Config

__all__ = ["amend", "load", "parse", "read_backend", "read_source", "schema"]


def load(path: str | os.PathLike[str]) -> Config:
    """Read and validate a file; `-` stands for standard input. `ConfigError` tells all that is wrong."""
    name = str(path)
    return parse(read_source(name), "standard input" if name == STDIN else name)


def parse(text: str | bytes, file: str = "-") -> Config:
    """Make the model of YAML text; `file` is the name that problems show."""
    return assemble(read(text, file), file)
