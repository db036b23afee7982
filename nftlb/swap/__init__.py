"""How a ruleset gets into the kernel: plans of transactions, and the one who carries them out."""

from .operations import Transaction
from .swapper import Swap, Swapper

__all__ = ["Swap", "Swapper", "Transaction"]
