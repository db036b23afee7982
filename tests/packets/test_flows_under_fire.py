"""A full load from ONE socket to pools by flow, while backends and the options of flows change.

The options are `session_timeout` and `helper: tftp`.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import pytest
from blaster import MOST_FIRE
from blaster import Membership as Members
from conntrack_entries import UdpEntry, udp_entries
from pool_lab import BACKEND_PORT, NAT, PORT, PoolLab, down, of, vip
from servers.processes import await_that
from tftp_transfers import TftpClient, TftpServers
from under_fire import OTHERS, fire, fire_from, load_in_turn, paced, spell

from nftlb.model import Admin, BackendState, Config, Helper, Per, SourceKind

if TYPE_CHECKING:
    from blaster import Blaster, Sender

    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)
pytestmark = pytest.mark.alone

VERSIONS = (4, 6)
# Not each source with each version, because a test keeps all processors busy for seconds.
SOURCES = ((SourceKind.MASQUERADE, 4), (SourceKind.KEEP, 6))
"""What backends see as the source of clients, and the version."""
HOSTS = ("b1", "b2", "b3")
OF_HOST = 300
"""Seconds of the host's own time-outs."""
TIMES = (600, 900, 0)
"""Seconds of `session_timeout` in turn; 0 for none."""
FILE_PORT = 40000
"""The port from which a server sends a file."""
DRAINED = BackendState(admin=Admin.DRAIN)
STEPS = (down(), down("b2"), of({"b1": DRAINED}), down("b3"), down("b2", "b3"), of({"b1": DRAINED, "b2": DRAINED}))
"""States in which the flows of b1 stay with b1: it is always up, and sometimes drained."""
DRAINS = (down(), *(of({name: DRAINED}) for name in HOSTS))
"""States in which all flows stay."""


def by_flow(pool_lab: PoolLab, seconds: int, **options: object) -> Pool:
    """The pool of the lab by flow."""
    return replace(pool_lab.pool(), per=Per.FLOW, session_timeout=seconds * 1000, **options)  # type: ignore[arg-type]


def is_timed(entry: UdpEntry, seconds: int) -> bool:
    """Whether an entry has a time-out. The sender never pauses, so little of the time is over."""
    return seconds - 60 < entry.seconds <= seconds


def entry_of_flow(pool_lab: PoolLab, version: int) -> UdpEntry:
    """The entry of the only flow. After the swap that moves the flow, the entry comes with the next datagram."""
    await_that(lambda: bool(udp_entries(pool_lab.lab.balancer, version, PORT)), "the entry of the flow")
    (entry,) = udp_entries(pool_lab.lab.balancer, version, PORT)
    return entry


def set_times_of_host(pool_lab: PoolLab) -> None:
    for name in ("udp_timeout", "udp_timeout_stream"):
        pool_lab.lab.balancer.sysctl(f"net.netfilter.nf_conntrack_{name}", OF_HOST)


def swap_beside_flow(pool_lab: PoolLab, version: int, sender: Sender) -> int:
    """Change the other backends, and drain the backend of the flow. Return the number of swaps."""
    swaps = 0
    while sender.goes_on(enough=swaps > 2 * len(STEPS)):
        swaps += 1
        paced(partial(pool_lab.applier.update, STEPS[swaps % len(STEPS)]))
        assert is_timed(entry_of_flow(pool_lab, version), TIMES[0])
    return swaps


