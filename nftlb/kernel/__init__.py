"""The shell around the kernel: nftables, conntrack, routing rules. Everything here does I/O."""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes long to import
if TYPE_CHECKING:
    from typing import Any

    from .libnftables import LibNftables
    from .protocol import Kernel

__all__ = ["Kernel", "LibNftables"]


def __getattr__(name: str) -> Any:
    """Import what has that name when it is asked for: a start needs the lock and a netlink socket, and no more."""
    if name == "LibNftables":
        from .libnftables import LibNftables  # noqa: PLC0415

        return LibNftables
    if name == "Kernel":
        from .protocol import Kernel  # noqa: PLC0415

        return Kernel
    raise AttributeError(name)
