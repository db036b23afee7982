"""A pair of balancers: the master fails while ONE client socket for each pool sends.

`pytest -s tests/end_to_end/test_pair.py` prints the figures of docs/ha.md: lost datagrams, and the time of the last.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest
from balancer_pair import VIP4, VIP6, Pair
from servers.processes import await_that
from steady_traffic import Flow, Sent, lost, sources, twice
from tcp_connections import TcpConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 250
"""Datagrams per second of each flow."""
SETTLED = 0.5
"""Seconds after the addresses have moved until every neighbour must know the new place; usually milliseconds."""
BEFORE_CLOCK = 0.05
"""Seconds by which a command may take effect before it returns; shared machines stall."""
FAILOVER = 1.02
"""Seconds of silence, or of a lower priority, after which another master takes over: 3 advert_int and the skew."""
STALLED = 0.1 * RATE
"""The highest number of datagrams in flight when the addresses move: none to three, more if the machine stalls."""
CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "400ms",
    "fast_interval": "100ms",
    "timeout": "200ms",
}
BACKENDS4 = {f"b{n}": f"10.0.0.{10 + n}" for n in (1, 2, 3)}
BACKENDS6 = {f"b{n}v6": f"[fd00::b{n}]" for n in (1, 2, 3)}
POOLS: dict[str, dict[str, Any]] = {
    "nat": {"listen": [f"{VIP4}:53/udp", f"[{VIP6}]:53/udp"]},
    "keep": {"listen": f"{VIP4}:54/udp", "source": "keep"},
    "stateless": {"listen": f"{VIP4}:55/udp", "forward": "stateless"},
    "tcp": {"listen": f"{VIP4}:53/tcp"},
}
PORTS = {"nat": 5353, "keep": 5353, "stateless": 5354, "tcp": 5353}
TARGETS = {"nat": (VIP4, 53), "nat, IPv6": (VIP6, 53), "keep": (VIP4, 54), "stateless": (VIP4, 55)}


def pools() -> dict[str, Any]:
    def backends(name: str) -> dict[str, str]:
        found = BACKENDS4 | (BACKENDS6 if name == "nat" else {})
        return {backend: f"{address}:{PORTS[name]}" for backend, address in found.items()}

    return {name: {**options, "backends": backends(name), "health": CHECK} for name, options in POOLS.items()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair"), pools(), sorted(set(PORTS.values()))) as made:
        yield made


@pytest.fixture
def pair(shared: Pair) -> Iterator[Pair]:
    """The pair for all tests here. The tests restore it, but either balancer may be master. Prints the logs."""
    begins = [len(balancer.keepalived.log) for balancer in shared.balancers]
    yield shared
    for balancer, begin in zip(shared.balancers, begins, strict=True):
        print(f"\nkeepalived of {balancer}:\n{balancer.keepalived.log[begin:]}")  # noqa: T201 - seen when a test fails


class Traffic:
    """A flow to each pool, from one socket each. A context manager."""

    def __init__(self, pair: Pair) -> None:
        self._flows = {name: Flow(pair.client, target, rate=RATE) for name, target in TARGETS.items()}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for flow in self._flows.values():
            self._stack.enter_context(flow)
        self.go_on(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def go_on(self, seconds: float) -> None:
        """Wait until each flow has sent the datagrams of these seconds."""
        goals = [(flow, len(flow.sent) + int(seconds * RATE)) for flow in self._flows.values()]
        for flow, goal in goals:
            flow.wait(max(0, goal - len(flow.sent)))

    def stop(self) -> dict[str, list[Sent]]:
        """End the flows a second later, and return all datagrams: each has at most one reply, from the service.

        `keep` is an exception: a reply that is in flight while the addresses move passes a balancer that does not
        know the connection, and reaches the client from the backend's address.
        """
        self.go_on(SETTLED + 0.5)
        with ThreadPoolExecutor() as threads:
            found = dict(zip(self._flows, threads.map(Flow.stop, self._flows.values()), strict=True))
        for name, sent in found.items():
            assert [] == twice(sent), name
            assert len(strange(name, sent)) <= (STALLED if name == "keep" else 0), name
        return found


def strange(name: str, sent: list[Sent]) -> list[Sent]:
    """The datagrams with a reply from another address than the service's."""
    return [datagram for datagram in sent if {TARGETS[name]} | set(datagram.sources) != {TARGETS[name]}]


