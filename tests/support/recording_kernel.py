"""A fake kernel that records all its generations, and which of them one packet may pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fake_kernel import FakeNft
from packet_tracer import Snapshot
from table_comparison import comparable

from nftlb.ruleset import Ruleset
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from table_comparison import Comparable

    from nftlb.ruleset import Transaction
    from nftlb.swap import Swap

TABLE = "nftlb"
GRACE = 0.5
"""Seconds after which the swapper assumes that a packet has passed (nftlb/swap/swapper.py)."""


@dataclass(frozen=True)
class Generation:
    """A generation of the kernel: its begin, the number of waits before it, and its target."""

    snapshot: Snapshot
    since: float
    waits: int
    target: int


@dataclass
class Recorder(FakeNft):
    """A FakeNft that records generations, with a clock that tests set, and with a wait that takes no time."""

    generations: list[Generation] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    targets: list[Ruleset] = field(default_factory=list)
    now: float = 0.0
    waits: int = 0
    fail_in: int = -1
    interloper: Transaction | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.targets.append(Ruleset(TABLE))
        self._remember()
        self.swapper = Swapper(self, TABLE, self.wait, lambda: self.now)

    def fail_after(self, transactions: int) -> None:
        """Accept this number of transactions, and refuse the next."""
        self.fail_in = transactions

    def apply(self, transaction: Transaction) -> None:
        if self.fail_in == 0:
            self.fail_next("Device or resource busy")
        self.fail_in -= 1
        super().apply(transaction)
        if self.interloper is not None:
            super().apply(self.interloper)
            self.interloper = None
        self.transactions.append(transaction)
        self._remember()

    def wait(self) -> None:
        self.waits += 1

    def swap(self, target: Ruleset) -> Swap:
        self.targets.append(target)
        return self.swapper.swap(target)

    def remove_leftovers(self) -> Swap:
        return self.swapper.remove_leftovers(self.targets[-1])

    def snapshot(self) -> Snapshot:
        listings = self.list(TABLE)
        handles = {family: self.handles(family, TABLE) for family in listings}
        return Snapshot(
            Ruleset(TABLE, {family: listing.table for family, listing in listings.items()}),
            {(family, name): rules for family, own in handles.items() for name, rules in own.rules.items()},
            {(family, name): number for family, own in handles.items() for name, number in own.sets.items()},
        )

    def comparable(self) -> Comparable:
        """The content of our tables, to compare."""
        return comparable(self.snapshot().ruleset.tables)

    def overlaps(self) -> list[tuple[Generation, Generation]]:
        """Return pairs of generations that one packet may pass: the rules of one, and the elements of the other."""
        found = []
        for index, early in enumerate(self.generations[:-1]):
            ended = self.generations[index + 1]
            for late in self.generations[index + 1 :]:
                if late.waits > ended.waits or late.since - ended.since >= GRACE:
                    break
                found.append((early, late))
        return found

    def _remember(self) -> None:
        self.generations.append(Generation(self.snapshot(), self.now, self.waits, len(self.targets) - 1))
