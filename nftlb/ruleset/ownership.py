"""Whether nftlb made a table. The name does not show it: any program may use the name in the configuration. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .objects import Chain

if TYPE_CHECKING:
    from .objects import Table

MARK = Chain("made-by-nftlb")
"""An empty chain in every compiled table. A comment can't be the mark: the kernel adds none to an existing table."""

_KINDS = frozenset(("pool", "flow", "backend", "connect", "connection", "reply", "hairpin", "address"))
_SERVICES = ("service", "repl", "targets", "hosts", "flows")
_DOORS = ("prerouting-raw", "ingress-")


def is_empty(table: Table) -> bool:
    """Whether the table has no chain, no set and no other object."""
    return not (table.chains or table.sets or table.objects)


def is_ours(table: Table) -> bool:
    """Whether nftlb made the table, or may fill it because it is empty.

    A table of nftlb may lack the mark: an early version made none, and any program may delete the mark. Then the names
    of chains, for instance `prerouting-raw` and `backend/NAME/NAME`, and of sets show that the table is ours.
    """
    if MARK.name in table.chains or is_empty(table):
        return True
    kinds = {name.partition("/")[0] for name in table.chains if "/" in name} & _KINDS
    others = any(name.startswith(_SERVICES) for name in table.sets) or any(
        name.startswith(_DOORS) for name in table.chains
    )
    return len(kinds) > 1 or (bool(kinds) and others)
