"""Carries plans out: the only writer of our tables, resident or for one call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.errors import KernelError
from nftlb.ruleset import Ruleset, is_ours

from .plan import Leftover, after, entries, leftovers, make, removable, remove, waypoints
from .spellings import Spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from nftlb.kernel import Kernel
    from nftlb.ruleset import Table, TableFamily

# A leftover of that age is needed by no packet, and goes along with the next swap. A packet is through the hooks in
# microseconds; an RCU grace period, which is what bounds it, takes tens of milliseconds on a busy machine.
_GRACE_SECONDS = 0.5
_SHOWN = 3


@dataclass(frozen=True)
class Swap:
    """What a swap did: the transactions' texts, none if nothing differed."""

    transactions: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.transactions)


@dataclass
class Swapper:
    """Brings the kernel's tables to a target without losing a packet.

    A table of our name that somebody else has made is no part of what the kernel has, and is never touched: a target
    with such a table is refused.

    What the kernel has is remembered only while its generation number says that nobody else has written; otherwise
    it is read anew. `wait` returns when no packet is left on the way that was there when it was called. `vouches` says
    whether whatever moved the number from one to the other left our tables alone: `Monitor.vouches`, if there is one.
    """

    kernel: Kernel
    table: str
    wait: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    vouches: Callable[[int, int], bool] = lambda _since, _now: False
    seconds: float = 0.0
    """What all transactions together took libnftables and the kernel, so far."""
    strangers: Mapping[TableFamily, str] = field(default_factory=dict)
    """Tables of our name that somebody else has made, each with what is in it, as last read."""
    _known: Ruleset | None = None
    _generation: int = -1
    spellings: Spellings = field(default_factory=Spellings)
    _strayed: bool = False
    _unproved: bool = False
    _retired: dict[Leftover, float] = field(default_factory=dict)

    def present(self) -> Ruleset:
        """What the kernel has of ours now, leftovers included."""
        generation = self.kernel.generation()
        if self._known is None or (generation != self._generation and not self.vouches(self._generation, generation)):
            self._known = self.spellings.as_written(self._listed())
            self._retired = {}
            self._strayed = True
        self._generation = generation
        return self._known

    def untouched(self) -> bool:
        """Whether nobody else has written to our tables since the last swap; a look in between hides nothing."""
        if self._known is None or self._strayed:
            return False
        generation = self.kernel.generation()
        return generation == self._generation or self.vouches(self._generation, generation)

    def refuse_strangers(self, target: Ruleset) -> None:
        """Raise KernelError if the target has a table in the place of which somebody else's is."""
        self.present()
        taken = [
            f"table {family} {self.table} ({content}) was not made by nftlb, and stays as it is"
            for family, content in self.strangers.items()
            if family in target.tables
        ]
        if taken:
            raise KernelError(
                f"{'; '.join(taken)}; needed: a name that no other program uses: set `table:` to another name, or "
                "delete that table if nobody needs it"
            )

    def does(self, target: Ruleset) -> bool:
        """Whether the kernel does what the target says; what is left over beside that does not count."""
        return not make(self.present(), target)

    def swap(self, target: Ruleset) -> Swap:
        """Make the kernel do what the target says. What is left over waits for a later swap, or for `sweep()`."""
        texts: list[str] = []
        self.refuse_strangers(target)
        *detour, target = waypoints(self.present(), target)
        if detour and self._retired:
            self.wait()  # packets may still be on the way of an earlier detour
        for step in detour:
            texts += [*self._commit(step), *self.sweep(step).transactions]
        texts += self._commit(target, self._expired(target))
        self._strayed = False
        self._retire(target)
        return Swap(tuple(texts))

    def sweep(self, target: Ruleset) -> Swap:
        """Remove what is left over, when no packet needs it any more: waits for that unless it is long since."""
        texts: list[str] = []
        while left := list(leftovers(self.present(), target)):
            going = entries(target, left) or left
            if not self._old() >= set(going):
                self.wait()
            texts += self._commit(target, going)
        self._retired = {}
        self._prove()
        return Swap(tuple(texts))

    def _listed(self) -> Ruleset:
        tables = {family: listing.table for family, listing in self.kernel.list(self.table).items()}
        self.strangers = {family: _content(table) for family, table in tables.items() if not is_ours(table)}
        return Ruleset(self.table, {family: table for family, table in tables.items() if is_ours(table)})

    def _prove(self) -> None:
        """Read back what was written because a listing differed: it may differ still, for the listing's own sake.

        Nothing is concluded from what anybody else may have written since.
        """
        if not self._unproved or self._known is None or self.kernel.generation() != self._generation:
            return
        listed = self._listed()
        if self.kernel.generation() == self._generation:
            self._unproved = False
            self.spellings.learn(listed, self._known)

    def _commit(self, target: Ruleset, removed: Collection[Leftover] = ()) -> list[str]:
        known, removed = self.present(), frozenset(removed)
        transaction = make(known, target, removed)
        removal = remove(known, removed)
        whole = type(transaction)(self.table, transaction.operations + removal.operations)
        if not whole:
            self._known = after(known, target)
            return []
        self._unproved = self._unproved or (self._strayed and bool(known.tables))
        self._known = None  # until the kernel has accepted
        before = self._generation
        begin = self.clock()
        try:
            self.kernel.apply(whole)
        finally:
            self.seconds += self.clock() - begin
        generation = self.kernel.generation()
        if generation == _following(before):
            self._known, self._generation = after(known, target, removed), generation
        return [whole.text]

    def _expired(self, target: Ruleset) -> list[Leftover]:
        old = self._old()
        expired = [item for item in leftovers(self.present(), target) if item in old] if old else []
        return removable(self.present(), target, expired)

    def _old(self) -> set[Leftover]:
        """What packets have been able to do without for long enough."""
        now = self.clock()
        return {item for item, since in self._retired.items() if now - since >= _GRACE_SECONDS}

    def _retire(self, target: Ruleset) -> None:
        """Note since when packets can do without what is left over. While some still let packets in, only for those."""
        now = self.clock()
        left = list(leftovers(self.present(), target))
        self._retired = {item: self._retired.get(item, now) for item in entries(target, left) or left}


def _following(generation: int) -> int:
    """The kernel counts in 32 bits and leaves out zero."""
    return (generation + 1) & 0xFFFFFFFF or 1


def _content(table: Table) -> str:
    """A table in a few words, by which its owner may be known."""
    names = [f"chain {name}" for name in table.chains] + [f"set {name}" for name in table.sets]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
