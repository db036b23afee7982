"""Lists that are added in parts before the swap that uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fake_kernel_thread import NoRouting
from pool_builders import backends, config, pool
from real_kernel import real_kernel
from recording_kernel import GRACE, TABLE, Recorder

from nftlb.compiler import Compiled, Hop
from nftlb.compiler.guard import guard_lists
from nftlb.errors import KernelError
from nftlb.kernel.monitors import RulesetMonitor
from nftlb.model import Encap, Forward, Guard, Membership, SourceEntry
from nftlb.ruleset import Chain, Element, Elements, Operation, Ruleset, Set, TableFamily, Transaction, Verb, is_ours
from nftlb.swap import Swapper, plan
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Config

IP, IP6 = TableFamily.IP, TableFamily.IP6
PART = 2


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PART", PART)


def entry(first: int, count: int) -> tuple[SourceEntry, ...]:
    """A list of so many addresses that do not touch, in both families."""
    spans = tuple((number, number) for number in range(first, first + 2 * count, 2))
    return (SourceEntry(ip=spans, ip6=spans),)


def guarded(*, deny: int = 0, allow: int = 0, first: int = 10 << 24, version: int = 4, **options: object) -> Config:
    """A pool whose guard has lists of so many addresses."""
    listen, prefix = ("192.0.2.53:53/udp", "10.0.0.") if version == 4 else ("[2001:db8::53]:53/udp", "fd00::")
    guard = Guard(allow=entry(first, allow), deny=entry(first + 1, deny))
    addresses = [f"{prefix}{last}:53" if version == 4 else f"[{prefix}{last}]:53" for last in (11, 12)]
    return config(pool("dns", listen, backends(*addresses), guard=guard, **options))


def ruleset(wanted: Config, *down: str) -> Ruleset:
    return Compiled(wanted).ruleset(Membership.with_down(("dns", name) for name in down))


def loaded(wanted: Config) -> Recorder:
    """A kernel with the rules of a configuration, and no record of earlier transactions."""
    kernel = Recorder()
    kernel.swap(ruleset(wanted))
    kernel.transactions.clear()
    return kernel


def stage(kernel: Recorder, wanted: Config) -> bool:
    """Add a part of the lists of a configuration. Return whether there was one."""
    kernel.swapper.staged = guard_lists(wanted)
    return kernel.swapper.stage()


def lists(kernel: Recorder, family: TableFamily = IP) -> dict[str, int]:
    """The lists in the kernel: what they are for, and their number of ranges."""
    sets = kernel.list(TABLE)[family].table.sets.values()
    return {found.name.split("/")[2]: len(found.elements) for found in sets if found.interval}


@pytest.mark.parametrize("version", [4, 6])
def test_lists_come_in_parts_and_are_switched_in_one_transaction(version: int) -> None:
    """No transaction adds more ranges than a part, over both lists. The swap then adds none, and needs no detour."""
    family = IP if version == 4 else IP6
    kernel, wanted = loaded(guarded(version=version)), guarded(deny=5, allow=3, version=version)

    seen = [lists(kernel, family)]
    while stage(kernel, wanted):
        seen.append(lists(kernel, family))
    added = len(kernel.transactions)
    kernel.swap(ruleset(wanted))
    kernel.swapper.staged = None

    assert [0, 2, 4, 6, 8] == [sum(found.values()) for found in seen]
    assert {"allow": 3, "deny": 5} == seen[-1] == lists(kernel, family)
    assert added + 1 == len(kernel.transactions)
    assert "guard/dns" not in "".join(
        operation.text(TABLE)
        for operation in kernel.transactions[-1].operations
        if isinstance(operation.object, Set | Elements)
    )


def test_swaps_and_tidying_between_the_parts_leave_staged_lists_alone() -> None:
    """Backends fail and leftovers are deleted while a list is incomplete. The list in force stays until the switch."""
    old, wanted = guarded(deny=3), guarded(deny=5, first=11 << 24)
    kernel = loaded(old)
    in_force = ruleset(old)
    downs: tuple[tuple[str, ...], ...] = (("b1",), (), ("b2",))
    for down in downs:
        assert stage(kernel, wanted)
        kernel.now += 2 * GRACE
        in_force = ruleset(old, *down)
        kernel.swap(in_force)
        assert kernel.swapper.matches(in_force)
    kernel.remove_leftovers()
    assert not stage(kernel, wanted)
    names = {found for found in kernel.list(TABLE)[IP].table.sets if "/deny/" in found}
    assert 2 == len(names)
    assert kernel.swapper.matches(in_force)

    kernel.swap(ruleset(wanted))
    kernel.swapper.staged = None
    kernel.remove_leftovers()

    assert {"deny": 5} == lists(kernel)
    assert kernel.comparable() == loaded(wanted).comparable()


def test_a_released_list_is_a_leftover() -> None:
    """A list whose load failed is deleted by the next tidying."""
    old = guarded(deny=1)
    kernel = loaded(old)
    stage(kernel, guarded(deny=5, first=11 << 24))
    kernel.swapper.staged = None

    kernel.swap(ruleset(old))
    kernel.remove_leftovers()

    assert kernel.comparable() == loaded(old).comparable()


def test_a_list_that_is_released_while_leftovers_are_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread releases the list after it was read: it is still kept then, and the next tidying deletes it."""
    old, wanted = guarded(deny=1), guarded(deny=5, first=11 << 24)
    kernel = loaded(old)
    stage(kernel, wanted)
    readings = iter([guard_lists(wanted)])
    expected, before = loaded(old).comparable(), kernel.comparable()
    monkeypatch.setattr(Swapper, "staged", property(lambda _: next(readings, None)))

    kernel.remove_leftovers()
    kept = kernel.comparable()
    kernel.remove_leftovers()

    assert before == kept
    assert expected == kernel.comparable()


