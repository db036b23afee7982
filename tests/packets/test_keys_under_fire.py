"""A full load from ONE socket in a pool with keys, while backends are drained and priorities are lost and return.

Each datagram has its own key. All datagrams arrive once, each at the backend of its key: keys stay with backends that
stay.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from blaster import MOST_FIRE
from blaster import Membership as Members
from group_steps import HOSTS, STEPS, WEIGHTS, host_of, in_groups
from keyed_clients import explained
from pool_lab import DSR_INGRESS, NAT, PORT, STATELESS, STATELESS_INGRESS, PoolLab, close_slow_path, vip

from nftlb.explain.jhash import slot_of
from nftlb.model import Balance, Endpoint, payload_key

if TYPE_CHECKING:
    from blaster import Blaster, Sender
    from pool_lab import Mode

pytest_plugins = ("lab_fixtures",)
pytestmark = pytest.mark.alone

SENDER, OTHERS = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
PACE = 0.002  # seconds from one swap to the next
CHANGES = 2 * len(STEPS) + 1
NUMBER = payload_key(0, 8)
"""The number of a datagram of the blaster."""


@dataclass(frozen=True)
class Owners(Members):
    """The backends after a swap, with the backend of each slot."""

    slots: tuple[str, ...]


def change_while(pool_lab: PoolLab, sender: Sender, owners: list[tuple[str, ...]]) -> list[Owners]:
    """Take the pool from step to step, then stop the sender. Return the steps, each with its time."""
    os.sched_setaffinity(0, {OTHERS})  # for this thread only, which ends with the test
    history = [Owners(0, 0, frozenset(owners[0]), owners[0])]
    while sender.goes_on(enough=len(history) >= CHANGES):
        number = len(history) % len(STEPS)
        begin = time.monotonic_ns()
        pool_lab.applier.update(STEPS[number].membership)
        history.append(Owners(begin, end := time.monotonic_ns(), frozenset(owners[number]), owners[number]))
        time.sleep(max(0.0, PACE - (end - begin) / 1e9))  # the pace of the swaps, not a wait for an event
    return history


@pytest.mark.parametrize(
    ("mode", "version"), [(NAT, 4), (NAT, 6), (STATELESS, 4), (STATELESS_INGRESS, 6), (DSR_INGRESS, 4)], ids=str
)
def test_keys_stay_under_fire(blaster: Blaster, mode: Mode, version: int) -> None:
    """While the pool changes every 2 ms, each datagram reaches the backend that its key has at that moment."""
    with PoolLab(mode, backends=len(HOSTS), weights=WEIGHTS, serve=False) as pool_lab:
        close_slow_path(pool_lab)
        pool = in_groups(pool_lab.pool(), balance=Balance.HASH, key=NUMBER)
        pool_lab.load(pool)
        client = Endpoint(ip_address(pool_lab.lab.client.address(version)), 40000)
        owners = [
            tuple(host_of(name) for name in explained(pool, client, bytes(8), step.membership).slots) for step in STEPS
        ]
        bind = vip(version) if mode.dsr else ""
        with blaster.sinks(
            pool_lab.lab.backends, port=mode.port, version=version, address=bind, log=MOST_FIRE, cpu=OTHERS
        ) as sinks:
            sender = sinks.start(pool_lab.lab.client, (vip(version), PORT), count=MOST_FIRE, cpu=SENDER)
            history = pool_lab.lab.balancer.call(change_while, pool_lab, sender, owners)
            sent = sender.report()
        ledger = sinks.ledger(sent.sent)
    print(f"{mode} IPv{version}: {len(history) - 1} changes, {sent.rate:.0f}/s, {ledger.counts}")  # noqa: T201
    assert 0 == sum(report.buffer_drops for report in sinks.reports.values()) + sent.buffer_drops
    assert ([], []) == (ledger.missing, ledger.twice)
    slots = [slot_of(number.to_bytes(8, sys.byteorder), len(owners[0]), pool.seed) for number in range(sent.sent)]
    assert [] == [
        (name, number)
        for name, number, steps in ledger.moments(history)
        if all(step.slots[slots[number]] != name for step in steps)
    ]
    assert all(ledger.counts.values())
    assert len(history) >= CHANGES  # with fewer changes, the test would prove nothing
