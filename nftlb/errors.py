"""The errors of nftlb: a class for faults of the file, of the kernel and of the host. No I/O.

Every class has the exit status of the command that ends with this error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nftlb.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_STATUSES: Mapping[int, str] = {
    0: "success",
    1: "the input is bad: a file with errors, or an unknown pool or backend",
    2: "the command line is wrong",
    3: "the kernel, the host or the daemon refused, or something failed there",
    4: "the daemon can't be reached",
}
"""The meanings of the exit statuses, of which some commands have further meanings."""


class NftlbError(Exception):
    """An error that an operator can act on. It is shown without a traceback."""

    exit_status: ClassVar[int] = 3


@dataclass(frozen=True, order=True)
class Problem:
    """One fault of a configuration file: its place, the found value and the allowed values.

    `line` and `column` count from 1; 0 means that the fault belongs to the whole file.
    `path` is the place in the document, such as `pools.dns.backends.ns2.port`; empty for the whole file.
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
    """The configuration has faults; `problems` has all of them, in the order of the file."""

    exit_status = 1

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class KernelError(NftlbError):
    """The kernel or libnftables refused a change. The message has the change and the reason. Nothing was changed."""


class SystemFault(NftlbError):  # noqa: N818 - not an error of nftlb itself
    """This host lacks something, or does not permit something. The message says how to fix it."""