def test_a_list_of_a_dead_daemon_is_deleted_or_completed() -> None:
    """After kill -9 in the middle of a list, the next daemon deletes what it does not want, and completes the rest."""
    old, wanted = guarded(deny=1), guarded(deny=5, first=11 << 24)
    for target in (old, wanted):
        kernel = loaded(old)
        stage(kernel, wanted)
        restarted = Swapper(kernel, TABLE, kernel.wait)

        restarted.swap(ruleset(target))
        restarted.remove_leftovers(ruleset(target))

        assert kernel.comparable() == loaded(target).comparable()


def test_a_rule_never_looks_up_a_list_that_grows() -> None:
    """The kernel fills a set after the rules of its transaction are in force: an unfinished list is completed first."""
    wanted = guarded(deny=5, first=11 << 24)
    kernel = loaded(guarded(deny=1))
    stage(kernel, wanted)

    texts = kernel.swap(ruleset(wanted)).transactions

    assert [(True, False), (False, True)] == [("add set ip nftlb guard/" in text, "add rule" in text) for text in texts]


def test_a_refused_part_leaves_all_as_it_was() -> None:
    """If the kernel refuses a part, the list in force stays, and the next attempt goes on where the last one ended."""
    old, wanted = guarded(deny=1), guarded(deny=5, first=11 << 24)
    kernel = loaded(old)
    assert stage(kernel, wanted)
    kernel.fail_after(0)
    with pytest.raises(KernelError):
        stage(kernel, wanted)
    assert kernel.swapper.matches(ruleset(old))

    parts = 0
    while stage(kernel, wanted):
        parts += 1
    assert 2 == parts


def test_a_staged_list_that_others_changed_begins_again() -> None:
    """If another program deletes a range of an unfinished list, the list is added again from its first range."""
    old, wanted = guarded(deny=1), guarded(deny=5, first=11 << 24)
    kernel = loaded(old)
    stage(kernel, wanted)
    (name,) = guard_lists(wanted).tables[IP].sets
    first = guard_lists(wanted).tables[IP].sets[name].elements[0]
    kernel.apply(Transaction(TABLE, (Operation(Verb.DELETE, IP, Elements(name, (Element(first.key),))),)))

    while stage(kernel, wanted):
        pass

    assert guard_lists(wanted).tables[IP].sets[name].elements == kernel.list(TABLE)[IP].table.sets[name].elements


def test_announcements_of_many_parts_are_read_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many parts, the monitor still vouches for our tables, so another program's change needs no listing."""
    monkeypatch.setattr(plan, "PART", 1)
    wanted = guarded(deny=300)
    with real_kernel() as kernel, kernel.namespace.call(RulesetMonitor, TABLE) as monitor:
        swapper = Swapper(kernel, TABLE, lambda: None, vouches=monitor.vouches)
        swapper.swap(ruleset(guarded()))
        swapper.staged = guard_lists(wanted)
        while swapper.stage():
            pass
        kernel.apply(Transaction("theirs", (Operation(Verb.ADD, IP),)))

        assert swapper.unchanged_by_others()


def test_a_list_in_use_is_left_to_the_swap() -> None:
    """Staging touches no list that rules look up."""
    kernel = loaded(guarded(deny=5))
    (name,) = guard_lists(guarded(deny=5)).tables[IP].sets
    last = guard_lists(guarded(deny=5)).tables[IP].sets[name].elements[4]
    kernel.apply(Transaction(TABLE, (Operation(Verb.DELETE, IP, Elements(name, (Element(last.key),))),)))

    assert not stage(kernel, guarded(deny=5))


@pytest.mark.parametrize("used", [True, False], ids=["loaded", "released"])
def test_lists_of_a_new_family_come_in_parts(*, used: bool) -> None:
    """The first list makes the table, with the mark of nftlb and no rule. Tidying keeps a staged table."""
    old, wanted = guarded(), guarded(deny=5, version=6)
    kernel, in_force = loaded(old), ruleset(old)
    seen = []
    while stage(kernel, wanted):
        kernel.now += 2 * GRACE
        kernel.swap(in_force)
        kernel.remove_leftovers()
        table = kernel.list(TABLE)[IP6].table
        assert is_ours(table)
        assert not any(chain.rules for chain in table.chains.values())
        seen.append(lists(kernel, IP6)["deny"])
    staged = len(kernel.transactions)
    if used:
        kernel.swap(ruleset(wanted))
        assert staged + 1 == len(kernel.transactions)
    kernel.swapper.staged = None
    kernel.remove_leftovers()

    assert [2, 4, 5] == seen
    assert loaded(wanted if used else old).comparable() == kernel.comparable()


