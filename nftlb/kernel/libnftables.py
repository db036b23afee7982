"""The kernel behind the distribution's own binding of libnftables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from nftlb.errors import KernelError, SystemFault
from nftlb.ruleset import Count, Listing, TableFamily, parse_table

from .generation import Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.swap import Transaction

_SHOWN_LINES = 6


class LibNftables:
    """One resident libnftables context. It belongs to the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._nft = _context()
        self._generation = Generation()

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
        _run(self._nft, transaction.text)

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        present = set(_run(self._nft, "list tables").splitlines())
        return {
            family: parse_table(_run(self._nft, f"list table {family} {table}"))
            for family in TableFamily
            if f"table {family} {table}" in present
        }

    def counters(self, table: str) -> Mapping[str, Count]:
        return total(self.list(table))

    def generation(self) -> int:
        return self._generation.read()


def total(listings: Mapping[TableFamily, Listing]) -> dict[str, Count]:
    """What was counted for each backend: by a set's element, or by the chain that is the backend's own."""
    counts: dict[str, Count] = {}
    for listing in listings.values():
        for owner, count in listing.counts.items():
            if owner in listing.table.chains and not owner.startswith("backend/"):
                continue  # a pool's chain: what it refused was sent to nobody
            name = owner.removeprefix("backend/")
            counts[name] = counts.get(name, Count(0, 0)) + count
    return counts


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
