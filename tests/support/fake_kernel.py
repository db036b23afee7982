"""A fake kernel in memory, for tests that need no root.

It is as strict as the real kernel, and passes the same cases (kernel_cases.py). It is stricter where nftlb must not
rely on the real kernel: a chain with rules can't be deleted, ranges of elements may not overlap, an element is deleted
by its exact key only, and an object is not added again with other properties. Of a rule it checks only the chains, sets
and other objects that the rule refers to. It does not look for loops.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from nft_script import read_script

from nftlb.errors import KernelError
from nftlb.kernel.sources import SourceCounts
from nftlb.ruleset import (
    MARK,
    OF_REPLIES,
    Chain,
    Count,
    Element,
    Elements,
    Hook,
    Listing,
    NamedObject,
    Operation,
    ReplyCount,
    Rules,
    Set,
    Table,
    Verb,
    counter_owner,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from nftlb.model import SourceLengths
    from nftlb.ruleset import TableFamily, Transaction

_LAST_GENERATION = 0xFFFFFFFF
_QUOTED = re.compile(r'"[^"]*"')
_CHAIN_USED = re.compile(r"\b(?:goto|jump) ([^\s,;:}]+)")
_SET_USED = re.compile(r"@(?!(?:ll|nh|th|ih),)([^\s,;:}]+)")  # but not the raw bytes of a packet, `@th,192,32`
_OBJECT_USED = re.compile(r'\b(ct (?:timeout|helper)) set "([^"]+)"')
_PORTS = re.compile(r"(\d+)(?:-(\d+))?")


class FakeNft:
    """The nftables of a network namespace, in memory; a `Kernel`."""

    def __init__(self) -> None:
        self._tables: dict[tuple[TableFamily, str], _Table] = {}
        self._generation = 1
        self._failure = ""

    def check(self, text: str) -> None:
        """Check commands, their objects and their order. The matches and statements of rules are not checked."""
        self._after(read_script(text))

    def apply(self, transaction: Transaction) -> None:
        if self._failure:
            failure, self._failure = self._failure, ""
            raise KernelError(f"nftables refused: {failure}")
        if not transaction:
            return  # as in the real kernel, the generation does not change
        self._commit(self._after((transaction.table, operation) for operation in transaction.operations))

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        return {family: held.listing(family, name) for (family, name), held in self._tables.items() if name == table}

    def siblings(self, table: str) -> Collection[str]:
        return {name for (_, name), held in self._tables.items() if name != table and MARK.name in held.hooks}

    def counters(self, table: str) -> Mapping[str, Count]:
        counts = _total(self.list(table))
        return {owner: count for owner, count in counts.items() if not owner.endswith(OF_REPLIES)}

    def reply_counts(self, table: str) -> Mapping[str, ReplyCount]:
        counts = _total(self.list(table))
        return {
            owner: ReplyCount(counts.get(owner, _ZERO), replies)
            for name, replies in counts.items()
            if (owner := name.removesuffix(OF_REPLIES)) != name
        }

    def sources(self, table: str, pool: str, lengths: SourceLengths, most: int) -> SourceCounts:
        """No packet passes rules here, so there are no sources."""
        del table, pool, lengths, most
        return SourceCounts(0, ())

    def generation(self) -> int:
        return self._generation

    def fail_next(self, message: str) -> None:
        """Refuse the next transaction, with this message."""
        self._failure = message

    def flush(self) -> None:
        """Delete all tables, as another program does with `nft flush ruleset`."""
        self._commit({})

    def handles(self, family: TableFamily, table: str) -> Handles:
        """The handles of rules and sets. A replaced object gets a new handle, even if its text is the same."""
        held = self._tables[family, table]
        return Handles(
            {name: tuple(rule.handle for rule in rules) for name, rules in held.rules.items()}, dict(held.set_handles)
        )

    def send(self, family: TableFamily, table: str, owner: str, packets: int, octets: int) -> None:
        """Count packets for an owner of counters: an element's comment, or the name of a chain."""
        held = self._tables[family, table].copy()
        counts = held.counts
        counts[owner] = counts.get(owner, Count(0, 0)) + Count(packets, octets)
        self._tables[family, table] = held  # no transaction: the generation stays

    def _after(self, steps: Iterable[tuple[str, Operation]]) -> dict[tuple[TableFamily, str], _Table]:
        """All tables after these steps. Changed tables are copies."""
        tables = dict(self._tables)
        own: set[tuple[TableFamily, str]] = set()
        for name, operation in steps:
            key = (operation.family, name)
            match operation.verb, operation.object:
                case ((Verb.ADD | Verb.CREATE), (None | Table()) as content) if key not in tables:
                    tables[key] = _Table()
                    own.add(key)
                    for step in _additions(content) if content else ():
                        tables[key].carry_out(step)
                case Verb.ADD, None:
                    pass
                case Verb.CREATE, (None | Table()):
                    _refuse(errno.EEXIST, f"table {operation.family} {name}")
                case _ if key not in tables:
                    _refuse(errno.ENOENT, f"table {operation.family} {name}")
                case Verb.DELETE, None:
                    del tables[key]
                case _:
                    if key not in own:
                        tables[key] = tables[key].copy()
                        own.add(key)
                    tables[key].carry_out(operation)
        return tables

    def _commit(self, tables: dict[tuple[TableFamily, str], _Table]) -> None:
        self._tables = tables
        self._generation = self._generation % _LAST_GENERATION + 1


