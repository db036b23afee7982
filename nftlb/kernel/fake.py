"""A kernel in memory: for trying things out, and for tests that need no root.

It is as strict as the real one, and passes the same cases (tests/kernel_cases.py). Where the real one is lax in a way
that nobody should rely on, it is stricter: a chain with rules can't be deleted, ranges of elements may not overlap at
all, and an element goes by its exact key only. It does not judge what a rule says beyond the chains and sets that it
names, and looks for no loops.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from nftlb.errors import KernelError
from nftlb.ruleset import MARK, Chain, Count, Element, Listing, Set, Table
from nftlb.swap.operations import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
    Operation,
)

from .script import read_script

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.ruleset import TableFamily
    from nftlb.swap import Transaction

_LAST_GENERATION = 0xFFFFFFFF
_QUOTED = re.compile(r'"[^"]*"')
_CHAIN_USED = re.compile(r"\b(?:goto|jump) ([^\s,;:}]+)")
_SET_USED = re.compile(r"@(?!(?:ll|nh|th|ih),)([^\s,;:}]+)")  # and not the raw bytes of a packet, `@th,192,32`
_PORTS = re.compile(r"(\d+)(?:-(\d+))?")


class FakeNft:
    """nftables of a network namespace that is only imagined; a `Kernel`."""

    def __init__(self) -> None:
        self._tables: dict[tuple[TableFamily, str], _Table] = {}
        self._generation = 1
        self._failure = ""

    def check(self, text: str) -> None:
        """Judge the commands, the objects they name and the order of both; what a rule matches or does, is not read."""
        self._after(read_script(text))

    def apply(self, transaction: Transaction) -> None:
        if self._failure:
            failure, self._failure = self._failure, ""
            raise KernelError(f"nftables refused: {failure}")
        if not transaction:
            return  # as with the real one, the generation stays
        self._commit(self._after((transaction.table, operation) for operation in transaction.operations))

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        return {family: held.listing(family, name) for (family, name), held in self._tables.items() if name == table}

    def siblings(self, table: str) -> Collection[str]:
        return {name for (_, name), held in self._tables.items() if name != table and MARK.name in held.hooks}

    def counters(self, table: str) -> Mapping[str, Count]:
        return _total(self.list(table))

    def generation(self) -> int:
        return self._generation

    def fail_next(self, message: str) -> None:
        """Have the next transaction refused, whatever it is."""
        self._failure = message

    def flush(self) -> None:
        """Do what others do with `nft flush ruleset`: take all tables away."""
        self._commit({})

    def handles(self, family: TableFamily, table: str) -> Handles:
        """Which rule and which set is which: one that is replaced gets another number, even if it reads the same."""
        held = self._tables[family, table]
        return Handles(
            {name: tuple(rule.handle for rule in rules) for name, rules in held.rules.items()}, dict(held.set_handles)
        )

    def send(self, family: TableFamily, table: str, owner: str, packets: int, octets: int) -> None:
        """Count packets for an owner of counters: what an element's comment says, or the name of a chain."""
        held = self._tables[family, table].copy()
        counts = held.counts
        counts[owner] = counts.get(owner, Count(0, 0)) + Count(packets, octets)
        self._tables[family, table] = held  # no transaction: the generation stays

    def _after(self, steps: Iterable[tuple[str, Operation]]) -> dict[tuple[TableFamily, str], _Table]:
        """All tables as they would be, with those that are changed copied first."""
        tables = dict(self._tables)
        own: set[tuple[TableFamily, str]] = set()
        for name, operation in steps:
            key = (operation.family, name)
            match operation:
                case AddTable() if key not in tables:
                    tables[key] = _Table()
                    own.add(key)
                case AddTable(anew=anew):
                    if anew:
                        _refuse(errno.EEXIST, f"table {operation.family} {name}")
                case _ if key not in tables:
                    _refuse(errno.ENOENT, f"table {operation.family} {name}")
                case DeleteTable():
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


@dataclass(frozen=True)
class Handles:
    """Numbers of a table's objects: of the rules by chain, and of the sets."""

    rules: Mapping[str, tuple[int, ...]]
    sets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Rule:
    handle: int
    text: str


