"""How a configuration gets into the kernel and out of it: tables, conntrack entries and routing rules, in order.

The one-shot command and the daemon both do it this way. What is decided is decided by pure functions of the compiler;
this file knows what comes before what, and what to take back.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Protocol

from nftlb.compiler import Allocation, Compiled, Hop, Membership, Need, Routes, left_behind, read_back
from nftlb.compiler.allocation import Taken, allocate
from nftlb.compiler.connections import Stay, cuts
from nftlb.compiler.membership import targets
from nftlb.difference import difference, steering_difference
from nftlb.errors import KernelError, NftlbError
from nftlb.kernel.conntrack import cut as cut_connections
from nftlb.kernel.grace import wait_for_packets
from nftlb.kernel.nflog import can_log
from nftlb.kernel.steering import Steering, hops
from nftlb.model import Family, Passive
from nftlb.ruleset import Listing, Ruleset, is_empty, is_ours
from nftlb.swap import Swapper, Transaction
from nftlb.swap.operations import DeleteTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from nftlb.compiler.connections import Keep
    from nftlb.kernel import Kernel
    from nftlb.model import Config, IPAddress
    from nftlb.ruleset import TableFamily


def unknown_nft(unrecognised: Collection[str]) -> str:
    """What to say of objects that the kernel reads back otherwise than they were written."""
    some = "; ".join(list(unrecognised)[:3]) + ("; ..." if len(unrecognised) > 3 else "")  # noqa: PLR2004
    return (
        f"{len(unrecognised)} of our objects read back from the kernel otherwise than they were written just before "
        f"({some}): nftlb does not know this version of nft. What was read is taken for right as long as it stays; "
        "`nftlb diff` shows it as a difference"
    )


class Steers(Protocol):
    """The routing rules that send marked packets to their backends."""

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        """Have exactly these; return the changes made."""

    def current(self) -> Mapping[int, Hop]:
        """What is there now."""


@dataclass(frozen=True)
class Applied:
    """What was changed: the transactions' texts, the changes of routing, and how many conntrack entries were cut.

    `lacking` is what a lenient load had to do without, or the tables of somebody else that a removal left, a line
    each; `seconds` is what the transactions themselves took libnftables and the kernel. `lingers`: in so many seconds
    `tidy()` can remove what answers need that are under way now; None if there is nothing of the kind. `unrecognised`
    names objects that the kernel reads back otherwise than they were written: this nft is one that nftlb does not know.
    """

    transactions: tuple[str, ...] = ()
    steered: tuple[str, ...] = ()
    cut: int = 0
    lacking: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    lingers: float | None = field(default=None, compare=False)
    unrecognised: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.transactions or self.steered or self.cut)


@dataclass
class Applier:
    """Brings configurations into the kernel of the network namespace in which its parts were made.

    `wait` returns when no packet is left on the way that was there when it was called; `lookup` finds the next hops of
    addresses; `logs` tells whether the kernel can tell the daemon of refusals: pools that have that by default do
    without where it can't. For `linger` seconds, answers to what a former backend got still come from the service.

    Every method raises KernelError or SystemFault when it is refused, having taken back what it did first.
    """

    kernel: Kernel
    table: str = "nftlb"
    cut: Callable[[Keep], int] = cut_connections
    steering: Steers = field(default_factory=Steering)
    lookup: Callable[[Iterable[IPAddress]], Mapping[IPAddress, Hop]] = hops
    wait: Callable[[], None] = wait_for_packets
    logs: Callable[[], bool] = can_log
    interfaces: Callable[[], Collection[str]] = lambda: [name for _, name in socket.if_nameindex()]
    linger: float = 0.0
    clock: Callable[[], float] = time.monotonic
    swapper: Swapper = field(init=False)
    _loaded: tuple[Compiled, Membership] | None = None
    _answers: Mapping[Need, float] = field(default_factory=dict)
    _resting: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Zones of former owners, each with the time until which replies may still need the zone's conntrack entries."""

    def __post_init__(self) -> None:
        self.swapper = Swapper(self.kernel, self.table, self.wait)

    def load(self, config: Config, membership: Membership | None = None, *, lenient: bool = False) -> Applied:
        """Make the kernel do what the configuration says, and nothing else; waits until leftovers can be removed.

        What answers under way need is left for a later `tidy()`.

        `lenient`: an interface that is missing or down does not keep all the rest from being loaded.
        """
        membership = membership or Membership()
        before = self.swapper.seconds
        present = self.swapper.present()
        previous = _allocation(present)
        lacking: list[str] = []
        if lenient:
            config, lacking = _without_missing(config, self.interfaces())
        taken = self._taken()
        compiled = self._compile(config, self._with_resting(previous), taken)
        answers = self._awaited(self.accepted or present, compiled.ruleset(membership))
        if answers:
            compiled.keep(answers)
        target = compiled.ruleset(membership)
        self.swapper.refuse_strangers(target)
        due = cuts(previous, compiled.allocation, compiled.connections(membership))
        steering = _Steered(
            self.steering, previous.marks.values(), compiled.steered(), taken.marks, lacking if lenient else None
        )
        generation = self.kernel.generation()
        try:
            steering.add()
            count = self._cut(due.before)
            made = self.swapper.swap(target)
        except BaseException:
            with suppress(NftlbError):
                # Had some of the new rules got there, what they need would have to stay.
                if self.kernel.generation() == generation:
                    steering.undo()
            raise
        self._loaded, self._answers = (compiled, membership), answers
        self._rest(previous, compiled.allocation)
        swept = self.swapper.sweep(target)
        # Until here, packets of what is no more have been let through, and may have made entries.
        count += self._cut(due.after)
        steering.finish()
        steered = tuple(steering.changes)
        transactions = made.transactions + swept.transactions
        seconds = self.swapper.seconds - before
        lacks = tuple(dict.fromkeys(lacking))
        return Applied(transactions, steered, count, lacks, seconds, self._lingers(), self._unrecognised)

    def update(self, membership: Membership) -> Applied:
        """Follow the states of backends. Waits for nothing: what is left over goes with a later change."""
        if self._loaded is None:
            raise AssertionError("load() comes before update()")
        compiled, before = self._loaded
        seconds = self.swapper.seconds
        made = self.swapper.swap(compiled.ruleset(membership))
        count = self._cut(compiled.connections(membership, since=before))
        self._loaded = compiled, membership
        return Applied(made.transactions, (), count, seconds=self.swapper.seconds - seconds)

    def tidy(self, *, at_once: bool = False) -> Applied:
        """Remove what is left over; waits until no packet needs it.

        What answers need goes when its time has come, or `at_once`.
        """
        if self._loaded is None:
            return Applied()
        compiled, membership = self._loaded
        texts: list[str] = []
        now = inf if at_once else self.clock()
        awaited = {need: end for need, end in self._answers.items() if end > now}
        if awaited != self._answers:
            compiled.keep(awaited)
            texts += self.swapper.swap(compiled.ruleset(membership)).transactions
            self._answers = awaited
        texts += self.swapper.sweep(compiled.ruleset(membership)).transactions
        return Applied(tuple(texts), lingers=self._lingers(), unrecognised=self._unrecognised)

    @property
    def accepted(self) -> Ruleset | None:
        """What the kernel accepted last; None before that."""
        if self._loaded is None:
            return None
        compiled, membership = self._loaded
        return compiled.ruleset(membership)

    @property
    def holds(self) -> bool:
        """Whether the kernel still does what it accepted last."""
        target = self.accepted
        return target is not None and self.swapper.does(target)

    @property
    def untouched(self) -> bool:
        """Whether nobody else has written to nf_tables since we last looked."""
        return self.swapper.untouched()

    def remove(self, config: Config | None = None) -> Applied:
        """Take away our tables, the connections of our zones and what steers marks; leaves no trace.

        With a configuration, also what would be ours by it: somebody may have flushed our tables, and with them the
        record of what else is ours.
        """
        present = self.swapper.present()
        allocations, taken = [_allocation(present)], self._taken()
        if config is not None:
            allocations.append(allocate(config, allocations[0], taken))
        transaction = Transaction(
            self.table, tuple(DeleteTable(family) for family, table in present.tables.items() if not is_empty(table))
        )
        if transaction:
            self.kernel.apply(transaction)
            self.wait()
        self._loaded, self._answers = None, {}
        count = self._cut({zone: Stay.NOTHING for one in allocations for zone in one.zones.values()})
        marked = config is None or any(one.marks for one in allocations)
        steered = self.steering.apply(self._steered_by(taken)) if marked else []
        stays = tuple(
            f"table {family} {self.table} ({content}) was not made by nftlb, and stays as it is"
            for family, content in self.swapper.strangers.items()
        )
        return Applied((transaction.text,) if transaction else (), tuple(steered), count, stays)

    def diff(self, config: Config, membership: Membership | None = None) -> str:
        """What `load` would change, as text; empty if nothing. Leftovers of earlier versions count."""
        present = self.swapper.present()
        previous = _allocation(present)
        taken = self._taken()
        compiled = self._compile(config, previous, taken)
        self.swapper.refuse_strangers(compiled.ruleset(membership))
        lines = list(difference(present, compiled.ruleset(membership)))
        wanted = compiled.steered()
        if wanted or previous.marks:
            current = {mark: hop for mark, hop in self.steering.current().items() if mark not in taken.marks}
            lines += steering_difference(current, wanted)
        return "".join(f"{line}\n" for line in lines)

    @property
    def _unrecognised(self) -> tuple[str, ...]:
        return self.swapper.spellings.unrecognised

    def _awaited(self, before: Ruleset, target: Ruleset) -> dict[Need, float]:
        """What answers need that the target lacks, each with the time at which it may go."""
        now = self.clock()
        until = {need: self._answers.get(need, now + self.linger) for need in left_behind(before, target)}
        return {need: end for need, end in until.items() if end > now}

    def _with_resting(self, previous: Allocation) -> Allocation:
        """Add the zones that rest, so that another backend gets such a zone only when there is no other."""
        now, taken = self.clock(), set(previous.zones.values())
        resting = {owner: zone for owner, (zone, end) in self._resting.items() if end > now and zone not in taken}
        return replace(previous, zones={**resting, **previous.zones})

    def _rest(self, previous: Allocation, allocation: Allocation) -> None:
        """Let the zones rest that have lost their owner: replies under way would be lost with the conntrack entries."""
        now, taken = self.clock(), set(allocation.zones.values())
        left = {owner: (zone, now + self.linger) for owner, zone in previous.zones.items()}
        resting = {**self._resting, **left}
        self._resting = {
            owner: (zone, end) for owner, (zone, end) in resting.items() if end > now and zone not in taken
        }

    def _lingers(self) -> float | None:
        return max(0.0, min(self._answers.values()) - self.clock()) if self._answers else None

    def _taken(self) -> Taken:
        """What daemons of other tables in this network namespace have numbered."""
        return Taken.by(_numbered(self.kernel.list(one)) for one in self.kernel.siblings(self.table))

    def _steered_by(self, others: Taken) -> Mapping[int, Hop]:
        """What others have steered. Asked for only where there are others."""
        if not others.marks:
            return {}
        return {mark: hop for mark, hop in self.steering.current().items() if mark in others.marks}

    def _compile(self, config: Config, previous: Allocation, taken: Taken) -> Compiled:
        if config.table != self.table:
            raise NftlbError(
                f"the configuration is for table {config.table}, but the tables of {self.table} are loaded"
            )
        if any(pool.refusals is Passive.CHECK for pool in config.pools) and not self.logs():
            config = without_hints(config)
        unknown = [
            target.via or target.address
            for pool in config.pools
            if pool.ingress
            for family in Family
            for target in targets(pool, family)
            if not target.device
        ]
        return Compiled(config, previous, Routes(self.lookup(unknown) if unknown else {}), taken)

    def _cut(self, keep: Keep) -> int:
        return self.cut(keep) if keep else 0


