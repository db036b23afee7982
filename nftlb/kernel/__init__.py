"""The shell around the kernel: nftables, conntrack, routing rules. Everything here does I/O."""

from .fake import FakeNft
from .libnftables import LibNftables
from .protocol import Kernel

__all__ = ["FakeNft", "Kernel", "LibNftables"]
