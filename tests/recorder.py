"""A kernel that remembers every generation it had, and what a packet could meet while it changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracer import Snapshot

from nftlb.kernel.fake import FakeNft
from nftlb.ruleset import Ruleset
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from nftlb.swap import Swap, Transaction

TABLE = "nftlb"
GRACE = 0.5
"""Seconds after which the swapper takes a packet to be through (nftlb/swap/swapper.py)."""


@dataclass(frozen=True)
class Generation:
    """What the kernel had from a moment on, since which wait, and towards which target it was made."""

    snapshot: Snapshot
    since: float
    waits: int
    target: int


@dataclass
class Recorder(FakeNft):
    """FakeNft with a memory, a clock that stands still unless it is told, and a wait that takes no time."""

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
        """Let so many transactions pass, and have the next one refused."""
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

    def sweep(self) -> Swap:
        return self.swapper.sweep(self.targets[-1])

    def snapshot(self) -> Snapshot:
        listings = self.list(TABLE)
        handles = {family: self.handles(family, TABLE) for family in listings}
        return Snapshot(
            Ruleset(TABLE, {family: listing.table for family, listing in listings.items()}),
            {(family, name): rules for family, own in handles.items() for name, rules in own.rules.items()},
            {(family, name): number for family, own in handles.items() for name, number in own.sets.items()},
        )

    def overlaps(self) -> list[tuple[Generation, Generation]]:
        """Pairs of generations that a packet may meet one after the other: rules of one, elements of the other."""
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