def during(found: dict[str, list[Sent]], begin: float, end: float) -> dict[str, list[Sent]]:
    return {
        name: [datagram for datagram in sent if begin - BEFORE_CLOCK <= datagram.at < end]
        for name, sent in found.items()
    }


def show(what: str, found: dict[str, list[Sent]], begin: float) -> None:
    """Print the number of lost datagrams, the seconds until the last of them, and replies from other addresses."""
    for name, sent in found.items():
        missing = lost(sent)
        last = f"the last after {missing[-1].at - begin:.2f} s" if missing else ""
        other = f"; {count} answered from elsewhere" if (count := len(strange(name, sent))) else ""
        print(f"{what:40} {name:10} {len(missing):4} of {len(sent):4} lost {last}{other}")  # noqa: T201


def numbers(found: dict[str, list[Sent]]) -> dict[str, list[int]]:
    """The numbers of the lost datagrams by flow, without flows that lost none."""
    return {name: missing for name, sent in found.items() if (missing := [datagram.number for datagram in lost(sent)])}


def in_turns(sent: list[Sent]) -> bool:
    """Whether all three backends take turns: almost no datagram goes to the same backend as the datagram before.

    On a busy machine, a backend may be out for a moment. Then two backends take turns, and each change begins the
    turns again.
    """
    names = [datagram.backend for datagram in sent]
    return len(set(names)) == 3 and sum(name == other for name, other in pairwise(names)) <= len(names) // 100


def assert_well(found: dict[str, list[Sent]], since: float) -> None:
    """Check that from a time on, no datagram is lost, each has its own turn, and every reply is from the service."""
    rest = {name: [datagram for datagram in sent if datagram.at >= since] for name, sent in found.items()}
    assert {} == numbers(rest)
    assert dict.fromkeys(rest, True) == {name: in_turns(sent) for name, sent in rest.items()}
    assert {name: {TARGETS[name]} for name in rest} == {name: sources(sent) for name, sent in rest.items()}


def test_daemon_starts_again(pair: Pair) -> None:
    """The master's daemon is killed and restarted, as by systemd: the addresses stay, and no datagram is lost."""
    master, other = pair.roles()
    before = other.promotions
    with Traffic(pair) as traffic:
        begin = time.monotonic()
        master.daemon.kill()
        master.daemon.start()
        found = traffic.stop()
    show("daemon killed, started again", during(found, begin, time.monotonic()), begin)

    assert_well(found, 0.0)
    assert before == other.promotions
    assert [master] == pair.masters()


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_no_clients(pair: Pair, seen: bool) -> None:
    """The master loses its link to the clients. If it does not notice this, it stays master of the backends' side.

    Replies that the backends route through the pair may then go to either balancer; replies to the balancers' own
    addresses (`nat`) are not lost. In the end there is one master, and every neighbour knows this master.
    """
    master, other = pair.roles()
    with Traffic(pair) as traffic:
        begin = time.monotonic()
        with pair.cut("outside", master, seen=seen):
            moved = other.await_addresses()
            traffic.go_on(1.0)
            returned = time.monotonic()
        pair.roles()
        again = time.monotonic()
        found = traffic.stop()
    how = "link down" if seen else "isolated"
    show(f"clients' side {how}", during(found, begin, returned), begin)
    show(f"clients' side {how}, back", during(found, returned, time.monotonic()), returned)

    certain = found if seen else {name: sent for name, sent in found.items() if name.startswith("nat")}
    assert {} == numbers(during(certain, moved + SETTLED, returned))
    assert_well(found, again + SETTLED)


