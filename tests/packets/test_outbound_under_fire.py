"""A full load from ONE socket, of a backend or of a client, while pools with `outbound: true` change."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from blaster import MOST_FIRE
from pool_lab import NAT, PORT, STATELESS, STATELESS_INGRESS, PoolLab, down, vip
from under_fire import OTHERS, Fire, fire, fire_from, paced, spell

from nftlb.model import Balance, Config, Guard, Rate, SourceKind

if TYPE_CHECKING:
    from blaster import Blaster, Sender
    from pool_lab import Mode

    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)
pytestmark = pytest.mark.alone

PEER_PORT = 7777
STEPS = ((), ("b1",), ("b2",), ("b1", "b3"), ("b3",))
"""The backends that are down. b1 sends requests all the time."""
# Not each source with each version, because a test keeps all processors busy for seconds. test_outbound.py has all.
SOURCES = ((SourceKind.MASQUERADE, 4), (SourceKind.KEEP, 6))
"""What backends of nat see as the source of clients, and the version."""
CASES = [
    *((NAT, source, version) for source, version in SOURCES),
    (STATELESS, SourceKind.MASQUERADE, 4),
    (STATELESS_INGRESS, SourceKind.MASQUERADE, 6),
]
WIDE = Guard(rate=Rate(10_000_000), burst=1_000_000, clients=True)
"""A guard that lets all datagrams of a test pass."""


def variants(pool_lab: PoolLab, source: SourceKind) -> list[tuple[Pool, ...]]:
    """The pool with `outbound`, alone, with other options, under another name, and beside another pool."""
    pool = replace(pool_lab.pool(PORT), outbound=True, source=source)
    listen = tuple(replace(listener, first_port=54, last_port=54) for listener in pool.listen)
    more = replace(pool, name="more", listen=listen, backends=tuple(replace(one, port=54) for one in pool.backends))
    hashed = replace(pool, balance=Balance.HASH)
    return [(pool,), (hashed,), (replace(pool, guard=WIDE),), (replace(pool, name="sip"),), (pool, more)]


def change_while(pool_lab: PoolLab, configs: list[tuple[Pool, ...]], sender: Sender) -> int:
    """Load one configuration after the other, with swaps after each load. Return the number of loads."""
    loads = 0
    while sender.goes_on(enough=loads > len(configs)):
        for names in STEPS:
            paced(partial(pool_lab.applier.update, down(*names, pools=("dns", "sip", "more"))))
        loads += 1
        pool_lab.applier.load(Config(pools=configs[loads % len(configs)]))
    return loads


def fire_from_backend(
    blaster: Blaster, pool_lab: PoolLab, version: int, configs: list[tuple[Pool, ...]], *, answers: bool
) -> Fire[int]:
    """Send requests from b1 to a peer outside while the pools change."""
    lab = pool_lab.lab
    pool_lab.load(*configs[0])
    sinks = blaster.sinks([lab.client], port=PEER_PORT, version=version, echo=answers, log=MOST_FIRE, cpu=OTHERS)
    target = (lab.client.address(version), PEER_PORT)
    change = partial(change_while, pool_lab, configs)
    return fire_from(lab.backends[0], target, sinks, pool_lab, change, replies=answers, source_port=PORT)


@pytest.mark.parametrize(("mode", "source", "version"), CASES, ids=str)
def test_requests_of_a_backend_under_fire(blaster: Blaster, mode: Mode, source: SourceKind, version: int) -> None:
    """All requests of a backend arrive once, from the service; with nat, the backend gets all answers.

    Meanwhile backends leave and return, this backend too, and reloads switch `outbound` and other options.
    """
    with PoolLab(mode, serve=False) as pool_lab:
        configs = variants(pool_lab, source)
        if mode is NAT:
            configs += [tuple(replace(pool, outbound=False) for pool in configs[0])]
        fired = fire_from_backend(blaster, pool_lab, version, configs, answers=mode is NAT)
    print(f"{mode} {source} IPv{version}: {fired.found} loads, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert {spell((vip(version), PORT)): fired.sent.sent} == fired.sources
    assert fired.found > len(configs)  # with fewer loads, the test would prove nothing


@pytest.mark.parametrize(("source", "version"), SOURCES)
def test_first_requests_of_a_backend_under_fire(blaster: Blaster, source: SourceKind, version: int) -> None:
    """The same for requests to a peer that conntrack has forgotten: the rules translate each of them again."""
    with PoolLab(NAT, serve=False) as pool_lab:
        # Each request is the first of a new flow, because entries without a reply end at once.
        pool_lab.lab.balancer.sysctl("net.netfilter.nf_conntrack_udp_timeout", 0)
        fired = fire_from_backend(blaster, pool_lab, version, variants(pool_lab, source), answers=False)
    print(f"{source} IPv{version}: {fired.found} loads, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert {spell((vip(version), PORT)): fired.sent.sent} == fired.sources
    assert fired.found > 5  # with fewer loads, the test would prove nothing


@pytest.mark.parametrize(("source", "version"), SOURCES)
def test_packets_of_clients_under_fire(blaster: Blaster, source: SourceKind, version: int) -> None:
    """All datagrams of a client arrive once and get one reply while reloads switch `outbound` and other options.

    With stateless, rules do not depend on `outbound`: test_swaps.py and test_reloads_under_fire.py cover them.
    """
    with PoolLab(NAT, serve=False) as pool_lab:
        configs = variants(pool_lab, source)
        configs += [tuple(replace(pool, outbound=False) for pool in configs[0])]
        pool_lab.load(*configs[0])
        change = partial(change_while, pool_lab, configs)
        fired = fire(blaster, pool_lab, version, change, replies=True, port=PORT)
    print(f"{source} IPv{version}: {fired.found} loads, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert fired.found > len(configs)  # with fewer loads, the test would prove nothing
