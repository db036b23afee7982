"""nftables of one network namespace: the interface `Kernel`, and its implementation with libnftables and netlink."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Self

from nftlb.errors import KernelError

from .binding import nftables_binding
from .generation import Generation
from .reading import TablesReader, read_counts, read_reply_counts, read_siblings
from .sources import read_sources

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from nftlb.model import SourceLengths
    from nftlb.ruleset import Count, Listing, ReplyCount, TableFamily, Transaction

    from .sources import SourceCounts

_SHOWN_LINES = 6
_VERSION = re.compile(r"v([0-9.]+)")
OLDEST, NEWEST = (1, 0, 6), (1, 1, 7)
"""The oldest and newest version of nft with which the tests ran: 1.0.6, 1.1.3 and 1.1.7."""


class Kernel(Protocol):
    """nftables of one network namespace. A method that is refused raises KernelError and has changed nothing."""

    def check(self, text: str) -> None:
        """Check nft text with libnftables and the kernel, without loading it."""

    def apply(self, transaction: Transaction) -> None:
        """Carry out all operations of the transaction, or none."""

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        """Return the tables of that name as they are now, by family. A family without the table is left out."""

    def siblings(self, table: str) -> Collection[str]:
        """Return the names of the other tables that nftlb has made, for other configurations."""

    def counters(self, table: str) -> Mapping[str, Count]:
        """Return the packets and bytes sent to each backend, by `POOL/BACKEND`, over all tables of that name.

        Also what guards have dropped, by `DropReason.owner`.
        """

    def sources(self, table: str, pool: str, lengths: SourceLengths, most: int) -> SourceCounts:
        """Return the sources of a pool that sent the most packets, up to `most`, where `guard` counts clients."""

    def reply_counts(self, table: str) -> Mapping[str, ReplyCount]:
        """Return packets and replies of each backend whose replies are counted, by `POOL/BACKEND`."""

    def generation(self) -> int:
        """Return a number that grows by one with every transaction of any process in this namespace."""


class LibNftables:
    """libnftables of one network namespace. Only threads in that namespace may make and call it."""

    def __init__(self) -> None:
        self._nft = nftables_binding().Nftables()
        self._generation = Generation()
        self._readers: dict[str, TablesReader] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. The tables stay loaded."""
        self._nft = None
        self._generation.close()

    def check(self, text: str) -> None:
        # In a separate context: libnftables 1.0.6 remembers checked objects as if they were loaded, and then refuses
        # the next transaction.
        context = nftables_binding().Nftables()
        context.set_dry_run(True)
        _run(context, text)

    def apply(self, transaction: Transaction) -> None:
        if (
            any(reader.newer for reader in self._readers.values())
            and (version := read_version())
            and crashes_on_newer(version)
        ):
            raise KernelError(
                f"our tables were made by nft 1.1.2 or later, and libnftables {version} would crash on them: "
                "use the newer nft again to change or to delete them, or reboot"
            )
        _run(self._nft, transaction.text)

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        if table not in self._readers:
            self._readers[table] = TablesReader(self._generation.read)
        return self._readers[table].read(table)

    def siblings(self, table: str) -> Collection[str]:
        return read_siblings(table)

    def counters(self, table: str) -> Mapping[str, Count]:
        return read_counts(table)

    def reply_counts(self, table: str) -> Mapping[str, ReplyCount]:
        return read_reply_counts(table)

    def sources(self, table: str, pool: str, lengths: SourceLengths, most: int) -> SourceCounts:
        return read_sources(table, pool, lengths, most)

    def generation(self) -> int:
        return self._generation.read()


def _run(context: Any, text: str) -> str:
    status, output, error = context.cmd(text)
    if status:
        raise KernelError(f"nftables refused: {_summary(error)}")
    return str(output)


def _summary(error: str) -> str:
    """Return the first lines of libnftables' message, without its copy of a rule of thousands of characters."""
    lines = [line[:200] for line in error.splitlines() if line.strip() and not set(line) <= set(" \t^~")]
    more = len(lines) - _SHOWN_LINES
    return "\n".join(lines[:_SHOWN_LINES] + ([f"... and {more} more lines"] if more > 0 else []))


def version_warning(version: str) -> str:
    """Return a warning about a version that the tests never ran with; empty for the tested versions."""
    number = _number(version)
    if not number or OLDEST <= number <= NEWEST:
        return ""
    how = "older than" if number < OLDEST else "newer than"
    known = " to ".join(".".join(map(str, version)) for version in (OLDEST, NEWEST))
    return f"version {version} is {how} those that nftlb is tested with ({known})"


def crashes_on_newer(version: str) -> bool:
    """Whether this version crashes on tables made by nft 1.1.2 or later, which store more data beside a set."""
    return _number(version) < (1, 1, 2)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def read_version() -> str:
    """Return the version of nft; empty if it can't be found out. libnftables has the same version.

    The program is asked, because libnftables gives its version only together with tables, on which it may crash.
    """
    found = None
    with suppress(OSError, subprocess.SubprocessError):
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        program = shutil.which("nft", path=path)
        if program is not None:
            printed = subprocess.run(  # noqa: S603 - the host's own nft
                [program, "--version"], capture_output=True, text=True, timeout=5, check=False
            )
            found = _VERSION.search(printed.stdout)
    return found[1] if found else ""