def test_daemon_gone(pair: Pair) -> None:
    """If a daemon ends for good, the other balancer takes over and stays master; almost no datagram is lost.

    TCP connections are lost: their clients get a reset at once.
    """
    master, other = pair.roles()
    with Traffic(pair) as traffic, TcpConnection(pair.client, (VIP4, 53)) as connection:
        assert b"before" == connection.echo(b"before")
        begin = time.monotonic()
        master.daemon.kill()
        moved = pair.await_master(other)
        with pytest.raises(ConnectionResetError):
            connection.echo(b"after")
        with TcpConnection(pair.client, (VIP4, 53)) as renewed:
            assert b"renewed" == renewed.echo(b"renewed")
        returned = time.monotonic()
        master.daemon.start()
        assert (other, master) == pair.roles()
        found = traffic.stop()
    show(f"daemon gone, moved after {moved - begin:.1f} s", during(found, begin, returned), begin)
    show("daemon back", during(found, returned, time.monotonic()), returned)

    assert [] == [name for name, missing in numbers(found).items() if len(missing) > STALLED]
    assert_well(found, moved + SETTLED)


def test_daemon_hangs(pair: Pair) -> None:
    """A stopped daemon, which neither ends nor replies, counts as failed."""
    master, other = pair.roles()
    with Traffic(pair) as traffic:
        begin = time.monotonic()
        with master.stopped():
            moved = pair.await_master(other)
        assert (other, master) == pair.roles()
        found = traffic.stop()
    show(f"daemon hangs, moved after {moved - begin:.1f} s", during(found, begin, time.monotonic()), begin)

    assert [] == [name for name, missing in numbers(found).items() if len(missing) > STALLED]
    assert_well(found, moved + SETTLED)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_no_backends_at_the_master(pair: Pair, seen: bool) -> None:
    """Only the master loses its backends: the other balancer takes over, and stays master."""
    master, other = pair.roles()
    with Traffic(pair) as traffic:
        begin = time.monotonic()
        with pair.cut("inside", master, seen=seen):
            moved = pair.await_master(other)
            traffic.go_on(1.0)
            returned = time.monotonic()
        assert (other, master) == pair.roles()
        found = traffic.stop()
    how = "link down" if seen else "isolated"
    show(f"backends' side {how}", during(found, begin, returned), begin)
    show(f"backends' side {how}, back", during(found, returned, time.monotonic()), returned)

    assert_well(found, moved + SETTLED)


def test_no_backends_at_all(pair: Pair) -> None:
    """Without any backend, one balancer still holds the addresses. The service is back with the first backend."""
    master, other = pair.roles()
    before = master.promotions + other.promotions
    with Traffic(pair) as traffic:
        begin = time.monotonic()
        with pair.without_servers():
            await_that(lambda: master.unfit and other.unfit, "both unfit")
            traffic.go_on(1.0 + FAILOVER)
            assert 1 == len(pair.masters())
            returned = time.monotonic()
        pair.roles()
        again = time.monotonic()
        found = traffic.stop()
    show("no backends at all", during(found, begin, returned), begin)
    show("no backends at all, back", during(found, returned, time.monotonic()), returned)

    # Either balancer may notice the outage first, and either may notice its end first.
    assert master.promotions + other.promotions <= before + 2
    assert_well(found, again + SETTLED)


def test_maintenance(pair: Pair) -> None:
    """The master's keepalived is stopped for maintenance and returns: the addresses move once."""
    master, other = pair.roles()
    with Traffic(pair) as traffic:
        begin = time.monotonic()
        master.keepalived.stop()
        moved = pair.await_master(other)
        returned = time.monotonic()
        master.keepalived.start()
        traffic.go_on(2 * FAILOVER)
        assert (other, master) == pair.roles()
        found = traffic.stop()
    show("keepalived stopped", during(found, begin, returned), begin)
    show("keepalived started", during(found, returned, time.monotonic()), returned)

    assert_well(found, moved + SETTLED)
