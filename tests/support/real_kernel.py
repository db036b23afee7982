"""The real kernel, in a separate network namespace with named interfaces."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from nftlb.kernel import LibNftables
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from nftlb.kernel.sources import SourceCounts
    from nftlb.model import SourceLengths
    from nftlb.ruleset import Count, Listing, ReplyCount, TableFamily, Transaction

# The ends of pairs: a kernel without the module `dummy` has these too.
INTERFACES = (("eth0", "eth1"), ("eth1.7", "spare"))


class Inside:
    """A kernel whose calls all run in threads in the namespace.

    libnftables keeps its own socket there, but looks up interfaces in the namespace of the calling thread.
    """

    def __init__(self, namespace: Namespace, kernel: LibNftables) -> None:
        self.namespace = namespace
        self.kernel = kernel

    def check(self, text: str) -> None:
        self.namespace.call(self.kernel.check, text)

    def apply(self, transaction: Transaction) -> None:
        self.namespace.call(self.kernel.apply, transaction)

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        return self.namespace.call(self.kernel.list, table)

    def siblings(self, table: str) -> Collection[str]:
        return self.namespace.call(self.kernel.siblings, table)

    def counters(self, table: str) -> Mapping[str, Count]:
        return self.namespace.call(self.kernel.counters, table)

    def reply_counts(self, table: str) -> Mapping[str, ReplyCount]:
        return self.namespace.call(self.kernel.reply_counts, table)

    def sources(self, table: str, pool: str, lengths: SourceLengths, most: int) -> SourceCounts:
        return self.namespace.call(self.kernel.sources, table, pool, lengths, most)

    def generation(self) -> int:
        return self.namespace.call(self.kernel.generation)


@contextmanager
def real_kernel() -> Iterator[Inside]:
    with Namespace("real-kernel") as namespace:
        for interface, other in INTERFACES:
            namespace.run(["ip", "link", "add", interface, "type", "veth", "peer", "name", other])
        with namespace.call(LibNftables) as kernel:
            yield Inside(namespace, kernel)