@dataclass
class _Table:
    """A table, and how often each of its chains and sets is referred to: by `chain NAME` and `set NAME`."""

    sets: dict[str, Set] = field(default_factory=dict)
    elements: dict[str, dict[str, Element]] = field(default_factory=dict)
    hooks: dict[str, str] = field(default_factory=dict)
    rules: dict[str, tuple[_Rule, ...]] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Count] = field(default_factory=dict)
    set_handles: dict[str, int] = field(default_factory=dict)
    last_handle: int = 0

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
        )

    def listing(self, family: TableFamily, name: str) -> Listing:
        sets = {key: replace(one, elements=tuple(self.elements[key].values())) for key, one in self.sets.items()}
        chains = {
            key: Chain(key, tuple(rule.text for rule in rules), self.hooks[key]) for key, rules in self.rules.items()
        }
        return Listing(
            Table(family, name, sets, chains), {owner: self.counts.get(owner, _ZERO) for owner in self._owners()}
        )

    def carry_out(self, operation: Operation) -> None:
        match operation:
            case AddChain(chain=chain):
                self._add_chain(chain)
            case FlushChain(name=name):
                self._flush(name)
            case AddRules(chain=chain):
                self._add_rules(chain)
            case DeleteChain(name=name):
                self._delete_chain(name)
            case AddSet(set=one):
                self._add_set(one)
            case DeleteSet(set=one):
                self._delete_set(one.name)
            case AddElements(set=name, elements=elements):
                self._add_elements(name, elements)
            case DeleteElements(set=name, elements=elements):
                self._delete_elements(name, elements)

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

    def _add_rules(self, chain: Chain) -> None:
        self._need_chain(chain.name)
        for text in chain.rules:
            self._use(text)
            self.rules[chain.name] += (_Rule(self._next_handle(), text),)

    def _delete_chain(self, name: str) -> None:
        self._need_chain(name)
        if self.rules[name]:
            _refuse(errno.EBUSY, f"chain {name} has rules")
        self._need_unused("chain", name)
        del self.rules[name], self.hooks[name]

    def _add_set(self, one: Set) -> None:
        present = self.sets.get(one.name)
        if present is None:
            self.sets[one.name], self.elements[one.name] = replace(one, elements=()), {}
            self.set_handles[one.name] = self._next_handle()
        elif not present.same_kind(one):
            _refuse(errno.EEXIST, f"{present.keyword} {one.name}, which is of another kind")

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
        chains, sets = _used(text)
        for name in chains:
            self._need_chain(name)
            if self.hooks[name]:
                _refuse(errno.EOPNOTSUPP, f"chain {name} has a hook, so nothing can go there")
        for name in sets:
            self._need_set(name)
        self.uses.update(_uses(chains, sets))

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

    def _need_unused(self, kind: str, name: str) -> None:
        if self.uses[f"{kind} {name}"]:
            _refuse(errno.EBUSY, f"{kind} {name} is referred to")

    def _owners(self) -> Iterable[str]:
        """Whoever has a counter."""
        for name, one in self.sets.items():
            if one.counter:
                yield from (element.comment for element in self.elements[name].values() if element.comment)
        for name, rules in self.rules.items():
            if any(re.search(r"\bcounter\b", _QUOTED.sub("", rule.text)) for rule in rules):
                yield name


_ZERO = Count(0, 0)


def _used(text: str) -> tuple[list[str], list[str]]:
    """The chains and the sets that a rule, or an element's data, refers to."""
    bare = _QUOTED.sub("", text)
    return _CHAIN_USED.findall(bare), _SET_USED.findall(bare)


def _uses(chains: Iterable[str], sets: Iterable[str]) -> list[str]:
    return [*(f"chain {name}" for name in chains), *(f"set {name}" for name in sets)]


def _overlap(left: str, right: str) -> bool:
    """Whether two keys, of which any part may be a range of ports, have a packet in common."""
    return all(map(_parts_overlap, left.split(" . "), right.split(" . ")))


def _parts_overlap(left: str, right: str) -> bool:
    one, other = _PORTS.fullmatch(left), _PORTS.fullmatch(right)
    if one is None or other is None:
        return left == right
    return int(one[1]) <= int(other[2] or other[1]) and int(other[1]) <= int(one[2] or one[1])


def _refuse(number: int, what: str) -> NoReturn:
    raise KernelError(f"nftables refused: {os.strerror(number)}: {what}")


def _total(listings: Mapping[TableFamily, Listing]) -> dict[str, Count]:
    """What was counted for each backend: by a set's element, or by the chain that is the backend's own."""
    counts: dict[str, Count] = {}
    for listing in listings.values():
        for owner, count in listing.counts.items():
            if owner in listing.table.chains and not owner.startswith("backend/"):
                continue  # a pool's chain: what it refused was sent to nobody
            name = owner.removeprefix("backend/")
            counts[name] = counts.get(name, Count(0, 0)) + count
    return counts
