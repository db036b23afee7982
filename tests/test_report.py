"""From what is believed to what is shown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pools import ALL, backend, backends, config, pool, sorry

from nftlb.daemon import report
from nftlb.daemon.counters import Counters
from nftlb.health import Fleet, Result
from nftlb.model import Admin, Agent, Health, Icmp
from nftlb.ruleset import Count
from nftlb.service import PoolStatus

if TYPE_CHECKING:
    from nftlb.model import Pool

PASS, FAIL = Result(passed=True, reason="fine", seconds=0.0012), Result(passed=False, reason="no answer", seconds=1.0)
PING = Health(check=Icmp(), rise=2, fall=1)
THREE = backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13")


def dns(**options: Any) -> Pool:
    behind = options.pop("behind", THREE)
    return pool("dns", options.pop("listen", "192.0.2.53:53/udp"), behind, **{"health": (PING,), **options})


class World:
    """A fleet of one pool; time passes only in figures."""

    def __init__(self, one: Pool) -> None:
        self.fleet = Fleet.begin(config(one), {}, time.monotonic())
        self.counters = Counters()

    def fall(self, *names: str) -> None:
        for name in names:
            self.fleet.take("dns", name, 0, FAIL, time.monotonic())

    def status(self, *added: str) -> PoolStatus:
        state = self.fleet.membership(time.monotonic()).of("dns")
        shown = report.pool_status(self.fleet.pools["dns"], state, self.counters, added)
        return PoolStatus.model_validate(shown.model_dump())  # what is shown is of the right types

    @property
    def shares(self) -> dict[str, float]:
        return {one.name: round(one.share, 3) for one in self.status().backends}


def test_a_pool_that_is_well() -> None:
    """All take their turn, none was checked yet."""
    status = World(dns(quorum=2)).status()

    assert ("dns", ("192.0.2.53:53/udp",), True, 2, 3, "healthy") == (
        status.name,
        status.listen,
        status.ready,
        status.quorum,
        status.healthy,
        status.mode,
    )
    assert [("b1", "10.0.0.11", 53), ("b2", "10.0.0.12", 53), ("b3", "10.0.0.13", None)] == [
        (one.name, one.address, one.port) for one in status.backends
    ]
    assert {(True, True, 0.333333, "no check yet")} == {
        (one.up, one.in_rotation, one.share, one.reason) for one in status.backends
    }


def test_a_backend_that_is_down() -> None:
    """It has no share, and its check says why."""
    world = World(dns())
    world.fall("b1")

    status = world.status()

    one = status.backends[0]
    (check,) = one.checks
    assert (False, False, 0.0, "icmp: no answer") == (one.up, one.in_rotation, one.share, one.reason)
    assert ("icmp", False, False, 0, 2, "no answer", 1.0) == (
        check.kind,
        check.up,
        check.passed,
        check.pending,
        check.needed,
        check.reason,
        check.seconds,
    )
    assert 2 == status.healthy
    assert check.at is not None


def test_a_change_that_is_pending() -> None:
    """How many results spoke against the verdict, of how many it takes."""
    world = World(dns())
    world.fall("b1")
    world.fleet.take("dns", "b1", 0, PASS, time.monotonic())

    (check,) = world.status().backends[0].checks

    assert (False, True, 1, 2, 0.0012) == (check.up, check.passed, check.pending, check.needed, check.seconds)


@pytest.mark.parametrize(
    ("options", "mode", "shares"),
    [
        ({}, "fallback", {"b1": 0, "b2": 0, "b3": 0}),
        ({"panic": 50}, "panic", {"b1": 0.333, "b2": 0.333, "b3": 0.333}),
        ({"fallback": ALL}, "fallback", {"b1": 0.333, "b2": 0.333, "b3": 0.333}),
        ({"fallback": sorry("10.0.0.99:53")}, "fallback", {"b1": 0, "b2": 0, "b3": 0}),
    ],
    ids=["reject", "panic", "all", "sorry"],
)
def test_nobody_is_healthy(options: dict[str, Any], mode: str, shares: dict[str, float]) -> None:
    """The mode says what is done instead, and the shares who gets the packets then."""
    world = World(dns(**options))
    world.fall("b1", "b2", "b3")

    assert mode == world.status().mode
    assert shares == world.shares
    assert not world.status().ready


def test_of_two_families_the_worse_is_shown() -> None:
    """A pool whose IPv6 side is out is not well, though IPv4 goes on; shares are of the family."""
    both = (backend("b1", "10.0.0.11:53"), backend("b2", "10.0.0.12:53"), backend("b6", "[2001:db8::11]:53"))
    world = World(dns(behind=both, listen=("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")))
    assert {"b1": 0.5, "b2": 0.5, "b6": 1.0} == world.shares

    world.fall("b6")

    assert "fallback" == world.status().mode
    assert {"b1": 0.5, "b2": 0.5, "b6": 0.0} == world.shares


def test_a_family_without_backends() -> None:
    """A pool that listens where it has no backend says that it falls back there."""
    world = World(dns(listen=("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")))

    assert "fallback" == world.status().mode


def test_health_wish_and_weight_are_kept_apart() -> None:
    """One that is drained is up and gets nothing; the agent's word stands beside the operator's."""
    world = World(dns(health=(Health(check=Agent(port=9)),)))
    world.fleet.operate("dns", "b1", time.monotonic(), admin=Admin.DRAIN)
    world.fleet.operate("dns", "b2", time.monotonic(), weight=3)
    says = Result(passed=True, reason="drain", seconds=0.001, admin=Admin.MAINTENANCE)
    world.fleet.take("dns", "b3", 0, says, time.monotonic())

    one, two, three = world.status().backends

    assert (True, Admin.DRAIN, None, 0.0) == (one.up, one.admin, one.agent, one.share)
    assert (3, 1.0) == (two.weight, two.share)
    assert (True, Admin.ENABLED, Admin.MAINTENANCE, False) == (three.up, three.admin, three.agent, three.in_rotation)


def test_counters_and_who_was_added() -> None:
    """Packets and bytes of each; the pool has all that it sent on, also to those that are gone."""
    world = World(dns())
    world.counters.take({"dns/b1": Count(5, 500), "dns/gone": Count(2, 200)})

    status = world.status("b3")

    assert [(5, 500), (0, 0), (0, 0)] == [(one.packets, one.bytes) for one in status.backends]
    assert (7, 700) == (status.packets, status.bytes)
    assert [False, False, True] == [one.added for one in status.backends]


def test_one_backend_is_shown_as_in_its_pool() -> None:
    """The answer to a change is what the status shows."""
    world = World(dns())
    world.fall("b1")
    state = world.fleet.membership(time.monotonic()).of("dns")

    alone = report.backend_status(world.fleet.pools["dns"], "b2", state, world.counters, added=False)

    assert 0.5 == alone.share
    assert alone.model_dump(exclude={"since"}) == world.status().backends[1].model_dump(exclude={"since"})
