"""The order in which a configuration gets into the kernel: tables, conntrack entries and routing rules.

The commands and the daemon share this module. Pure functions of the compiler decide about the content. This module
decides about the order of the steps, and about what to undo when the kernel refuses one of them.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from nftlb.compiler import Allocation, Compiled, Hop, Need, Routes, left_behind, read_back
from nftlb.compiler.allocation import FlowZone, ForeignNumbers, allocate
from nftlb.compiler.connections import Stay, cuts
from nftlb.compiler.guard import guard_lists
from nftlb.compiler.ingress import has_fast_path
from nftlb.compiler.reply_form import unknown_host
from nftlb.compiler.selection import targets
from nftlb.errors import KernelError, NftlbError
from nftlb.kernel.conntrack import delete_entries as delete_kernel_connections
from nftlb.kernel.flow_options import has_option, missing_options, without_options
from nftlb.kernel.grace import wait_for_packets
from nftlb.kernel.nflog import can_log
from nftlb.kernel.policy_routing import PolicyRouting, find_hops
from nftlb.kernel.reply_paths import find_obstacles
from nftlb.kernel.tunnels import missing_kinds
from nftlb.model import Encap, Family, Forward, Membership, Passive, SourceLengths
from nftlb.ruleset import Listing, Operation, Ruleset, Transaction, Verb, is_empty, is_ours

from .difference import difference, routing_difference
from .routing import RoutingChange, RoutingRules
from .swapper import Swapper, no_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from nftlb.compiler.allocation import ZoneOwner
    from nftlb.compiler.connections import Keep
    from nftlb.compiler.reply_form import Obstacles
    from nftlb.kernel import Kernel
    from nftlb.kernel.sources import SourceCounts
    from nftlb.model import Config, IPAddress, Pool
    from nftlb.ruleset import Count, ReplyCount, TableFamily


@dataclass(frozen=True)
class Shortfall:
    """Something that a load could not do as the file wants. `pool`: the pool that it concerns; empty: the host."""

    text: str
    pool: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Applied:
    """The changes of one call: texts of transactions, changes of routing, and the number of deleted conntrack entries.

    `lacking`: each thing that a lenient load left out, or each foreign table that `remove()` left alone.
    `seconds`: the time that libnftables and the kernel took for the transactions. `lingers`: seconds until `tidy()` can
    delete what in-flight replies need; None if there is nothing to delete. `unrecognised`: objects that the kernel
    lists in another form than they were written, because nftlb does not know this version of nft. `slower`: the
    pools whose replies are not rewritten in prerouting, although the file asks for that. `reduced`: a line for each
    option of flows without which a pool was loaded, because the kernel lacks it.
    """

    transactions: tuple[str, ...] = ()
    routing: tuple[str, ...] = ()
    deleted: int = 0
    lacking: tuple[Shortfall, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    lingers: float | None = field(default=None, compare=False)
    unrecognised: tuple[str, ...] = ()
    slower: tuple[Shortfall, ...] = ()
    reduced: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.transactions or self.routing or self.deleted)


@dataclass(frozen=True)
class UsedZones:
    """Conntrack zones that may have entries.

    `flows`: the zones of the pools' flows at present. `zones`: all zones used since the first load, also by other
    daemons.
    """

    flows: Mapping[ZoneOwner, int] = field(default_factory=dict)
    zones: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Accepted:
    """What the kernel accepted last. Immutable, so that other threads can read it."""

    compiled: Compiled
    membership: Membership
    ruleset: Ruleset


@dataclass
class Applier:
    """Brings configurations into the kernel of the network namespace in which this object was made.

    `delete_connections` deletes conntrack entries and returns their number. `lookup` finds the next hops of addresses.
    `wait` returns when all packets that were in the hooks at the call have left them. `logs` tells whether the kernel
    can log refused packets; pools that use this log only by default are loaded without the log if the kernel can't log.
    `obstacles` finds what keeps replies from being rewritten in prerouting. `supports` tells whether the kernel has an
    option of flows (`flow_options.py`); a pool is loaded without a missing option. `missing_tunnels` tells which types
    of tunnels the kernel lacks. `interfaces` returns the names of all interfaces, with their numbers. `linger`: for so
    many seconds, in-flight replies of former backends still get the address of the service. `vouches`: see Swapper.

    A method whose step the kernel refuses undoes the earlier steps and raises KernelError or SystemFault.
    """

    kernel: Kernel
    table: str = "nftlb"
    delete_connections: Callable[[Keep], int] = delete_kernel_connections
    routing: RoutingRules = field(default_factory=PolicyRouting)
    lookup: Callable[[Iterable[IPAddress]], Mapping[IPAddress, Hop]] = find_hops
    wait: Callable[[], None] = wait_for_packets
    logs: Callable[[], bool] = can_log
    obstacles: Callable[[Config], Obstacles] = find_obstacles
    supports: Callable[[Kernel, str], bool] = has_option
    missing_tunnels: Callable[[Iterable[tuple[Encap, int]]], frozenset[tuple[Encap, int]]] = missing_kinds
    interfaces: Callable[[], Mapping[str, int]] = lambda: {name: index for index, name in socket.if_nameindex()}
    linger: float = 0.0
    clock: Callable[[], float] = time.monotonic
    vouches: InitVar[Callable[[int, int], bool]] = no_monitor
    swapper: Swapper = field(init=False)
    accepted: Accepted | None = field(default=None, init=False)
    used: UsedZones = field(default_factory=UsedZones, init=False)
    """Immutable, as `accepted`: a new object replaces the old one."""
    _missing: frozenset[str] = field(default=frozenset(), init=False)
    """The options of flows that the kernel lacked at the last load."""
    _absent: frozenset[str] = field(default=frozenset(), init=False)
    """The interfaces that the last load left out."""
    _indices: Mapping[str, int] = field(init=False)
    """The interfaces at the last load, with their numbers; before the first load, those when this object was made."""
    _unrouted: RoutingChange | None = field(default=None, init=False)
    """The routing rules of the last load, if the kernel refused some of them."""
    _replies: Mapping[Need, float] = field(default_factory=dict, init=False)
    """What in-flight replies need, each with the time until which they may need it."""
    _resting: Mapping[ZoneOwner, tuple[int, float]] = field(default_factory=dict, init=False)
    """Zones of former owners, each with the time until which replies may still need the zone's conntrack entries."""

    def __post_init__(self, vouches: Callable[[int, int], bool]) -> None:
        self.swapper = Swapper(self.kernel, self.table, self.wait, vouches=vouches)
        self._indices = self.interfaces()

    def load(self, config: Config, membership: Membership | None = None, *, lenient: bool = False) -> Applied:
        """Make the kernel do exactly what the configuration says. Waits until leftovers of the old one can be deleted.

        A later `tidy()` deletes the rules for in-flight replies. `lenient`: leave out interfaces that are missing,
        instead of raising KernelError.
        """
        membership = membership or Membership()
        before = self.swapper.seconds
        present = self.swapper.present()
        previous = _allocation(present)
        lacking: list[Shortfall] = []
        unrouted: list[str] = []
        absent: frozenset[str] = frozenset()
        if lenient:
            present_interfaces = self.interfaces()
            absent = frozenset(_interfaces(config)).difference(present_interfaces)
            config, lacking = _without_missing(config, present_interfaces)
        taken = self._taken()
        old = present if self.accepted is None else self.accepted.ruleset
        compiled, replies = self._compile_over(old, config, membership, previous, taken)
        target = compiled.ruleset(membership)
        self.swapper.refuse_foreign_tables(target)
        due = cuts(previous, compiled.allocation, compiled.connections(membership))
        routing = RoutingChange(
            self.routing, previous.marks.values(), compiled.steered(), taken.marks, unrouted if lenient else None
        )
        generation = self.kernel.generation()
        try:
            routing.add()
            reduced = self._without_missing_tunnels(config, compiled.steered()) if lenient else config
            if reduced is not config:
                compiled, replies = self._compile_over(old, reduced, membership, previous, taken)
                target = compiled.ruleset(membership)
            count = self._delete(due.before)
            self._follow_interfaces()
            made = self.swapper.swap(target)
        except BaseException:
            with suppress(NftlbError):
                # If some of the new rules got into the kernel, the routing rules that they need have to stay.
                if self.kernel.generation() == generation:
                    routing.undo()
            raise
        self.accepted, self._replies = Accepted(compiled, membership, target), replies
        self._rest(previous, compiled.allocation)
        self._record_zones(previous, compiled.allocation, taken)
        swept = self.swapper.remove_leftovers(target)
        # Until here, packets of former pools and backends were let through, and may have made conntrack entries.
        count += self._delete(due.after)
        routing.finish()
        tried = self._unrouted.take_changes() if self._unrouted else ()  # by `can_load_more()`
        self._absent, self._unrouted = absent, routing if routing.failed else None
        return Applied(
            made.transactions + swept.transactions,
            (*tried, *routing.take_changes()),
            count,
            tuple(dict.fromkeys((*lacking, *map(Shortfall, unrouted)))),
            self.swapper.seconds - before,
            self._lingers(),
            self.swapper.unrecognised,
            tuple(slower(compiled.obstacles)),
            tuple(_reduced(config, compiled.config)),
        )

    def update(self, membership: Membership) -> Applied:
        """Make the kernel follow the states of backends. Returns without waiting: a later change deletes leftovers."""
        if self.accepted is None:
            raise AssertionError("load() comes before update()")
        compiled, seconds = self.accepted.compiled, self.swapper.seconds
        target = compiled.ruleset(membership)
        made = self.swapper.swap(target)
        count = self._delete(compiled.connections(membership, since=self.accepted.membership))
        self.accepted = Accepted(compiled, membership, target)
        return Applied(made.transactions, (), count, seconds=self.swapper.seconds - seconds)

    def tidy(self, *, at_once: bool = False) -> Applied:
        """Delete leftovers after waiting until no packet needs them.

        The rules for in-flight replies are deleted when their time is over, or at once with `at_once`.
        """
        if self.accepted is None:
            return Applied()
        compiled, membership = self.accepted.compiled, self.accepted.membership
        texts: list[str] = []
        now = inf if at_once else self.clock()
        needed = {need: end for need, end in self._replies.items() if end > now}
        if needed != self._replies:
            compiled = compiled.with_replies(needed)
            target = compiled.ruleset(membership)
            texts += self.swapper.swap(target).transactions
            self.accepted, self._replies = Accepted(compiled, membership, target), needed
        texts += self.swapper.remove_leftovers(self.accepted.ruleset).transactions
        return Applied(tuple(texts), lingers=self._lingers(), unrecognised=self.swapper.unrecognised)

    def lists(self, config: Config) -> Ruleset:
        """The lists of guards that a lenient load of this configuration would have now. Any thread may call this.

        Also those of a fast path whose tunnel has the name of another program's interface: only the load finds out.
        """
        config, _ = _without_missing(config, self.interfaces())
        kinds = {(encap, address.version) for pool in config.pools for encap, address in _fast_tunnels(pool)}
        lacked = self.missing_tunnels(kinds) if kinds else frozenset()
        config = _without_tunnels(config, lambda encap, address: (encap, address.version) in lacked)
        routes = self._routes(config)
        return guard_lists(config, lambda pool, family: has_fast_path(pool, family, routes))

    def can_load_more(self) -> bool:
        """Whether a load may leave out less than the last load. This asks the kernel, and compiles nothing.

        An interface, an option of flows, or a tunnel may be there by now, and the kernel may accept routing rules. Such
        rules are added at once, and the next load returns them with its own changes.
        """
        return (
            not self._absent.isdisjoint(self.interfaces())
            or any(self.supports(self.kernel, name) for name in self._missing)
            or (self._unrouted is not None and not self._unrouted.is_refused_again(self._hops_of(self._taken())))
        )

    def counters(self) -> Mapping[str, Count]:
        """The packets and bytes by `POOL/BACKEND` that the kernel counted, and by `DropReason.owner`."""
        return self.kernel.counters(self.table)

    def reply_counts(self) -> Mapping[str, ReplyCount]:
        """The packets and the replies of each backend whose replies are counted, by `POOL/BACKEND`."""
        return self.kernel.reply_counts(self.table)

    def sources(self, pool: Pool, most: int) -> SourceCounts:
        """The sources of a pool that sent the most packets. KernelError if the kernel refuses."""
        lengths = pool.guard.per if pool.guard else SourceLengths()
        return self.kernel.sources(self.table, pool.name, lengths, most)

    @property
    def in_force(self) -> bool:
        """Whether the kernel still does what it accepted last."""
        return self.accepted is not None and self.swapper.matches(self.accepted.ruleset)

    @property
    def unchanged_by_others(self) -> bool:
        """Whether no other program has written to our tables since our last swap."""
        return self.swapper.unchanged_by_others()

    def remove(self, config: Config | None = None) -> Applied:
        """Delete our tables, the connections in our zones and our routing rules.

        With a configuration, also the connections and routing rules that it would have: another program may have
        flushed our tables, and with them the record of our zones and marks.
        """
        present = self.swapper.present()
        allocations, taken = [_allocation(present)], self._taken()
        if config is not None:
            allocations.append(allocate(config, allocations[0], taken))
        transaction = Transaction(
            self.table,
            tuple(Operation(Verb.DELETE, family) for family, table in present.tables.items() if not is_empty(table)),
        )
        if transaction:
            self.kernel.apply(transaction)
            self.wait()
        self.accepted, self._replies = None, {}
        count = self._delete({zone: Stay.NOTHING for allocation in allocations for zone in allocation.zones.values()})
        marked = config is None or any(allocation.marks for allocation in allocations)
        routing = self.routing.apply(self._hops_of(taken)) if marked else []
        transactions = (transaction.text,) if transaction else ()
        return Applied(transactions, tuple(routing), count, tuple(map(Shortfall, self.swapper.foreign_remarks())))

    def diff(self, config: Config, membership: Membership | None = None) -> str:
        """The changes that `load` would make, as text; empty if there are none. Leftovers count as changes."""
        present = self.swapper.present()
        previous = _allocation(present)
        taken = self._taken()
        compiled = self._compile(config, previous, taken)
        self.swapper.refuse_foreign_tables(compiled.ruleset(membership))
        lines = list(difference(present, compiled.ruleset(membership)))
        wanted = compiled.steered()
        if wanted or previous.marks:
            current = {mark: hop for mark, hop in self.routing.current().items() if mark not in taken.marks}
            lines += routing_difference(current, wanted)
        return "".join(f"{line}\n" for line in lines)

    def _follow_interfaces(self) -> None:
        """List the tables again if an interface of rules was replaced by another of its name: the rules look the same.

        This comes after the routing rules, which make tunnels again.
        """
        indices = self.interfaces()
        self.swapper.forget({name for name, _ in self._indices.items() ^ indices.items()})
        self._indices = indices

    def _compile_over(
        self, old: Ruleset, config: Config, membership: Membership, previous: Allocation, taken: ForeignNumbers
    ) -> tuple[Compiled, dict[Need, float]]:
        """Compile a configuration that replaces the old ruleset. Also return what in-flight replies need."""
        compiled = self._compile(config, self._with_resting(previous), taken)
        replies = self._needed_by_replies(old, compiled.ruleset(membership))
        return (compiled.with_replies(replies) if replies else compiled), replies

    def _needed_by_replies(self, before: Ruleset, target: Ruleset) -> dict[Need, float]:
        """What in-flight replies need and the target lacks, each with the time at which it may go."""
        now = self.clock()
        until = {need: self._replies.get(need, now + self.linger) for need in left_behind(before, target)}
        return {need: end for need, end in until.items() if end > now}

    def _with_resting(self, previous: Allocation) -> Allocation:
        """Add the resting zones, so that another backend gets a resting zone only if no other zone is free."""
        now, taken = self.clock(), set(previous.zones.values())
        resting = {owner: zone for owner, (zone, end) in self._resting.items() if end > now and zone not in taken}
        return replace(previous, zones={**resting, **previous.zones})

    def _rest(self, previous: Allocation, allocation: Allocation) -> None:
        """Let zones rest that have lost their owner: in-flight replies need the conntrack entries of the zone."""
        now, taken = self.clock(), set(allocation.zones.values())
        left = {owner: (zone, now + self.linger) for owner, zone in previous.zones.items()}
        resting = {**self._resting, **left}
        self._resting = {
            owner: (zone, end) for owner, (zone, end) in resting.items() if end > now and zone not in taken
        }

    def _record_zones(self, previous: Allocation, allocation: Allocation, taken: ForeignNumbers) -> None:
        both = {*previous.zones.values(), *allocation.zones.values()}
        flows: dict[ZoneOwner, int] = {
            owner: zone for owner, zone in allocation.zones.items() if isinstance(owner, FlowZone)
        }
        self.used = UsedZones(flows, self.used.zones | both | taken.zones)

    def _lingers(self) -> float | None:
        return max(0.0, min(self._replies.values()) - self.clock()) if self._replies else None

    def _taken(self) -> ForeignNumbers:
        """The zones and marks that daemons with other tables in this network namespace use."""
        return ForeignNumbers.by(
            _foreign_allocation(self.kernel.list(sibling)) for sibling in self.kernel.siblings(self.table)
        )

    def _hops_of(self, others: ForeignNumbers) -> Mapping[int, Hop]:
        """The next hops of the marks of other daemons. The kernel is asked only if they have marks."""
        if not others.marks:
            return {}
        return {mark: hop for mark, hop in self.routing.current().items() if mark in others.marks}

    def _compile(self, config: Config, previous: Allocation, taken: ForeignNumbers) -> Compiled:
        if config.table != self.table:
            raise NftlbError(
                f"the configuration is for table {config.table}, but the tables of {self.table} are loaded"
            )
        if any(pool.refusals is Passive.CHECK for pool in config.pools) and not self.logs():
            config = without_hints(config)
        self._missing = missing_options(config, lambda name: self.supports(self.kernel, name))
        config = without_options(config, self._missing)
        return Compiled(config, previous, self._routes(config), taken, self._obstacles(config))

    def _routes(self, config: Config) -> Routes:
        """The next hops that the fast path needs and the configuration does not have."""
        unknown = [
            target.via or target.address
            for pool in config.pools
            if pool.ingress
            for family in Family
            for target in targets(pool, family)
            if not target.device and target.encap is Encap.NONE
        ]
        return Routes(self.lookup(unknown) if unknown else {})

    def _without_missing_tunnels(self, config: Config, hops: Mapping[int, Hop]) -> Config:
        """Leave out the fast path of pools whose tunnels could not be made.

        The kernel would refuse the whole load, or send packets into an interface of another program with that name.
        """
        through = {mark: hop for mark, hop in hops.items() if hop.encap is not Encap.NONE}
        found = self.routing.current() if through else {}
        missing = {(hop.encap, hop.via) for mark, hop in through.items() if found.get(mark) != hop}
        return _without_tunnels(config, lambda encap, address: (encap, address) in missing)

    def _obstacles(self, config: Config) -> Obstacles:
        """The obstacles to replies in prerouting. If they can't be found out, postrouting works in any case."""
        try:
            return self.obstacles(config)
        except KernelError as error:
            return unknown_host(config, str(error))

    def _delete(self, keep: Keep) -> int:
        return self.delete_connections(keep) if keep else 0