def _additions(table: Table) -> Iterator[Operation]:
    """Yield the steps in which nft makes the content of a table."""
    yield from (Operation(Verb.ADD, table.family, chain) for chain in table.chains.values())
    yield from (Operation(Verb.ADD, table.family, named_object) for named_object in table.objects.values())
    yield from (Operation(Verb.ADD, table.family, nft_set) for nft_set in table.sets.values())
    filled = (Elements(nft_set.name, nft_set.elements) for nft_set in table.sets.values())
    yield from (Operation(Verb.ADD, table.family, elements) for elements in filled)
    ruled = (Rules(chain.name, chain.rules) for chain in table.chains.values())
    yield from (Operation(Verb.ADD, table.family, rules) for rules in ruled)


@dataclass(frozen=True)
class Handles:
    """The handles of the objects of a table: rules by chain, and sets."""

    rules: Mapping[str, tuple[int, ...]]
    sets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Rule:
    handle: int
    text: str


@dataclass
class _Table:
    """A table. `uses` counts the references to each chain, set and object, as `chain NAME` or `ct helper NAME`."""

    sets: dict[str, Set] = field(default_factory=dict)
    elements: dict[str, dict[str, Element]] = field(default_factory=dict)
    hooks: dict[str, Hook | None] = field(default_factory=dict)
    rules: dict[str, tuple[_Rule, ...]] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Count] = field(default_factory=dict)
    set_handles: dict[str, int] = field(default_factory=dict)
    last_handle: int = 0
    objects: dict[str, NamedObject] = field(default_factory=dict)

    def copy(self) -> _Table:
        elements = {name: dict(own) for name, own in self.elements.items()}
        return _Table(
            dict(self.sets),
            elements,
            dict(self.hooks),
            dict(self.rules),
            self.uses.copy(),
            dict(self.counts),
            dict(self.set_handles),
            self.last_handle,
            dict(self.objects),
        )

    def listing(self, family: TableFamily, name: str) -> Listing:
        sets = {
            key: replace(nft_set, elements=tuple(self.elements[key].values())) for key, nft_set in self.sets.items()
        }
        chains = {
            key: Chain(key, tuple(rule.text for rule in rules), self.hooks[key]) for key, rules in self.rules.items()
        }
        return Listing(
            Table(family, name, sets, chains, dict(self.objects)),
            {owner: self.counts.get(owner, _ZERO) for owner in self._owners()},
        )

    def carry_out(self, operation: Operation) -> None:  # noqa: C901 - a table of operations
        match operation.verb, operation.object:
            case Verb.ADD, Chain() as chain:
                self._add_chain(chain)
            case Verb.FLUSH, Chain(name=name):
                self._flush(name)
            case Verb.ADD, Rules(chain=name, rules=rules):
                self._add_rules(name, rules)
            case Verb.DELETE, Chain(name=name):
                self._delete_chain(name)
            case Verb.ADD, Set() as nft_set:
                self._add_set(nft_set)
            case Verb.DELETE, Set(name=name):
                self._delete_set(name)
            case Verb.ADD, NamedObject() as one:
                if (
                    self.objects.setdefault(one.key, one) != one
                ):  # the real kernel keeps the old properties, and is silent
                    _refuse(errno.EEXIST, f"{one.key}, with other properties")
            case Verb.DELETE, NamedObject(key=key):
                self._need_object(key)
                self._need_unused(*key.rsplit(" ", 1))
                del self.objects[key]
            case Verb.ADD, Elements(set=name, elements=elements):
                self._add_elements(name, elements)
            case Verb.DELETE, Elements(set=name, elements=elements):
                self._delete_elements(name, elements)
            case _:
                raise AssertionError(f"nftlb writes no such operation: {operation}")

    def _add_chain(self, chain: Chain) -> None:
        hook = self.hooks.setdefault(chain.name, chain.hook)
        self.rules.setdefault(chain.name, ())
        if chain.hook and hook != chain.hook:
            _refuse(errno.EOPNOTSUPP if hook else errno.EEXIST, f"chain {chain.name}, which has another hook")

    def _flush(self, name: str) -> None:
        self._need_chain(name)
        for rule in self.rules[name]:
            self._unuse(rule.text)
        self.rules[name] = ()
        self.counts.pop(name, None)

    def _add_rules(self, name: str, rules: Iterable[str]) -> None:
        self._need_chain(name)
        for text in rules:
            self._use(text)
            self.rules[name] += (_Rule(self._next_handle(), text),)

    def _delete_chain(self, name: str) -> None:
        self._need_chain(name)
        if self.rules[name]:
            _refuse(errno.EBUSY, f"chain {name} has rules")
        self._need_unused("chain", name)
        del self.rules[name], self.hooks[name]

    def _add_set(self, nft_set: Set) -> None:
        present = self.sets.get(nft_set.name)
        if present is None:
            self.sets[nft_set.name], self.elements[nft_set.name] = replace(nft_set, elements=()), {}
            self.set_handles[nft_set.name] = self._next_handle()
        elif not present.same_kind(nft_set):
            _refuse(errno.EEXIST, f"{present.keyword} {nft_set.name}, which is of another kind")
        self._add_elements(nft_set.name, nft_set.elements)

    def _delete_set(self, name: str) -> None:
        self._need_set(name)
        self._need_unused("set", name)
        self._delete_elements(name, list(self.elements[name].values()))
        del self.elements[name], self.sets[name], self.set_handles[name]

    def _add_elements(self, name: str, elements: Iterable[Element]) -> None:
        self._need_set(name)
        held = self.elements[name]
        for element in elements:
            present = held.get(element.key)
            if present is None:
                if self.sets[name].interval and any(_overlap(element.key, other) for other in held):
                    _refuse(errno.EEXIST, f"element {element.key} of {name} overlaps another")
                self._use(element.data)
                held[element.key] = element
            elif present.data != element.data:
                _refuse(errno.EEXIST, f"element {element.key} of {name}, with other data")

    def _delete_elements(self, name: str, elements: Iterable[Element]) -> None:
        self._need_set(name)
        for element in elements:
            present = self.elements[name].pop(element.key, None)
            if present is None:
                _refuse(errno.ENOENT, f"element {element.key} of {name}")
            self._unuse(present.data)
            if self.sets[name].counter:
                self.counts.pop(present.comment, None)

    def _use(self, text: str) -> None:
        chains, sets, objects = _used(text)
        for name in chains:
            self._need_chain(name)
            if self.hooks[name]:
                _refuse(errno.EOPNOTSUPP, f"chain {name} has a hook, so nothing can go there")
        for name in sets:
            self._need_set(name)
        for key in objects:
            self._need_object(key)
        self.uses.update(_uses(chains, sets, objects))

    def _unuse(self, text: str) -> None:
        self.uses.subtract(_uses(*_used(text)))

    def _next_handle(self) -> int:
        self.last_handle += 1
        return self.last_handle

    def _need_chain(self, name: str) -> None:
        if name not in self.rules:
            _refuse(errno.ENOENT, f"chain {name}")

    def _need_set(self, name: str) -> None:
        if name not in self.sets:
            _refuse(errno.ENOENT, f"set {name}")

    def _need_object(self, key: str) -> None:
        if key not in self.objects:
            _refuse(errno.ENOENT, key)

    def _need_unused(self, kind: str, name: str) -> None:
        if self.uses[f"{kind} {name}"]:
            _refuse(errno.EBUSY, f"{kind} {name} is referred to")

    def _owners(self) -> Iterable[str]:
        """Yield the owners of counters."""
        for name, nft_set in self.sets.items():
            if nft_set.counter:
                yield from (element.comment for element in self.elements[name].values() if element.comment)
        for name, rules in self.rules.items():
            if any(re.search(r"\bcounter\b", _QUOTED.sub("", rule.text)) for rule in rules):
                yield name


