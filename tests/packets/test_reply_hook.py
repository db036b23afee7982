"""`replies: prerouting` loses no reply: on hosts that permit it, on hosts that do not, and when the hook changes.

The tests compare `find_obstacles()` with the kernel: they also load rules for prerouting in spite of obstacles.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import pytest
from pool_lab import PORT, STATELESS, STATELESS_EARLY, PoolLab, vip
from under_fire import fire

from nftlb.model import Config, Replies
from nftlb.ruleset import TableFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blaster import Blaster, Sender

    from nftlb.compiler.reply_form import Obstacles

pytest_plugins = ("lab_fixtures",)

LATE_HOOK = "postrouting-raw"


def no_obstacles(_: Config) -> Obstacles:
    """Find no obstacle, whatever the settings of the host."""
    return {}


@pytest.fixture(scope="module")
def pool_lab() -> Iterator[PoolLab]:
    with PoolLab(STATELESS_EARLY) as lab:
        yield lab


def set_host(pool_lab: PoolLab, *, everywhere: int, strict: int, local: int, numbered: bool) -> None:
    """Set `rp_filter` of `all`, and `rp_filter`, `accept_local` and the address of the first backend's interface."""
    balancer, name = pool_lab.lab.balancer, pool_lab.lab.backends[0].name
    balancer.sysctl("net.ipv4.conf.all.rp_filter", everywhere)
    balancer.sysctl(f"net.ipv4.conf.{name}.rp_filter", strict)
    balancer.sysctl(f"net.ipv4.conf.{name}.accept_local", local)
    address, network = "10.0.1.1/24", "10.0.1.0/24"
    if numbered:
        balancer.run(["ip", "address", "replace", address, "dev", name])
    else:
        balancer.run(["ip", "address", "flush", "dev", name, "scope", "global"])
        # The host still has the address, so that the backend's neighbour stays.
        balancer.run(["ip", "address", "replace", "10.0.1.1/32", "dev", "lo"])
        balancer.run(["ip", "route", "replace", network, "dev", name])


def load(pool_lab: PoolLab) -> tuple[str, ...]:
    """Load the pool, and return the remarks about its replies."""
    config = Config(pools=(pool_lab.pool(),))
    return tuple(map(str, pool_lab.lab.balancer.call(pool_lab.applier.load, config).slower))


def late(pool_lab: PoolLab, family: TableFamily) -> bool:
    """Whether the loaded rules rewrite replies in postrouting."""
    assert pool_lab.applier.accepted is not None
    return LATE_HOOK in pool_lab.applier.accepted.ruleset.tables[family].chains


def answers(pool_lab: PoolLab, expected: dict[str, int]) -> dict[str, int]:
    """The number of right replies to six datagrams of one socket, by backend. Few seconds if none is `expected`."""
    service = (vip(4), PORT)
    with pool_lab.lab.client.connect(service, connected=False) as client:
        timeouts = [20 if count else 0.2 for count in expected.values()] * 2
        results = [datagram for timeout in timeouts for datagram in client.exchange(1, timeout=timeout)]
    assert {service} >= {datagram.source for datagram in results if datagram.copies}
    return {host.name: sum(datagram.backend == host.name for datagram in results) for host in pool_lab.lab.backends}


FILTERS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
CASES = [(*filters, local, True) for filters, local in product(FILTERS, (0, 1))]
CASES += [(*filters, 1, False) for filters in FILTERS]


@pytest.mark.parametrize(("everywhere", "strict", "local", "numbered"), CASES)
def test_obstacles_are_those_of_the_kernel(
    pool_lab: PoolLab, everywhere: int, strict: int, local: int, numbered: bool
) -> None:
    """No reply is lost: replies are rewritten in prerouting if the kernel accepts that, else in postrouting."""
    set_host(pool_lab, everywhere=everywhere, strict=strict, local=local, numbered=numbered)
    warnings = load(pool_lab)
    everyone = dict.fromkeys(("b1", "b2", "b3"), 2)
    assert everyone == answers(pool_lab, everyone)
    assert late(pool_lab, TableFamily.IP) == bool(warnings)
    find, pool_lab.applier.obstacles = pool_lab.applier.obstacles, no_obstacles
    try:
        assert () == load(pool_lab)
        assert not late(pool_lab, TableFamily.IP)
        expected = {name: 0 if any(f"of {name} is" in line for line in warnings) else 2 for name in ("b1", "b2", "b3")}
        assert expected == answers(pool_lab, expected)
    finally:
        pool_lab.applier.obstacles = find


def change_while(pool_lab: PoolLab, sender: Sender) -> int:
    """Change between the two hooks and stop the sender. Return the number of changes."""
    pools = [replace(pool_lab.pool(), replies=hook) for hook in (Replies.POSTROUTING, Replies.PREROUTING)]
    changes = 0
    while sender.goes_on(enough=changes > 5):
        pool_lab.applier.load(Config(pools=(pools[changes % 2],)))
        assert late(pool_lab, TableFamily.IP) == late(pool_lab, TableFamily.IP6) == (changes % 2 == 0)
        changes += 1
    return changes


@pytest.mark.alone
@pytest.mark.parametrize("version", [4, 6])
def test_changes_of_the_hook_lose_nothing(blaster: Blaster, version: int) -> None:
    """All datagrams of one socket get one reply from the service, while the hook changes again and again."""
    with PoolLab(STATELESS_EARLY, serve=False) as pool_lab:
        fired = fire(blaster, pool_lab, version, partial(change_while, pool_lab), replies=True)
    print(f"IPv{version}: {fired.found} changes, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert fired.found > 5  # with fewer changes, the test would prove nothing


@pytest.mark.parametrize("version", [4, 6])
def test_reply_of_a_removed_backend(version: int) -> None:
    """A reply that comes after its backend was removed still gets the service's address, in postrouting."""
    service = (vip(version), PORT)
    with PoolLab(STATELESS_EARLY, serve=False) as pool_lab:
        pool_lab.applier.linger = 60.0
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with (
            pool_lab.lab.backends[0].call(_bound, family) as server,
            pool_lab.lab.client.call(_bound, family) as client,
        ):
            client.sendto(b"request", service)
            _, seen = server.recvfrom(100)
            pool = pool_lab.pool()
            pool_lab.load(
                replace(pool, backends=tuple(backend for backend in pool.backends if not backend.name.startswith("b1")))
            )
            assert late(pool_lab, TableFamily.IP)
            server.sendto(b"reply", seen)
            payload, source = client.recvfrom(100)
    assert (b"reply", service) == (payload, source[:2])


def _bound(family: int) -> socket.socket:
    """Open a socket at the port of the backends, in the network namespace of this thread."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(10)
    sock.bind(("", STATELESS.port))
    return sock