def _interfaces(config: Config) -> Iterator[str]:
    """The interfaces without which `_without_missing` leaves something out."""
    for pool in config.pools:
        yield from pool.ingress
        yield from (backend.device for backend in pool.backends if backend.device and _names_devices(pool))


def _names_devices(pool: Pool) -> bool:
    """Whether rules name the interfaces of backends: those of the fast path, or those that copy templates for `dsr`."""
    return bool(pool.ingress) or (pool.templates is not None and pool.forward is Forward.DSR)


def _fast_tunnels(pool: Pool) -> Iterator[tuple[Encap, IPAddress]]:
    """The tunnels that the fast path of a pool needs."""
    if pool.ingress:
        for family in Family:
            for target in targets(pool, family):
                if target.encap is not Encap.NONE:
                    yield target.encap, target.address


def _without_tunnels(config: Config, is_missing: Callable[[Encap, IPAddress], bool]) -> Config:
    """Leave out the fast path of each pool that needs a missing tunnel. Returns the same object if there is none."""
    slow = {pool.name for pool in config.pools if any(is_missing(*tunnel) for tunnel in _fast_tunnels(pool))}
    if not slow:
        return config
    return replace(
        config, pools=tuple(replace(pool, ingress=()) if pool.name in slow else pool for pool in config.pools)
    )