_ZERO = Count(0, 0)


def _used(text: str) -> tuple[list[str], list[str], list[str]]:
    """The chains, sets and other objects to which a rule or an element's data refers."""
    bare = _QUOTED.sub("", text)
    objects = [f"{kind} {name}" for kind, name in _OBJECT_USED.findall(text)]
    return _CHAIN_USED.findall(bare), _SET_USED.findall(bare), objects


def _uses(chains: Iterable[str], sets: Iterable[str], objects: Iterable[str]) -> list[str]:
    return [*(f"chain {name}" for name in chains), *(f"set {name}" for name in sets), *objects]


def _overlap(left: str, right: str) -> bool:
    """Whether two keys match a common packet. Each part of a key may be a range of ports."""
    return all(map(_parts_overlap, left.split(" . "), right.split(" . ")))


def _parts_overlap(left: str, right: str) -> bool:
    first, second = _PORTS.fullmatch(left), _PORTS.fullmatch(right)
    if first is None or second is None:
        return left == right
    return int(first[1]) <= int(second[2] or second[1]) and int(second[1]) <= int(first[2] or first[1])


def _refuse(number: int, what: str) -> NoReturn:
    raise KernelError(f"nftables refused: {os.strerror(number)}: {what}")


def _total(listings: Mapping[TableFamily, Listing]) -> dict[str, Count]:
    """The counts of each backend, from elements of sets and from the backends' own chains."""
    counts: dict[str, Count] = {}
    for listing in listings.values():
        for owner, count in listing.counts.items():
            name = counter_owner(owner) if owner in listing.table.chains else owner
            if not name:
                continue  # a pool's chain: it counts refused packets, which no backend got
            counts[name] = counts.get(name, Count(0, 0)) + count
    return counts
