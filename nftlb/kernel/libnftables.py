"""The kernel behind the distribution's own binding of libnftables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from nftlb.errors import KernelError, SystemFault

from .counts import counts
from .generation import Generation
from .nft_version import crashes_on_newer, read_version
from .reading import TablesReader, siblings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from nftlb.ruleset import Count, Listing, TableFamily
    from nftlb.swap import Transaction

_SHOWN_LINES = 6


class LibNftables:
    """libnftables of one network namespace: to be made, and called, by threads that are in it."""

    def __init__(self) -> None:
        self._nft = _context()
        self._generation = Generation()
        self._readers: dict[str, TablesReader] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the sockets; the tables stay."""
        self._nft = None
        self._generation.close()

    def check(self, text: str) -> None:
        # In a context of its own: libnftables 1.0.6 takes what it only checked for real, and refuses what comes next.
        context = _context()
        context.set_dry_run(True)
        _run(context, text)

    def apply(self, transaction: Transaction) -> None:
        if any(one.newer for one in self._readers.values()) and (mine := read_version()) and crashes_on_newer(mine):
            raise KernelError(
                f"our tables were made by nft 1.1.2 or later, and libnftables {mine} would crash on them: "
                "use the newer nft again to change or to delete them, or reboot"
            )
        _run(self._nft, transaction.text)

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        if table not in self._readers:
            self._readers[table] = TablesReader(self._generation.read)
        return self._readers[table].read(table)

    def siblings(self, table: str) -> Collection[str]:
        return siblings(table)

    def counters(self, table: str) -> Mapping[str, Count]:
        return counts(table)

    def generation(self) -> int:
        return self._generation.read()


def _context() -> Any:
    try:
        import nftables  # noqa: PLC0415 - belongs to the distribution; compile and check do without it
    except ImportError as error:
        raise SystemFault(
            f"no nftables binding for this Python ({error}); on Debian: apt install python3-nftables"
        ) from None
    return nftables.Nftables()


def _run(context: Any, text: str) -> str:
    status, output, error = context.cmd(text)
    if status:
        raise KernelError(f"nftables refused: {_summary(error)}")
    return str(output)


def _summary(error: str) -> str:
    """The first lines of libnftables' message, without the echo of a rule of thousands of characters."""
    lines = [line[:200] for line in error.splitlines() if line.strip() and not set(line) <= set(" \t^~")]
    more = len(lines) - _SHOWN_LINES
    return "\n".join(lines[:_SHOWN_LINES] + ([f"... and {more} more lines"] if more > 0 else []))