@pytest.mark.parametrize(("source", "version"), SOURCES)
def test_a_flow_stays_under_fire(blaster: Blaster, source: SourceKind, version: int) -> None:
    """All datagrams of one socket reach the same backend once, and get one reply, while other backends change.

    Also while the backend is drained. After each swap, the flow has the time-out of the pool.
    """
    with PoolLab(NAT, serve=False) as pool_lab:
        set_times_of_host(pool_lab)
        pool_lab.load(by_flow(pool_lab, TIMES[0], source=source))
        fired = fire(blaster, pool_lab, version, partial(swap_beside_flow, pool_lab, version), replies=True)
    print(f"IPv{version} {source}: {fired.found} swaps, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert {"b1": fired.sent.sent, "b2": 0, "b3": 0} == fired.ledger.counts
    assert fired.found > 2 * len(STEPS)  # with fewer swaps, the test would prove nothing


class Moves(NamedTuple):
    """The backends of a pool over time, and the backends that the flow had one after the other."""

    history: list[Members]
    owners: list[str]


def move_flow(pool_lab: PoolLab, version: int, sender: Sender) -> Moves:
    """Take the backend of the flow out three times after each reload. The reload changes the time-out."""
    names = {host.address(version): host.name for host in pool_lab.lab.backends}

    def owner() -> str:
        return names[entry_of_flow(pool_lab, version).answerer[0]]

    history, owners, reloads = [Members(0, 0, frozenset(HOSTS))], [owner()], 0
    while sender.goes_on(enough=reloads > len(TIMES)):
        reloads += 1
        seconds = TIMES[reloads % len(TIMES)]
        begin, end = paced(partial(pool_lab.applier.load, Config(pools=(by_flow(pool_lab, seconds),))))
        history.append(Members(begin, end, frozenset(HOSTS)))
        assert owner() == owners[-1]
        for _ in range(3):
            begin, end = paced(partial(pool_lab.applier.update, down(owners[-1])))
            history.append(Members(begin, end, frozenset(HOSTS) - {owners[-1]}))
            assert is_timed(entry_of_flow(pool_lab, version), seconds or OF_HOST)
            owners.append(owner())
    return Moves(history, owners)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flow_moves_under_fire(blaster: Blaster, version: int) -> None:
    """A flow moves only when its backend leaves. All datagrams arrive once, at a backend of the set of their moment.

    The entries of the flow have the time-out of the last reload: longer, shorter, and that of the host.
    """
    with PoolLab(NAT, serve=False) as pool_lab:
        set_times_of_host(pool_lab)
        pool_lab.load(by_flow(pool_lab, TIMES[0]))
        fired = fire(blaster, pool_lab, version, partial(move_flow, pool_lab, version))
    history, owners = fired.found
    print(f"IPv{version}: {len(history) - 1} changes, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert [] == fired.ledger.outside(history)
    assert owners == [fired.ledger.names[number - 1] for number, _ in groupby(fired.ledger.owners)]
    assert len(owners) > 3 * len(TIMES)  # with fewer swaps, the test would prove nothing


@pytest.mark.parametrize(("source", "version"), SOURCES)
def test_options_of_flows_come_and_go_under_fire(blaster: Blaster, source: SourceKind, version: int) -> None:
    """A flow stays with its backend, and loses nothing, while reloads change its time-out and switch the helper."""
    with PoolLab(NAT, serve=False) as pool_lab:
        options = [(seconds, helper) for helper in (Helper.TFTP, None) for seconds in TIMES]
        pools = [(by_flow(pool_lab, seconds, source=source, helper=helper),) for seconds, helper in options]
        pool_lab.load(*pools[0])
        fired = fire(blaster, pool_lab, version, partial(load_in_turn, pool_lab, configs=pools), replies=True)
    print(f"IPv{version} {source}: {fired.found} reloads, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert {"b1": fired.sent.sent, "b2": 0, "b3": 0} == fired.ledger.counts
    assert fired.found > len(pools)  # with fewer reloads, the test would prove nothing


def expect_transfer(pool_lab: PoolLab, version: int) -> tuple[tuple[str, int], int]:
    """Request a file from b1, which sends no answer yet. Return the address for the file, and the client's port."""
    kind = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    server = pool_lab.lab.backends[0]
    with (
        server.call(socket.socket, kind, socket.SOCK_DGRAM) as asked,
        pool_lab.lab.client.call(socket.socket, kind, socket.SOCK_DGRAM) as client,
    ):
        asked.settimeout(10)
        asked.bind((server.address(version), BACKEND_PORT))
        client.sendto(b"\0\1boot\0octet\0", (vip(version), PORT))
        _, (address, port, *_) = asked.recvfrom(9000)
        return (address, port), client.getsockname()[1]


def fetch_beside_swaps(pool_lab: PoolLab, version: int, sender: Sender) -> int:
    """Fetch files and stop the sender. Return the number of files.

    While a file is in flight, servers are drained, or a reload changes the time-out of requests. Between two files,
    servers other than b1 leave.
    """
    files = 0
    while sender.goes_on(enough=files > 2 * len(STEPS)):
        files += 1
        drains = DRAINS[files % len(DRAINS)]
        with TftpClient(pool_lab.lab.client, (vip(version), PORT)) as client:
            client.request()
            client.await_block()
            if files % 3:
                paced(partial(pool_lab.applier.update, drains))
            else:
                pool = by_flow(pool_lab, TIMES[files // 3 % len(TIMES)], helper=Helper.TFTP)
                pool_lab.applier.load(Config(pools=(pool,)), drains)
            transfer = client.receive()
        assert {vip(version)} == {address for address, _ in transfer.sources}
        paced(partial(pool_lab.applier.update, STEPS[files % len(STEPS)]))
    return files


@pytest.mark.parametrize("version", VERSIONS)
def test_transfers_go_on_under_fire(blaster: Blaster, version: int) -> None:
    """A file at full rate, from a new port of b1, loses no block and no acknowledgement; other files arrive too.

    Meanwhile b1 is drained, other servers leave and return, and reloads change the time-out of requests.
    """
    with PoolLab(NAT, serve=False) as pool_lab:
        pool_lab.load(by_flow(pool_lab, TIMES[0], helper=Helper.TFTP))
        target, port = expect_transfer(pool_lab, version)
        sinks = blaster.sinks([pool_lab.lab.client], port=port, version=version, echo=True, log=MOST_FIRE, cpu=OTHERS)
        with TftpServers([*pool_lab.lab.backends], BACKEND_PORT):
            change = partial(fetch_beside_swaps, pool_lab, version)
            fired = fire_from(
                pool_lab.lab.backends[0], target, sinks, pool_lab, change, replies=True, source_port=FILE_PORT
            )
    print(f"IPv{version}: {fired.found} files, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert {spell((vip(version), FILE_PORT)): fired.sent.sent} == fired.sources
    assert fired.found > 2 * len(STEPS)  # with fewer swaps, the test would prove nothing
