"""The shell around the kernel: nftables, conntrack, routing rules. Everything here does I/O."""

from .libnftables import LibNftables
from .protocol import Kernel

__all__ = ["Kernel", "LibNftables"]
