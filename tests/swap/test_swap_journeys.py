"""Properties of swaps between random configurations: no packet is lost, and the kernel reaches the target."""

from __future__ import annotations

from typing import NoReturn, TypeAlias
from unittest.mock import patch

import pytest
from config_strategies import changed, documents, load, memberships
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from packet_outcomes import locals_of, outcomes, outcomes_between, packets
from pool_builders import DNS, config, pool
from recording_kernel import GRACE, TABLE, Recorder
from table_comparison import comparable

from nftlb.compiler import Compiled, read_back
from nftlb.model import Config, Membership
from nftlb.ruleset import Chain, Elements, Rules, Set, SharedMapping, TableFamily, Verb
from nftlb.swap import Swapper

Step: TypeAlias = tuple[Config, Membership, float]
IP = TableFamily.IP
UNSHRUNK = tuple(phase for phase in Phase if phase is not Phase.shrink)  # shrinking takes minutes and finds little


@st.composite
def journeys(draw: st.DrawFn) -> list[Step]:
    """Sequences of configurations, some of them repeated, with memberships and pauses."""
    files = [draw(documents(2))]
    for _ in range(draw(st.integers(1, 3))):
        files.append(draw(st.one_of(changed(files[-1]), changed(files[-1]), st.sampled_from(files))))
    steps = []
    for file in files:
        config = load(file)
        times = range(draw(st.integers(1, 2)))
        steps += [(config, draw(memberships(config)), draw(st.sampled_from((0.0, 0.0, 0.3, 0.6)))) for _ in times]
    return steps


def travel(steps: list[Step], *, tidy: bool) -> Recorder:
    """Load each configuration that differs from the one before, as a reload does, and follow memberships.

    A reload is `tidy`, unless the kernel refuses to have cleared up what is left over.
    """
    kernel = Recorder()
    loaded: Compiled | None = None
    for config_, membership, pause in steps:
        reload = loaded is None or loaded.config is not config_
        if loaded is None or reload:
            loaded = Compiled(config_, read_back(kernel.list(TABLE)))
        kernel.swap(loaded.ruleset(membership))
        if reload and tidy:
            kernel.remove_leftovers()
        kernel.now += pause
    return kernel


@pytest.mark.slow
@settings(max_examples=30, deadline=None, phases=UNSHRUNK)
@given(steps=journeys())
def test_a_packet_between_two_generations_is_not_lost(steps: list[Step]) -> None:
    """A packet that meets rules of one generation and elements of a later one gets where either generation sends it.

    This is tested for packets to listeners that all configurations have, and for the replies of their backends. A
    connection that begins at the moment at which its listener moves to another pool is not tested: the raw hook may
    use the former pool, and the nat hook the next pool.
    """
    kernel = travel(steps, tidy=True)
    seen = [step for step, _, _ in steps]
    local = locals_of(seen)
    own = [packets(step) for step in seen]
    for packet in dict.fromkeys(packet for some in own for packet in some):
        right = [outcomes(target, packet, local) for target in kernel.targets]
        for early, late in kernel.overlaps():
            between = range(max(early.target - 1, 0), late.target + 1)
            whose = {own[number - 1].get(packet) if number else None for number in between}
            if None not in whose and len(whose) == 1:
                allowed = set().union(*(right[number] for number in between))

                assert outcomes_between(early.snapshot, late.snapshot, packet, local) <= allowed


