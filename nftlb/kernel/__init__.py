"""All access to the kernel: nftables, conntrack, routing rules, monitors. Everything here does I/O.

Three modules import plain values from `nftlb.compiler`, which knows nothing of this package: the next hops of marks
(`Hop`), the endpoints whose conntrack entries stay (`Keep`), and the NFLOG group of the compiled rules (`GROUP`). The
compiler decides about them, and the kernel package carries the decision out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .libnftables import Kernel, LibNftables

__all__ = ["Kernel", "LibNftables"]


def __getattr__(name: str) -> Any:
    """Import libnftables' binding at the first use of a name: the lab and most commands need only netlink sockets."""
    if name not in __all__:
        raise AttributeError(name)
    from . import libnftables  # noqa: PLC0415

    return getattr(libnftables, name)