def _without_missing(config: Config, present: Collection[str]) -> tuple[Config, list[Shortfall]]:
    """Leave out missing interfaces, for which the kernel would refuse the whole load. Also return what is left out."""
    found = [_pool_without_missing(pool, present) for pool in config.pools]
    lacking = [Shortfall(line, pool.name) for pool, lines in found for line in lines]
    return replace(config, pools=tuple(pool for pool, _ in found)) if lacking else config, lacking


def _pool_without_missing(pool: Pool, present: Collection[str]) -> tuple[Pool, list[str]]:
    missing = f"pool {pool.name}: there is no interface"
    lacking = [f"{missing} {name}, so its fast path is left out there" for name in pool.ingress if name not in present]
    ingress = tuple(interface for interface in pool.ingress if interface in present)
    templates = pool.templates
    for backend in pool.backends if _names_devices(pool) else ():
        if not backend.device or backend.device in present:
            continue
        if pool.ingress:
            ingress = ()
            lacking.append(f"{missing} {backend.device} of backend {backend.name}, so its fast path is left out")
        if pool.templates and pool.forward is Forward.DSR:
            templates = None
            lacking.append(f"{missing} {backend.device} of backend {backend.name}, so templates go to one backend")
    return replace(pool, ingress=ingress, templates=templates) if lacking else pool, lacking