def test_lists_are_not_added_to_a_table_of_another_program() -> None:
    """The refusal says whose table is in the way, as that of the swap does."""
    kernel = loaded(guarded())
    kernel.apply(Transaction(TABLE, (Operation(Verb.ADD, IP6), Operation(Verb.ADD, IP6, Chain("theirs")))))

    with pytest.raises(KernelError, match=r"table ip6 nftlb \(chain theirs\) was not made by nftlb"):
        stage(kernel, guarded(deny=5, version=6))


@pytest.mark.parametrize("version", [4, 6])
def test_a_first_list_is_filled_before_its_rules(version: int) -> None:
    """At a first start, and after `nft flush ruleset`, no rule is in force before its set is filled."""
    texts = Recorder().swap(ruleset(guarded(deny=5, version=version))).transactions

    assert ["/deny/" in text and "hook" not in text for text in texts] == [True, False]
    assert ["hook" in text for text in texts] == [False, True]


def test_a_part_reads_no_rules_of_other_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """To find out that no rule uses an unfinished list takes no longer with thousands of pools."""
    read: list[str] = []
    looked_up = plan._looked_up

    def counted(chain: Chain) -> set[str]:
        read.append(chain.name)
        return looked_up(chain)

    kernel, wanted = loaded(guarded(deny=1)), guarded(deny=5, first=11 << 24)
    monkeypatch.setattr(plan, "_looked_up", counted)
    while stage(kernel, wanted):
        pass

    assert [] == read
    assert {"deny": 5} == lists(kernel)


@pytest.mark.parametrize(
    ("interfaces", "reachable", "fast"),
    [(("eth0",), True, True), ((), True, False), (("eth0",), False, False)],
    ids=["fast path", "no interface", "no next hop"],
)
def test_staged_lists_are_those_of_the_load(interfaces: tuple[str, ...], *, reachable: bool, fast: bool) -> None:
    """`Applier.lists()` has the same sets as the rules, in every table; only a fast path that is possible has sets."""
    wanted = guarded(deny=5, allow=3, forward=Forward.STATELESS, ingress=("eth0",))
    kernel = Recorder()
    applier = Applier(
        kernel,
        delete_connections=lambda _: 0,
        routing=NoRouting(),
        lookup=lambda addresses: {address: Hop(address, "eth0") for address in addresses} if reachable else {},
        wait=kernel.wait,
        obstacles=lambda _: {},
        interfaces=lambda: dict.fromkeys(interfaces, 1),
    )
    staged = applier.lists(wanted)
    applier.load(wanted, lenient=True)

    tables = kernel.list(TABLE)
    assert ({IP, TableFamily.NETDEV} if fast else {IP}) == set(staged.tables) == set(tables)
    for family, listing in tables.items():
        ranges = {name for name, found in listing.table.sets.items() if found.interval and "guard/" in name}
        assert ranges == set(staged.tables[family].sets)


class MadeTunnels(NoRouting):
    """The routing rules of a host that makes every tunnel."""

    def __init__(self) -> None:
        self.hops: Mapping[int, Hop] = {}

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        self.hops = wanted
        return []

    def current(self) -> Mapping[int, Hop]:
        return self.hops


@pytest.mark.parametrize("has", [True, False])
def test_lists_of_a_fast_path_through_tunnels(*, has: bool) -> None:
    """If the kernel has no tunnels of the type, neither the rules nor the lists of the fast path are loaded."""
    asked: set[object] = set()

    def missing(kinds: Iterable[tuple[Encap, int]]) -> frozenset[tuple[Encap, int]]:
        asked.update(kinds)
        return frozenset() if has else frozenset(kinds)

    wanted = guarded(deny=5, forward=Forward.DSR, encap=Encap.IPIP, ingress=("eth0",))
    kernel = Recorder()
    applier = Applier(
        kernel,
        delete_connections=lambda _: 0,
        routing=MadeTunnels() if has else NoRouting(),
        wait=kernel.wait,
        interfaces=lambda: {"eth0": 1},
        missing_tunnels=missing,
    )
    staged = applier.lists(wanted)
    applier.load(wanted, lenient=True)

    tables = {IP, TableFamily.NETDEV} if has else {IP}
    assert tables == set(staged.tables) == set(kernel.list(TABLE))
    assert {(Encap.IPIP, 4)} == asked
    applier.lists(guarded(deny=5))
    assert {(Encap.IPIP, 4)} == asked


def test_other_backends_share_the_ranges() -> None:
    """A change of backends does not make the ranges of a list again: that takes 0.3 s for a hundred thousand."""
    wanted = guarded(deny=5)
    other = config(replace(wanted.pools[0], backends=wanted.pools[0].backends[:1]))
    (name,) = guard_lists(wanted).tables[IP].sets

    assert (
        guard_lists(other).tables[IP].sets[name].elements is Compiled(wanted).ruleset().tables[IP].sets[name].elements
    )
