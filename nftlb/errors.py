"""What can go wrong, told apart by whose fault it is; no I/O here.

Every error carries the exit status that the command ends with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nftlb.printable import printable


class NftlbError(Exception):
    """Something an operator can act on: shown without a traceback."""

    exit_status: ClassVar[int] = 3


@dataclass(frozen=True, order=True)
class Problem:
    """One fault of a configuration file: where, what was found, what is allowed.

    `line` and `column` count from 1; 0 means that the fault belongs to the file as a whole.
    `path` is the place in the document, such as `pools.dns.backends.ns2.port`; empty for the whole.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return printable(f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}")


class ConfigError(NftlbError):
    """The configuration is bad; `problems` holds every fault, in the order of the file."""

    exit_status = 1

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class KernelError(NftlbError):
    """The kernel, or libnftables before it, refused; the message says what and why. Nothing was changed."""


class SystemFault(NftlbError):  # noqa: N818 - not an error of ours
    """Something of this machine is missing or not permitted; the message says how to mend it."""
