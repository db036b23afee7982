"""Whose a table is. The name does not tell, since anybody may use the name that a configuration gives. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .objects import Chain

if TYPE_CHECKING:
    from .objects import Table

MARK = Chain("made-by-nftlb")
"""In every table that is compiled. Not the table's comment: a table that is there already gets none from the kernel."""

_KINDS = frozenset(("pool", "flow", "backend", "connect", "connection", "reply", "hairpin"))
_SERVICES = ("service", "repl", "targets", "hosts", "flows")


def is_empty(table: Table) -> bool:
    return not (table.chains or table.sets)


def is_ours(table: Table) -> bool:
    """Whether nftlb made the table, or the table is empty, so that nftlb may fill it.

    A table without the mark is one of a version that made no marks, or somebody has taken the mark away: such a table
    has our kinds of chains, `pool/NAME` for one, and our sets.
    """
    if MARK.name in table.chains or is_empty(table):
        return True
    chains = any("/" in name and name.partition("/")[0] in _KINDS for name in table.chains)
    return chains and any(name.startswith(_SERVICES) for name in table.sets)
