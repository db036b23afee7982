"""`guard` of a pool: what is dropped before a packet takes a turn, and how many packets each source may send. Pure.

The chain `guard/ENTRY` stands before the entry chain of the pool, and counts sources in sets that packets fill. The
kernel adds no element to a full set, and the rule ends there. So a packet goes to the chain `limit/ENTRY` only if its
source has a place (`sources`); all sources without a place share one limit, in the chain `shared/SCOPE`, which the
guards of all entry chains of the pool in a table jump to. In `limit/ENTRY`, each source has an
element with its limit (`limits`). The rule with the limit lets packets *pass*, and the next rules drop.

There are two sets, because a look-up of an element with a limit is not found while its source is above the limit: the
kernel carries out the limit at each look-up. `limits` has room for twice as many elements. An element keeps its place
until the kernel collects it, up to some seconds after its end, and the other set may have collected it already.

An element keeps the limit with which it was made. So the names of both sets have a hash of all that their elements
depend on, and another limit has new sets. The set of banned sources depends on nothing but the length of prefixes: bans
outlive all other changes of the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from nftlb.model import DropReason, Family, Protocol
from nftlb.ruleset import AddressRanges, Ruleset, Set, Table, TableFamily, merged

from .words import WORDS, format_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from nftlb.model import Config, Guard, Pool, Rate, SourceLengths

    from .pool_rules import PoolRules

GUARDED = "guarded/"
"""The beginning of the names of the chains that drop and count, one for each pool and reason."""
CLIENTS, DROPPED, BANNED = "clients", "dropped", "banned"
"""The sets with an element for each source."""
_LISTS = _ALLOW, _DENY = "allow", "deny"
BAN_ROOM = 65536
"""How many sources of a family can be banned at a time. A source that has no room there is limited, but not banned."""
_REMEMBERED = 3600
"""Seconds after its last packet that a source is listed by `nftlb clients`."""
_SHORTEST = 10
"""The least seconds after its last packet that a source keeps its place. A source with short pauses stays."""
# A packet that is not the first of a connection: in TCP, SYN without ACK; in SCTP, the chunk INIT, which stands alone.
_LATER = {Protocol.TCP: "@th,104,8 & 0x12 != 0x2", Protocol.SCTP: "@th,96,8 != 0x1"}


def source_set(scope: str, what: str, lengths: SourceLengths, family: Family) -> str:
    """Return the name of a set of sources, with the length of prefixes. `scope`: see `add_guard()`."""
    return f"guard/{scope}/{what}" + ("" if lengths.is_whole(family) else f"/{lengths.of(family)}")


def add_guard(
    part: PoolRules, pool: Pool, family: Family, entry: str, protocols: Collection[Protocol], *, scope: str = ""
) -> str:
    """Add what stands before an entry chain. Return the chain to go to: the entry chain itself without a guard.

    `protocols` are those of the packets that go to the entry chain. `scope` is the middle of the names of sets, by
    default the pool; in a table of both families it also has the family.
    """
    if pool.guard is None:
        return entry
    rules = _GuardRules(part, pool, pool.guard, family, scope or pool.name, entry)
    name = guard_of(entry)
    part.chain(name, *rules.rules(protocols))
    return name


def fast_path_scope(pool: Pool, family: Family) -> str:
    """Return the `scope` of a pool in the table of the fast path. See `add_guard()`."""
    return f"{pool.name}/{family}"


def guard_lists(config: Config, fast: Callable[[Pool, Family], bool] = lambda *_: False) -> Ruleset:
    """Return the sets with the lists of all guards, without the other content of the tables.

    `fast` tells whether a pool has a fast path in a family, whose table then has sets too (`has_fast_path()`).
    """
    tables: dict[TableFamily, dict[str, Set]] = {}
    for pool in config.pools:
        if pool.guard is None:
            continue
        for family in pool.families:
            scopes = {WORDS[family].table: pool.name}
            if fast(pool, family):
                scopes[TableFamily.NETDEV] = fast_path_scope(pool, family)
            for table, scope in scopes.items():
                for what in _LISTS:
                    if found := _list_set(pool.guard, what, family, scope):
                        tables.setdefault(table, {})[found.name] = found
    return Ruleset(config.table, {family: Table(family, config.table, sets) for family, sets in tables.items()})


def guard_of(entry: str) -> str:
    """Return the name of the chain of a guard that stands before an entry chain."""
    return f"guard/{entry}"


@dataclass(frozen=True)
class _GuardRules:
    """The rules before one entry chain. The methods add the sets and chains that the rules name."""

    part: PoolRules
    pool: Pool
    guard: Guard
    family: Family
    scope: str
    entry: str

    def rules(self, protocols: Collection[Protocol]) -> Iterator[str]:
        guard, saddr = self.guard, f"{WORDS[self.family].ip} saddr"
        if guard.clients:
            yield self._count(CLIENTS)
        if allowed := self._list(_ALLOW):
            yield f"{saddr} @{allowed} goto {self.entry}"
        if denied := self._list(_DENY):
            yield f"{saddr} @{denied} goto {self._drop(DropReason.DENIED)}"
        if guard.rate is not None:
            yield from self._limit(guard.rate, protocols)
        else:
            yield f"goto {self.entry}"

    def _limit(self, rate: Rate, protocols: Collection[Protocol]) -> Iterator[str]:
        guard, key, burst = self.guard, self._key, self.guard.most_at_once
        banned = self._name(BANNED)
        dropped = self._drop(DropReason.RATE)
        if guard.ban:
            self._add_set(banned, BAN_ROOM)
            yield f"{key} @{banned} goto {self._drop(DropReason.BANNED)}"
        for protocol, later in _LATER.items():
            if protocol in protocols:
                yield f"meta l4proto {protocol} {later} goto {self.entry}"
        stays = max(_SHORTEST, guard.refill + 1)
        limit = f"timeout {stays}s limit rate {rate} burst {burst} packets"
        digest = _digest(f"{key} {limit} {guard.sources}")
        sources, limits = (f"guard/{self.scope}/{what}/{digest}" for what in ("sources", "limits"))
        self._add_set(sources, guard.sources)
        self._add_set(limits, 2 * guard.sources)
        self.part.chain(
            f"limit/{self.entry}",
            f'update @{limits} {{ {key} {limit} }} goto {self.entry} comment "within the limit of its source"',
            *([f"add @{banned} {{ {key} timeout {guard.ban // 1000}s }} goto {dropped}"] if guard.ban else ()),
            f"goto {dropped}",
        )
        yield f"update @{sources} {{ {key} timeout {stays}s }} goto limit/{self.entry}"
        yield f'jump {self._shared(rate)} comment "no room for its source"'
        yield f"goto {self.entry}"

    def _shared(self, rate: Rate) -> str:
        """Return the chain that drops what is above the limit of all sources without a place, and returns the rest."""
        shared, name = self.guard.shared_rate, f"shared/{self.scope}"
        burst = shared.packets if shared else self.guard.most_at_once
        together = f"limit rate over {shared or rate} burst {burst} packets"
        self.part.chain(name, f"{together} goto {self._drop(DropReason.FULL)}")
        return name

    @property
    def _key(self) -> str:
        """The source of a packet: its address, or the prefix of the address."""
        saddr, bits = f"{WORDS[self.family].ip} saddr", self.guard.per.of(self.family)
        if self.guard.per.is_whole(self.family):
            return saddr
        if self.family is Family.IP:
            return f"{saddr} & {format_address(IPv4Address((1 << 32) - (1 << 32 - bits)))}"
        return f"{saddr} & {format_address(IPv6Address((1 << 128) - (1 << 128 - bits)))}"

    def _drop(self, reason: DropReason) -> str:
        """Return the name of the chain that drops and counts."""
        name = f"{GUARDED}{self.scope}/{reason}"
        self.part.chain(name, *([self._count(DROPPED)] if self.guard.clients else ()), "counter drop")
        return name

    def _count(self, what: str) -> str:
        """Return a rule that counts the packet for its source. In a full set, the packet is not counted."""
        name = self._name(what)
        self._add_set(name, self.guard.sources)
        return f"update @{name} {{ {self._key} timeout {_REMEMBERED}s counter }}"

    def _list(self, what: str) -> str:
        """Return the name of the set with the ranges of a list; empty if the list has none of this family."""
        found = _list_set(self.guard, what, self.family, self.scope)
        if found is None:
            return ""
        self.part.sets[found.name] = found
        return found.name

    def _name(self, what: str) -> str:
        return source_set(self.scope, what, self.guard.per, self.family)

    def _add_set(self, name: str, room: int) -> None:
        self.part.sets[name] = Set(name, f"type {WORDS[self.family].address}", size=room, dynamic=True)


def _digest(content: str) -> str:
    return blake2b(content.encode(), digest_size=4).hexdigest()


class _Ranges(NamedTuple):
    """The ranges of a list, and a hash of them."""

    elements: AddressRanges
    digest: str


# A pool with two entry chains, or a fast path, has its lists twice, and other backends do not change the lists. The
# ranges are deleted together with the guard.
_RANGES: WeakKeyDictionary[Guard, dict[tuple[str, Family], _Ranges]] = WeakKeyDictionary()


def _list_set(guard: Guard, what: str, family: Family, scope: str) -> Set | None:
    """Return the set with the ranges of a list; None if the list has none of this family.

    The name has a hash of the ranges. So a changed list is a new set, which is complete before a rule uses it.
    """
    known = _RANGES.setdefault(guard, {})
    if (what, family) not in known:
        entries = guard.allow if what == _ALLOW else guard.deny
        spans = merged(span for entry in entries for span in entry.of(family))
        elements = AddressRanges(spans, 4 if family is Family.IP else 16)
        known[what, family] = _Ranges(elements, _digest(repr(spans)))
    elements, digest = known[what, family]
    if not elements:
        return None
    return Set(f"guard/{scope}/{what}/{digest}", f"type {WORDS[family].address}", interval=True, elements=elements)
