"""A full load from ONE socket, while reloads change options and mode of the pool: nothing is lost or doubled."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from group_steps import HOSTS, WEIGHTS, in_groups
from pool_lab import DSR, DSR_INGRESS, NAT, STATELESS, STATELESS_INGRESS, PoolLab
from under_fire import fire, load_in_turn

from nftlb.model import Balance, Collector, Forward, Guard, Per, Rate, SourceKind, Templates, payload_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blaster import Blaster
    from pool_lab import Mode

    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)
pytestmark = pytest.mark.alone

LINGER = 10.0
"""Seconds for which the rules for in-flight replies stay, at least as long as a daemon keeps them."""
WIDE = Guard(rate=Rate(10_000_000), burst=1_000_000, clients=True)
"""A guard that lets all datagrams of a test pass."""


def variants(pool_lab: PoolLab) -> list[Pool]:
    """The pool with one option after the other, and without; source: keep, as templates need it."""
    mode, host = pool_lab.mode, pool_lab.lab.clients[1]
    plain = pool_lab.pool()
    if mode is NAT:
        plain = replace(plain, source=SourceKind.KEEP)
    mirror = tuple(
        Collector(name=f"archive{suffix}", address=ip_address(address), port=9995)
        for suffix, address in (("", host.ipv4), ("-6", host.ipv6))
    )
    hashed = replace(plain, balance=Balance.HASH, key=payload_key(0, 8))
    found = [plain, replace(plain, guard=WIDE), in_groups(plain), hashed, replace(plain, templates=Templates.ALL)]
    if not mode.ingress:
        found += [replace(plain, mirror=mirror), replace(hashed, mirror=mirror, guard=WIDE)]
    if not mode.dsr:
        found += [replace(plain, count_replies=True), replace(hashed, guard=WIDE, count_replies=True)]
    return found


@pytest.mark.parametrize(
    ("mode", "version"),
    [(NAT, 4), (NAT, 6), (STATELESS, 4), (STATELESS_INGRESS, 6), (DSR, 6), (DSR_INGRESS, 4)],
    ids=str,
)
def test_options_come_and_go_under_fire(blaster: Blaster, mode: Mode, version: int) -> None:
    """Each datagram arrives once and gets one reply, from the service, while reloads change the options."""
    with open_lab(mode) as pool_lab:
        reload_under_fire(blaster, pool_lab, version, variants(pool_lab))


@pytest.mark.parametrize("version", [4, 6])
def test_modes_come_and_go_under_fire(blaster: Blaster, version: int) -> None:
    """The same while reloads change how packets are forwarded. In-flight replies need the former rules for a time."""
    with open_lab(NAT) as pool_lab:
        pool_lab.applier.linger = LINGER
        nat = pool_lab.pool()
        stateless = replace(nat, forward=Forward.STATELESS)
        others = [replace(nat, source=SourceKind.KEEP), replace(nat, per=Per.FLOW)]
        others += [replace(stateless, hairpin=True), replace(stateless, ingress=("client1",))]
        reload_under_fire(blaster, pool_lab, version, [nat, stateless, *others])


def open_lab(mode: Mode) -> PoolLab:
    return PoolLab(mode, backends=len(HOSTS), clients=2, weights=WEIGHTS, serve=False)


def reload_under_fire(blaster: Blaster, pool_lab: PoolLab, version: int, pools: Sequence[Pool]) -> None:
    """Send while the pools are loaded in turn, and check that all datagrams and replies arrive once."""
    pool_lab.load(pools[0])
    configs = [(pool,) for pool in pools]
    fired = fire(blaster, pool_lab, version, partial(load_in_turn, pool_lab, configs=configs), replies=True)
    print(f"{pool_lab.mode} IPv{version}: {fired.found} reloads, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert fired.found > len(pools)  # with fewer reloads, the test would prove nothing
