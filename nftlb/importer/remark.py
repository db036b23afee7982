"""What an import could not take over as it was. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from nftlb.errors import ConfigError, Problem
from nftlb.printable import printable

MISSING = "not taken over"
CHANGED = "not the same"


class Line(int):
    """The number of a line, counted from 1, that knows its file: an included one, for instance."""

    file: str

    def __new__(cls, number: int, file: str) -> Self:
        line = super().__new__(cls, number)
        line.file = file
        return line


def file_of(line: int, otherwise: str) -> str:
    return line.file if isinstance(line, Line) else otherwise


@dataclass(frozen=True, order=True)
class Remark:
    """`line` counts from 1. `message` says what is missing, or differs, and begins with which of both."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.line}: {self.message}")


def fault(file: str, line: int, message: str) -> ConfigError:
    """The error for text that can't be understood."""
    return ConfigError([Problem(file_of(line, file), int(line), 1, "", message)])
