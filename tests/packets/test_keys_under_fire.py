"""A full load from ONE socket in a pool with keys, while backends are drained and priorities are lost and return.

Each datagram has its own key. All datagrams arrive once, each at the backend of its key: keys stay with backends that
stay.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from blaster import Membership as Members
from group_steps import HOSTS, STEPS, WEIGHTS, host_of, in_groups
from keyed_clients import explained
from pool_lab import DSR_INGRESS, NAT, STATELESS, STATELESS_INGRESS, PoolLab, close_slow_path
from under_fire import fire, swap_in_turn

from nftlb.explain.jhash import slot_of
from nftlb.model import Balance, Endpoint, payload_key

if TYPE_CHECKING:
    from blaster import Blaster
    from pool_lab import Mode

pytest_plugins = ("lab_fixtures",)
pytestmark = pytest.mark.alone

CHANGES = 2 * len(STEPS)
NUMBER = payload_key(0, 8)
"""The number of a datagram of the blaster."""


@dataclass(frozen=True)
class Owners(Members):
    """The backends after a swap, with the backend of each slot."""

    slots: tuple[str, ...]


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
        steps = [
            (step.membership, Owners(0, 0, frozenset(slots), slots)) for step, slots in zip(STEPS, owners, strict=True)
        ]
        fired = fire(blaster, pool_lab, version, partial(swap_in_turn, pool_lab, steps=steps, least=CHANGES))
    history, count = fired.found, fired.sent.sent
    print(f"{mode} IPv{version}: {len(history) - 1} changes, {fired}")  # noqa: T201
    assert {} == fired.faults
    slots_of_keys = [slot_of(number.to_bytes(8, sys.byteorder), len(owners[0]), pool.seed) for number in range(count)]
    assert [] == [
        (name, number)
        for name, number, sets in fired.ledger.moments(history)
        if all(one.slots[slots_of_keys[number]] != name for one in sets)
    ]
    assert all(fired.ledger.counts.values())
    assert len(history) > CHANGES  # with fewer changes, the test would prove nothing
