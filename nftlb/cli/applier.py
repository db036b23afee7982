"""The way to the kernel, for one command."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from nftlb.apply import Applier
from nftlb.kernel import LibNftables
from nftlb.kernel.lock import hold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.apply import Applied


@contextmanager
def applier(table: str) -> Iterator[Applier]:
    """What brings configurations into the kernel of this network namespace; nobody else does meanwhile."""
    with hold(table), viewer(table) as to_kernel:
        yield to_kernel


@contextmanager
def viewer(table: str) -> Iterator[Applier]:
    """The same, to look only: somebody else may be at work."""
    with LibNftables() as kernel:
        yield Applier(kernel, table)


def changes(applied: Applied) -> str:
    """What was changed, in a line; empty if nothing."""
    counts = (
        (len(applied.transactions), "transaction", "transactions"),
        (len(applied.steered), "change of routing", "changes of routing"),
        (applied.cut, "conntrack entry cut", "conntrack entries cut"),
    )
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)
