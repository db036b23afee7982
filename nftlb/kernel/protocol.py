"""The seam to the kernel: all that the rest of nftlb knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from nftlb.ruleset import Count, Listing, TableFamily
    from nftlb.swap import Transaction


class Kernel(Protocol):
    """nftables of one network namespace. Every method raises KernelError when it is refused, having changed nothing."""

    def check(self, text: str) -> None:
        """Have nft text judged, by libnftables and the kernel, without loading it."""

    def apply(self, transaction: Transaction) -> None:
        """Carry out all operations, or none."""

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        """The tables of that name, as they are now; an absent one is left out."""

    def siblings(self, table: str) -> Collection[str]:
        """The names of other tables that nftlb has made, for another configuration."""

    def counters(self, table: str) -> Mapping[str, Count]:
        """What was sent to each backend, by `POOL/BACKEND`, over all tables of that name."""

    def generation(self) -> int:
        """A number that moves with every transaction of anyone in this namespace, by one."""
