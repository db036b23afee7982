"""Three thousand swaps under a blast: nothing is lost, doubled, sent outside its set, or answered from elsewhere."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from lab.blaster import Membership as Members
from packets.world import DSR_INGRESS, MODES, NAT, PORT, STATELESS, World, down, vip

from nftlb.model import Config

if TYPE_CHECKING:
    from lab.blaster import Blaster, Sender
    from packets.world import Mode

pytest_plugins = ("lab.fixtures",)
pytestmark = pytest.mark.alone

EVERYONE = ("b1", "b2", "b3")
SETS = (EVERYONE, ("b1", "b2"), EVERYONE, ("b2", "b3"), EVERYONE, ("b1", "b3"), ("b2",), ("b3", "b1"))
SWAPS = 3000
PACE = 0.002  # seconds from one swap to the next
# The sender's processor does the balancing too, so it has one of its own: twice as many datagrams a second.
SENDER, OTHERS = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
CASES = [*((mode, 4) for mode in MODES), (NAT, 6), (STATELESS, 6), (DSR_INGRESS, 6)]


def swap_while(world: World, sender: Sender) -> list[Members]:
    """Swap from set to set until the sender is through; return when which set was in force."""
    os.sched_setaffinity(0, {OTHERS})  # of this thread, which ends with the experiment
    history = [Members(0, 0, frozenset(EVERYONE))]
    while sender.running and len(history) <= SWAPS:
        names = SETS[len(history) % len(SETS)]
        begin = time.monotonic_ns()
        world.applier.update(down(*(set(EVERYONE) - set(names))))
        history.append(Members(begin, end := time.monotonic_ns(), frozenset(names)))
        time.sleep(max(0.0, PACE - (end - begin) / 1e9))  # the pace of the experiment, not a wait for anything
    return history


@pytest.mark.parametrize(("mode", "version"), CASES, ids=lambda value: f"{value}")
@pytest.mark.parametrize("echo", [False, True], ids=["one-way", "replies"])
def test_swaps_under_fire(blaster: Blaster, mode: Mode, version: int, echo: bool) -> None:
    """Of a blast from one socket, while the set changes every two milliseconds, all arrive once, in their moment's set.

    With replies, all are answered, and from the VIP alone.
    """
    count = 200_000 if echo else 1_000_000 if version == 4 else 300_000
    with World(mode, serve=False) as world:
        bind = vip(version) if mode.dsr else ""
        with blaster.sinks(
            world.lab.backends, port=mode.port, version=version, address=bind, echo=echo, log=count, cpu=OTHERS
        ) as sinks:
            sender = sinks.start(world.lab.client, (vip(version), PORT), count=count, replies=echo, cpu=SENDER)
            history = world.lab.balancer.call(swap_while, world, sender)
            sent = sender.report()
        ledger = sinks.ledger(count)
    print(f"{mode} IPv{version}: {len(history) - 1} swaps, {sent.rate:.0f} datagrams/s, {ledger.counts}")  # noqa: T201
    assert 0 == sum(report.buffer_drops for report in sinks.reports.values()) + sent.buffer_drops
    assert (count, [], []) == (sent.sent, ledger.missing, ledger.twice)
    assert [] == ledger.outside(history)
    if echo:
        own = f"{vip(4)}:{PORT}" if version == 4 else f"[{vip(6)}]:{PORT}"
        assert ({own: count}, count, 0) == (sent.sources, sent.replies, sent.duplicates)
    assert len(history) > 100  # else nothing was shown


def reload_while(world: World, sender: Sender) -> int:
    """Take ports away from the range for new flows and give them back until the sender is through; return how often."""
    os.sched_setaffinity(0, {OTHERS})
    pool = world.pool()
    listen = tuple(replace(one, first_port=40000, last_port=50000) for one in pool.listen)
    more = replace(pool, name="more", listen=listen)
    reloads = 0
    while sender.running:
        world.applier.load(Config(pools=(pool,) if reloads % 2 else (pool, more)))
        reloads += 1
    return reloads


@pytest.mark.parametrize("version", [4, 6])
def test_reloads_that_move_source_ports(blaster: Blaster, version: int) -> None:
    """Each reload gives every backend another zone; all of a blast from one socket arrive once and are answered."""
    count = 200_000
    with World(NAT, serve=False) as world:
        with blaster.sinks(
            world.lab.backends, port=NAT.port, version=version, address="", echo=True, log=count, cpu=OTHERS
        ) as sinks:
            sender = sinks.start(world.lab.client, (vip(version), PORT), count=count, replies=True, cpu=SENDER)
            reloads = world.lab.balancer.call(reload_while, world, sender)
            sent = sender.report()
        ledger = sinks.ledger(count)
    print(f"IPv{version}: {reloads} reloads, {sent.rate:.0f} datagrams/s, {ledger.counts}")  # noqa: T201
    assert (count, [], []) == (sent.sent, ledger.missing, ledger.twice)
    own = f"{vip(4)}:{PORT}" if version == 4 else f"[{vip(6)}]:{PORT}"
    assert ({own: count}, count, 0) == (sent.sources, sent.replies, sent.duplicates)
    assert reloads > 5  # else nothing was shown


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_removed_backend_gets_nothing_after_the_commit(mode: Mode) -> None:
    """Once `update` has returned, an old client's socket no longer reaches the backend; when it is back, it does."""
    with World(mode) as world, world.lab.client.connect((vip(4), PORT)) as client:
        assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in client.exchange(6)]
        for _ in range(20):
            world.update(down("b2"))
            assert ["b1", "b3"] * 2 == [answer.backend for answer in client.exchange(4)]
            world.update(down())
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