def without_hints(config: Config) -> Config:
    """Leave out the passive detection that is only a default: a kernel that can't log would refuse its rules."""
    pools = (replace(pool, passive=False) if pool.refusals is Passive.CHECK else pool for pool in config.pools)
    return replace(config, pools=tuple(pools))


def slower(obstacles: Obstacles) -> Iterable[Shortfall]:
    """Return each pool and family whose replies can't be rewritten in prerouting."""
    way = "are rewritten in postrouting, which works but costs more"
    return (
        Shortfall(f"pool {pool}: replies over {family} {way}: {obstacle}", pool)
        for (pool, family), obstacle in obstacles.items()
    )


def _reduced(wanted: Config, loaded: Config) -> Iterable[str]:
    """Return a line for each option of flows that a pool wants, and without which it was loaded."""
    for pool, other in zip(wanted.pools, loaded.pools, strict=True):
        if pool.helper is not other.helper:
            message = f"the kernel has no helper for {pool.helper}, so the pool is loaded without"
            yield f"pool {pool.name}: {message}; modprobe nf_nat_{pool.helper} first"
        if pool.session_timeout != other.session_timeout:
            message = "the kernel has no time-outs for flows, so `session_timeout` has no effect"
            yield f"pool {pool.name}: {message}; flows end as the host is set"


def _allocation(present: Ruleset) -> Allocation:
    return read_back({family: Listing(table) for family, table in present.tables.items()})


def _foreign_allocation(listings: Mapping[TableFamily, Listing]) -> Allocation:
    """The allocation in the tables of another daemon. Tables that nftlb did not make are left out."""
    return read_back({family: listing for family, listing in listings.items() if is_ours(listing.table)})