@dataclass
class _Steered:
    """Routing around a swap: what new rules need is there before them, what the old ones needed goes after them.

    What others have steered (`others`: their marks) stays. Nothing is asked or done where neither the old rules (`had`:
    their marks) nor the new ones set marks. Where the kernel refuses some of it, that is noted in `lacking`; without
    such a list it is an error.
    """

    steering: Steers
    had: Collection[int]
    wanted: Mapping[int, Hop]
    others: Collection[int] = ()
    lacking: list[str] | None = None
    changes: list[str] = field(default_factory=list)
    _before: Mapping[int, Hop] | None = None
    _theirs: Mapping[int, Hop] = field(default_factory=dict)

    def add(self) -> None:
        if self.had or self.wanted:
            self._before = self.steering.current()
            self._theirs = {mark: hop for mark, hop in self._before.items() if mark in self.others}
            still_needed = {mark: hop for mark, hop in self._before.items() if mark in self.had}
            self._apply({**still_needed, **self.wanted})

    def undo(self) -> None:
        if self._before is not None:
            self.steering.apply(self._before)

    def finish(self) -> None:
        if self.had or self.wanted:
            self._apply(self.wanted)

    def _apply(self, wanted: Mapping[int, Hop]) -> None:
        try:
            self.changes += self.steering.apply({**self._theirs, **wanted})
        except KernelError as error:
            if self.lacking is None:
                raise
            self.lacking += str(error).splitlines()


def _without_missing(config: Config, present: Collection[str]) -> tuple[Config, list[str]]:
    """Leave out interfaces of the fast path that are not there: the kernel would refuse all. Say which."""
    lacking = [
        f"pool {pool.name}: there is no interface {name}, so its fast path is left out there"
        for pool in config.pools
        for name in pool.ingress
        if name not in present
    ]
    if not lacking:
        return config, []
    pools = (replace(pool, ingress=tuple(one for one in pool.ingress if one in present)) for pool in config.pools)
    return replace(config, pools=tuple(pools)), lacking


def without_hints(config: Config) -> Config:
    """Leave out what a pool has by default, and a kernel that can't log would refuse."""
    pools = (replace(one, passive=False) if one.refusals is Passive.CHECK else one for one in config.pools)
    return replace(config, pools=tuple(pools))


def _allocation(present: Ruleset) -> Allocation:
    return read_back({family: Listing(table) for family, table in present.tables.items()})


def _numbered(listings: Mapping[TableFamily, Listing]) -> Allocation:
    """The allocation of another daemon's tables; of none that only has the name of one of them."""
    return read_back({family: listing for family, listing in listings.items() if is_ours(listing.table)})