@settings(max_examples=50, deadline=None)
@given(steps=journeys())
def test_maps_in_use_are_not_changed(steps: list[Step]) -> None:
    """No transaction replaces a rule with a map, or deletes and adds an element of a map in use."""
    kernel = travel(steps, tidy=False)
    for early, transaction in zip(kernel.generations, kernel.transactions, strict=False):
        replaced = {
            (operation.family, operation.object.chain)
            for operation in transaction.operations
            if isinstance(operation.object, Rules)
        }
        again = {
            (operation.family, operation.object.set, element.key)
            for operation in transaction.operations
            if isinstance(operation.object, Elements) and operation.verb is Verb.ADD
            for element in operation.object.elements
        }
        recreated = {
            (operation.family, operation.object.name)
            for operation in transaction.operations
            if isinstance(operation.object, Set) and operation.verb is Verb.ADD
        }
        for family, table in early.snapshot.ruleset.tables.items():
            rules = {(family, name): rule for name, chain in table.chains.items() for rule in chain.rules}
            used = {word[1:] for rule in rules.values() for word in rule.split() if word.startswith("@")}
            for operation in transaction.operations:
                match operation.verb, operation.object:
                    case _ if operation.family is not family:
                        continue
                    case Verb.FLUSH, Chain(name=name) if (family, name) in replaced:
                        assert "map {" not in rules.get((family, name), "")
                    case Verb.DELETE, Elements(set=name, elements=elements) if name in used:
                        assert not {(family, name, element.key) for element in elements} & again
                    case Verb.DELETE, Set(name=name) if name in used:
                        assert (family, name) not in recreated


def test_a_replaced_leftover_is_deleted_once() -> None:
    """A left-over range that is replaced is deleted once, because the kernel refuses a second deletion."""
    kernel = Recorder()
    targets = [
        Compiled(config(pool("p", listen, DNS.backends))).ruleset()
        for listen in ("192.0.2.54:150-250/udp", "192.0.2.54:53/udp", "192.0.2.54:160-250/udp")
    ]
    for target in targets:
        kernel.swap(target)
        kernel.now += GRACE

    kernel.remove_leftovers()
    assert comparable(targets[-1].tables) == kernel.comparable()


def test_unchanged_pools_are_not_compared() -> None:
    """The time of a change of membership does not depend on the number of other pools."""
    kernel = Recorder()
    others = (pool(f"p{number}", f"192.0.2.60:{number + 1000}/udp", DNS.backends) for number in range(20))
    compiled = Compiled(config(DNS, *others))
    kernel.swap(compiled.ruleset())
    swapper = Swapper(kernel, TABLE, kernel.wait)
    swapper.swap(compiled.ruleset())

    def none(_: object) -> NoReturn:
        raise AssertionError("all chains are looked at")

    with patch.object(SharedMapping, "to_dict", none), patch.object(SharedMapping, "__iter__", none):
        for down in ([("dns", "b1")], [("dns", "b2"), ("p7", "b1")], []):
            assert swapper.swap(compiled.ruleset(Membership.with_down(down)))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(steps=journeys())
def test_the_kernel_has_the_target_after_each_swap(steps: list[Step]) -> None:
    """The remembered content equals the kernel's content, and without leftovers the target."""
    kernel = travel(steps, tidy=False)
    assert comparable(kernel.swapper.present().tables) == kernel.comparable()

    kernel.remove_leftovers()

    target = kernel.targets[-1]
    assert comparable(target.tables) == kernel.comparable() == comparable(kernel.swapper.present().tables)
    for swapper in (kernel.swapper, Swapper(kernel, TABLE, kernel.wait)):
        assert not swapper.swap(target)
        assert not swapper.remove_leftovers(target)


@settings(max_examples=50, deadline=None)
@given(steps=journeys())
def test_numbers_and_counters_stay_with_their_owners(steps: list[Step]) -> None:
    """A backend that stays keeps its zone and, if it does not change, its counting rule."""
    kernel = Recorder()
    before: Compiled | None = None
    for config_, membership, _ in steps:
        counted = _counters(kernel)
        after = Compiled(config_, read_back(kernel.list(TABLE)))
        kernel.swap(after.ruleset(membership))

        if before is not None:
            for owner in before.allocation.zones.keys() & after.allocation.zones.keys():
                assert before.allocation.zones[owner] == after.allocation.zones[owner]
            for counter, handle in _counters(kernel).items():
                assert handle == counted.get(counter, handle)
        before = after


def _counters(kernel: Recorder) -> dict[object, object]:
    """The counting rules of backends by chain, with their handles."""
    snapshot = kernel.snapshot()
    return {
        (family, name, chain.rules): snapshot.rules[family, name]
        for family, table in snapshot.ruleset.tables.items()
        for name, chain in table.chains.items()
        if name.startswith("backend/")
    }
