"""Carries out plans: the only code that writes to our tables."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.errors import KernelError
from nftlb.ruleset import Ruleset, TableFamily, is_ours

from .plan import (
    Leftover,
    LeftoverKind,
    after,
    entry_leftovers,
    leftovers,
    make,
    plan_removal,
    removable,
    waypoints,
    with_part,
)
from .spellings import Spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from nftlb.kernel import Kernel
    from nftlb.ruleset import Table

# No packet needs a leftover of this age, so the next swap deletes it too. A packet passes the hooks in microseconds; an
# RCU grace period, which is the upper bound, takes tens of milliseconds on a busy machine.
_GRACE_SECONDS = 0.5
_SHOWN = 3


def no_monitor(since: int, now: int) -> bool:
    """Vouch for nothing: our tables are listed again whenever another program has written."""
    del since, now
    return False


@dataclass(frozen=True)
class Swap:
    """The texts of the transactions of a swap; empty if nothing differed."""

    transactions: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.transactions)


@dataclass
class Swapper:
    """Brings our tables in the kernel to a target without losing a packet.

    A table of our name that another program made is never read as ours and never touched: a target with this table is
    refused.

    The content of our tables is remembered as long as the kernel's generation number proves that no other program has
    written; otherwise it is listed again. `wait` returns when all packets that were in the hooks at the call have left
    them. `vouches(since, now)` tells whether the transactions between two generation numbers left our tables alone
    (`RulesetMonitor.vouches`).
    """

    kernel: Kernel
    table: str
    wait: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    vouches: Callable[[int, int], bool] = no_monitor
    seconds: float = 0.0
    """The time that libnftables and the kernel took for all transactions until now."""
    foreign_tables: Mapping[TableFamily, str] = field(default_factory=dict)
    """Tables of our name that other programs made, each with a summary of its content, from the last listing."""
    staged: Ruleset | None = None
    """Sets of ranges for a later target. They stay although a target lacks them. Any thread may set this."""
    _known: Ruleset | None = None
    _generation: int = -1
    _spellings: Spellings = field(default_factory=Spellings)
    _strayed: bool = False
    _unverified: bool = False
    _retired: dict[Leftover, float] = field(default_factory=dict)

    def present(self) -> Ruleset:
        """The present content of our tables, leftovers included."""
        generation = self.kernel.generation()
        if self._known is None or (generation != self._generation and not self.vouches(self._generation, generation)):
            self._known = self._spellings.as_written(self._listed())
            self._retired = {}
            self._strayed = True
        self._generation = generation
        return self._known

    def forget(self, interfaces: Collection[str]) -> None:
        """List our tables again at the next use if they name one of these interfaces, which others have replaced.

        The kernel removes the hooks of a deleted interface without a transaction. Rules keep the number of their
        interface, whatever has its name.
        """
        if interfaces and self._known is not None and _names(self._known, interfaces):
            self._known = None

    def unchanged_by_others(self) -> bool:
        """Whether no other program has written to our tables since our last swap, even if they were listed since."""
        if self._known is None or self._strayed:
            return False
        generation = self.kernel.generation()
        return generation == self._generation or self.vouches(self._generation, generation)

    @property
    def unrecognised(self) -> tuple[str, ...]:
        """The objects that the kernel lists in another form than they were written."""
        return self._spellings.unrecognised

    def foreign_remarks(self, families: Collection[TableFamily] = tuple(TableFamily)) -> list[str]:
        """A line for each table of our name that another program made, in these families."""
        return [
            f"table {family} {self.table} ({content}) was not made by nftlb, and stays as it is"
            for family, content in self.foreign_tables.items()
            if family in families
        ]

    def refuse_foreign_tables(self, target: Ruleset) -> None:
        """Raise KernelError if another program has made a table that the target needs."""
        self.present()
        if taken := self.foreign_remarks(target.tables):
            raise KernelError(
                f"{'; '.join(taken)}; needed: a name that no other program uses: set `table:` to another name, or "
                "delete that table if no other program needs it"
            )

    def matches(self, target: Ruleset) -> bool:
        """Whether the kernel does what the target says. Leftovers don't count."""
        return not make(self.present(), target)

    def swap(self, target: Ruleset) -> Swap:
        """Make the kernel do what the target says. Leftovers stay for a later swap or for `remove_leftovers()`."""
        texts: list[str] = []
        self.refuse_foreign_tables(target)
        *detour, target = waypoints(self.present(), target)
        if detour and self._retired:
            self.wait()  # packets may still be on an earlier detour
        for step in detour:
            texts += [*self._commit(step), *self.remove_leftovers(step).transactions]
        texts += self._commit(target, self._expired(target))
        self._strayed = False
        self._retire(target)
        return Swap(tuple(texts))

    def stage(self) -> bool:
        """Add the next part of the `staged` sets, which no rule uses yet. Return whether there was a part to add."""
        staged = self.staged
        step = None if staged is None else with_part(self.present(), staged)
        if step is None:
            return False
        self.refuse_foreign_tables(step)
        self._commit(step)
        # This reads the announcements of the part. Those of a hundred parts would be too many to read before a swap.
        self.vouches(self._generation, self._generation)
        return True

    def remove_leftovers(self, target: Ruleset) -> Swap:
        """Delete leftovers; waits until no packet needs them, unless they are old enough."""
        texts: list[str] = []
        while left := self._leftovers(target):
            going = entry_leftovers(target, left) or left
            if not self._old() >= set(going):
                self.wait()
            texts += self._commit(target, going)
        self._retired = {}
        self._learn_spellings()
        return Swap(tuple(texts))

    def _leftovers(self, target: Ruleset) -> list[Leftover]:
        staged = self.staged
        tables = {} if staged is None else staged.tables
        kept = {Leftover(LeftoverKind.SET, family, name) for family, table in tables.items() for name in table.sets}
        kept |= {Leftover(LeftoverKind.TABLE, family) for family in tables}
        return [item for item in leftovers(self.present(), target) if item not in kept]

    def _listed(self) -> Ruleset:
        tables = {family: listing.table for family, listing in self.kernel.list(self.table).items()}
        self.foreign_tables = {family: _content(table) for family, table in tables.items() if not is_ours(table)}
        return Ruleset(self.table, {family: table for family, table in tables.items() if is_ours(table)})

    def _learn_spellings(self) -> None:
        """List again what was written because a listing differed: this kernel may list it in another form.

        Nothing is recorded if another program may have written since.
        """
        if not self._unverified or self._known is None or self.kernel.generation() != self._generation:
            return
        listed = self._listed()
        if self.kernel.generation() == self._generation:
            self._unverified = False
            self._spellings.learn(listed, self._known)

    def _commit(self, target: Ruleset, removed: Collection[Leftover] = ()) -> list[str]:
        known, removed = self.present(), frozenset(removed)
        transaction = make(known, target, removed)
        removal = plan_removal(known, removed)
        whole = type(transaction)(self.table, transaction.operations + removal.operations)
        if not whole:
            self._known = after(known, target)
            return []
        self._unverified = self._unverified or (self._strayed and bool(known.tables))
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
        expired = [item for item in self._leftovers(target) if item in old] if old else []
        return removable(self.present(), target, expired)

    def _old(self) -> set[Leftover]:
        """The leftovers that no packet can need any more."""
        now = self.clock()
        return {item for item, since in self._retired.items() if now - since >= _GRACE_SECONDS}

    def _retire(self, target: Ruleset) -> None:
        """Record since when packets don't need each leftover. While entry leftovers exist, only those are recorded."""
        now = self.clock()
        left = self._leftovers(target)
        self._retired = {item: self._retired.get(item, now) for item in entry_leftovers(target, left) or left}


def _following(generation: int) -> int:
    """The next generation number: the kernel counts in 32 bits and leaves out zero."""
    return (generation + 1) & 0xFFFFFFFF or 1


def _names(ruleset: Ruleset, interfaces: Collection[str]) -> bool:
    """Whether hooks or rules name one of these interfaces."""
    quoted = [f'"{name}"' for name in interfaces]
    return any(
        (chain.hook and any(device in interfaces for device in chain.hook.devices))
        or any(name in rule for rule in chain.rules for name in quoted)
        for table in ruleset.tables.values()
        for chain in table.chains.values()
    )


def _content(table: Table) -> str:
    """A short summary of a table, by which a user may recognise its owner."""
    names = [f"chain {name}" for name in table.chains] + [f"set {name}" for name in table.sets] + [*table.objects]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
