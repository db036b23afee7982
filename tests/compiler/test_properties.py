"""Properties of every valid configuration: the kernel accepts it, lists the same, and spreads packets by weight."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import count
from math import gcd
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import pytest
from config_strategies import changed, configs, documents, load, memberships
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_tracer import Packet, Tracer
from real_kernel import Inside, real_kernel
from table_comparison import comparable

from nftlb.compiler import Compiled, read_back
from nftlb.compiler.allocation import is_flow
from nftlb.compiler.selection import select
from nftlb.model import Balance, Config, Listener, Membership, Pool
from nftlb.ruleset import Operation, Rules, Ruleset, Transaction, Verb, file_text
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from random import Random

Item = TypeVar("Item")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Inside]:
    """The real kernel; the interfaces that the configurations name are there."""
    with real_kernel() as own:
        yield own


def _nowhere() -> None:
    """Do not wait, because there are no packets."""


def _empty(kernel: Inside) -> None:
    kernel.apply(Transaction("nftlb", tuple(Operation(Verb.DELETE, family) for family in kernel.list("nftlb"))))


@st.composite
def _states(draw: st.DrawFn) -> tuple[Config, Membership]:
    config = draw(configs())
    return config, draw(memberships(config))


@settings(max_examples=40, deadline=None)
@given(state=_states())
def test_the_kernel_has_what_was_compiled(kernel: Inside, state: tuple[Config, Membership]) -> None:
    """A new process that reads the kernel finds the same ruleset and allocation, and has nothing to change."""
    config, membership = state
    compiled = Compiled(config)
    ruleset = compiled.ruleset(membership)
    _empty(kernel)

    kernel.check(file_text(ruleset))
    Swapper(kernel, "nftlb", _nowhere).swap(ruleset)
    listings = kernel.list("nftlb")

    assert compiled.allocation == read_back(listings)
    assert comparable(ruleset.tables) == comparable({family: listing.table for family, listing in listings.items()})
    assert not Swapper(kernel, "nftlb", _nowhere).swap(ruleset)
    assert not Swapper(kernel, "nftlb", _nowhere).remove_leftovers(ruleset)


@settings(max_examples=25, deadline=None)
@given(files=st.data())
def test_the_kernel_accepts_every_change_of_a_configuration(kernel: Inside, files: st.DataObject) -> None:
    """For any change of a configuration, the kernel accepts every transaction, and then has exactly the new ruleset."""
    _empty(kernel)
    swapper = Swapper(kernel, "nftlb", _nowhere)
    document = files.draw(documents())
    for _ in range(3):
        config = load(document)
        target = Compiled(config, read_back(kernel.list("nftlb"))).ruleset(files.draw(memberships(config)))
        swapper.swap(target)
        swapper.remove_leftovers(target)

        assert not Swapper(kernel, "nftlb", _nowhere).swap(target)
        assert not Swapper(kernel, "nftlb", _nowhere).remove_leftovers(target)
        document = files.draw(changed(document))


@settings(max_examples=25, deadline=None)
@given(config=configs())
def test_every_rule_can_be_replaced(kernel: Inside, config: Config) -> None:
    """The kernel takes each rule also when its sets are there already (nft 1.0.6 does not take all that it lists)."""
    ruleset = Compiled(config).ruleset()
    _empty(kernel)
    Swapper(kernel, "nftlb", _nowhere).swap(ruleset)
    chains = [(family, chain) for family, table in ruleset.tables.items() for chain in table.chains.values()]
    flushes = [Operation(Verb.FLUSH, family, chain) for family, chain in chains]
    additions = [Operation(Verb.ADD, family, Rules(chain.name, chain.rules)) for family, chain in chains]

    kernel.apply(Transaction("nftlb", (*flushes, *additions)))

    assert not Swapper(kernel, "nftlb", _nowhere).swap(ruleset)


@settings(max_examples=40, deadline=None)
@given(state=_states(), order=st.randoms(use_true_random=False))
def test_backends_get_packets_by_weight(state: tuple[Config, Membership], order: Random) -> None:
    """Packets of one socket to any listener: in two cycles, each target gets its exact share.

    That holds in whatever order backends and pools are written. By hash, all go to one target of the selection.
    """
    config, membership = state
    written = replace(
        config, pools=tuple(replace(pool, backends=_shuffled(pool.backends, order)) for pool in config.pools)
    )
    written = replace(written, pools=_shuffled(written.pools, order))

    for version in (config, written):
        compiled = Compiled(version)
        ruleset = compiled.ruleset(membership)
        for pool in config.pools:
            for listener in pool.listen:
                if not is_flow(pool, listener.protocol):
                    sent = _counts(compiled, ruleset, listener, 2 * _turn(pool, listener, membership))
                    _check_shares(pool, listener, membership, sent)


def _shuffled(items: tuple[Item, ...], order: Random) -> tuple[Item, ...]:
    return tuple(order.sample(items, len(items)))


def _weights(pool: Pool, listener: Listener, membership: Membership) -> dict[str, int]:
    selection = select(pool, listener.family, membership.of(pool.name))
    return {target.owner: weight for target, weight in selection.targets}


def _turn(pool: Pool, listener: Listener, membership: Membership) -> int:
    weights = _weights(pool, listener, membership).values()
    return sum(weights) // (gcd(*weights) or 1) or 1


def _counts(compiled: Compiled, ruleset: Ruleset, listener: Listener, packets: int) -> Counter[str]:
    vip = str(listener.address)
    four = listener.family == "ip"
    marks = frozenset(compiled.allocation.marks.values())
    dice: defaultdict[int, count[int]] = defaultdict(count)  # fair at each modulus
    tracer = Tracer(
        ruleset,
        (vip, "10.0.0.1" if four else "2001:db8:1::1"),
        routed_marks=marks,
        dice=lambda modulus: next(dice[modulus]) % modulus,
        hash_of=lambda value, modulus: crc32(value.encode()) % modulus,
    )
    client = "198.51.100.7" if four else "2001:db8:7::7"
    for _ in range(packets):
        # Each key in a payload has bytes here.
        tracer.send(Packet(client, 40000, vip, listener.last_port, listener.protocol, payload=b"@" * 40))
    return tracer.counts


def _check_shares(pool: Pool, listener: Listener, membership: Membership, sent: Counter[str]) -> None:
    weights = _weights(pool, listener, membership)
    turn = _turn(pool, listener, membership)
    reached = {owner: number for owner, number in sent.items() if not owner.startswith("pool/")}
    if pool.balance is Balance.HASH and weights:
        assert sum(reached.values()) == 2 * turn
        assert len(reached) == 1
        assert reached.keys() <= weights.keys()
    else:
        assert {owner: 2 * turn * weight // sum(weights.values()) for owner, weight in weights.items()} == reached
