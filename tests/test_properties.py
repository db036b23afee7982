"""What holds for every valid configuration: the kernel takes it, lists it back, and spreads packets by weight."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import count
from math import gcd
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import pytest
from comparing import comparable
from configs import changed, configs, documents, load, memberships
from hypothesis import given, settings
from hypothesis import strategies as st
from real_kernel import Inside, real_kernel
from tracer import Packet, Tracer

from nftlb.compiler import Compiled, Membership, read_back
from nftlb.compiler.allocation import is_flow
from nftlb.compiler.membership import select
from nftlb.model import Balance, Config, Listener, Pool
from nftlb.ruleset import Ruleset, file_text
from nftlb.swap import Swapper, Transaction
from nftlb.swap.operations import AddRules, DeleteTable, FlushChain

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
    """Wait for nobody: no packets are on their way."""


def _empty(kernel: Inside) -> None:
    kernel.apply(Transaction("nftlb", tuple(map(DeleteTable, kernel.list("nftlb")))))


@st.composite
def _states(draw: st.DrawFn) -> tuple[Config, Membership]:
    config = draw(configs())
    return config, draw(memberships(config))


@settings(max_examples=40, deadline=None)
@given(state=_states())
def test_the_kernel_has_what_was_compiled(kernel: Inside, state: tuple[Config, Membership]) -> None:
    """A fresh process that reads the kernel finds the very ruleset, and the allocation, and has nothing to do."""
    config, membership = state
    compiled = Compiled(config)
    ruleset = compiled.ruleset(membership)
    _empty(kernel)

    kernel.check(file_text(ruleset))
    Swapper(kernel, "nftlb", _nowhere).swap(ruleset)
    listings = kernel.list("nftlb")

    assert compiled.allocation == read_back(listings)
    assert comparable(ruleset.tables) == comparable({family: one.table for family, one in listings.items()})
    assert not Swapper(kernel, "nftlb", _nowhere).swap(ruleset)
    assert not Swapper(kernel, "nftlb", _nowhere).sweep(ruleset)


@settings(max_examples=25, deadline=None)
@given(files=st.data())
def test_the_kernel_follows_from_one_to_the_next(kernel: Inside, files: st.DataObject) -> None:
    """Whatever a configuration is changed to, the kernel takes every step on the way, and then has that and no more."""
    _empty(kernel)
    swapper = Swapper(kernel, "nftlb", _nowhere)
    document = files.draw(documents())
    for _ in range(3):
        config = load(document)
        target = Compiled(config, read_back(kernel.list("nftlb"))).ruleset(files.draw(memberships(config)))
        swapper.swap(target)
        swapper.sweep(target)

        assert not Swapper(kernel, "nftlb", _nowhere).swap(target)
        assert not Swapper(kernel, "nftlb", _nowhere).sweep(target)
        document = files.draw(changed(document))


@settings(max_examples=25, deadline=None)
@given(config=configs())
def test_every_rule_can_be_replaced(kernel: Inside, config: Config) -> None:
    """The kernel takes each rule also when its sets are there already (nft 1.0.6 does not take all that it lists)."""
    ruleset = Compiled(config).ruleset()
    _empty(kernel)
    Swapper(kernel, "nftlb", _nowhere).swap(ruleset)
    chains = [(family, chain) for family, table in ruleset.tables.items() for chain in table.chains.values()]
    flushes = [FlushChain(family, chain.name) for family, chain in chains]
    additions = [AddRules(family, chain) for family, chain in chains]

    kernel.apply(Transaction("nftlb", (*flushes, *additions)))

    assert not Swapper(kernel, "nftlb", _nowhere).swap(ruleset)


@settings(max_examples=40, deadline=None)
@given(state=_states(), order=st.randoms(use_true_random=False))
def test_packets_go_where_the_weights_send_them(state: tuple[Config, Membership], order: Random) -> None:
    """Packets of one socket to any listener: in two turns of the wheel, each target gets its exact share.

    That holds in whatever order backends and pools are written. By hash, all go to one target of the selection.
    """
    config, membership = state
    written = replace(
        config, pools=tuple(replace(pool, backends=_shuffled(pool.backends, order)) for pool in config.pools)
    )
    written = replace(written, pools=_shuffled(written.pools, order))

    for one in (config, written):
        compiled = Compiled(one)
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
        tracer.send(Packet(client, 40000, vip, listener.last_port, listener.protocol))
    return tracer.counts


def _check_shares(pool: Pool, listener: Listener, membership: Membership, sent: Counter[str]) -> None:
    weights = _weights(pool, listener, membership)
    turn = _turn(pool, listener, membership)
    reached = {owner: number for owner, number in sent.items() if owner.count("/") == 1}
    if pool.balance is Balance.HASH and weights:
        assert sum(reached.values()) == 2 * turn
        assert len(reached) == 1
        assert reached.keys() <= weights.keys()
    else:
        assert {owner: 2 * turn * weight // sum(weights.values()) for owner, weight in weights.items()} == reached
