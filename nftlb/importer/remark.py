"""What an import could not take over as it was. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from nftlb.errors import ConfigError, Problem
from nftlb.printable import printable

MISSING = "not taken over"
CHANGED = "not the same"


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
    return ConfigError([Problem(file, line, 1, "", message)])
