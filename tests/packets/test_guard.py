"""`guard`: limits, bans and lists of sources, with ONE socket for each client, in every mode."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from added_addresses import add_addresses
from blaster import MOST_FIRE
from pool_lab import BACKEND_PORT, DSR, DSR_INGRESS, FORMS, MODES, NAT, PORT, STATELESS_INGRESS, PoolLab, down, vip
from servers.processes import await_that
from tcp_connections import TcpConnection, TcpServers

from nftlb.lab.datagram import Datagram, DatagramKind
from nftlb.model import (
    Config,
    DropReason,
    Fallback,
    FallbackKind,
    Family,
    Guard,
    Membership,
    Per,
    Protocol,
    Rate,
    SourceEntry,
    SourceLengths,
)
from nftlb.ruleset import Count
from nftlb.swap import plan
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from blaster import Blaster, Sender
    from pool_lab import Mode

    from nftlb.lab import Host
    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)

SENDER, OTHERS = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
SLOW = Rate(1, 3600)
"""No packet comes back while a test runs, so a burst is exact."""
FAMILIES = {4: Family.IP, 6: Family.IP6}
CASES = [*((mode, 4) for mode in MODES), (NAT, 6), (STATELESS_INGRESS, 6), (DSR, 6), (DSR_INGRESS, 6)]


def guarded(pool_lab: PoolLab, guard: Guard, **options: object) -> Pool:
    """The pool of the lab with a guard; the fast path takes the packets of all clients."""
    pool = pool_lab.pool()
    if pool.ingress and not pool_lab.mode.dsr:
        options["ingress"] = tuple(host.name for host in pool_lab.lab.clients)
    return replace(pool, guard=guard, **options)  # type: ignore[arg-type]


def dropped(pool_lab: PoolLab, pool: str = "dns") -> dict[str, int]:
    """What the guard dropped, by reason, without the reasons that dropped nothing."""
    found = pool_lab.lab.balancer.call(pool_lab.applier.counters)
    counts = {str(reason): found.get(reason.owner(pool), Count(0, 0)).packets for reason in DropReason}
    return {reason: count for reason, count in counts.items() if count}


def arrived(pool_lab: PoolLab) -> Counter[str]:
    """How many datagrams of each client arrived, when all of them have arrived or are lost."""
    return Counter(datagram.sender for datagram in pool_lab.servers.settle())


def entry(*prefixes: str) -> tuple[SourceEntry, ...]:
    networks = [ip_network(prefix) for prefix in prefixes]
    spans = [(network.version, (int(network[0]), int(network[-1]))) for network in networks]
    return (
        SourceEntry(
            ip=tuple(span for version, span in spans if version == 4),
            ip6=tuple(span for version, span in spans if version == 6),
        ),
    )


@pytest.mark.parametrize(("mode", "version"), CASES, ids=str)
def test_a_burst_is_exact_and_takes_exact_turns(mode: Mode, version: int) -> None:
    """Each client gets its burst and no more. Dropped datagrams take no turn, and replies come from the service."""
    with PoolLab(mode, clients=2, offload=version == 4) as pool_lab:
        pool_lab.load(guarded(pool_lab, Guard(rate=SLOW, burst=7)))
        first, second = pool_lab.lab.clients
        with first.connect((vip(version), PORT)) as greedy, second.connect((vip(version), PORT)) as other:
            answers = greedy.exchange(5)
            greedy.send(20)
            answers += other.exchange(4)
            greedy.send(5)
            answers += other.exchange(3)
            assert {first.name: 7, second.name: 7} == arrived(pool_lab)
        assert {(vip(version), PORT)} == {answer.source for answer in answers}
        assert [5, 5, 4] == sorted(pool_lab.servers.counts.values(), reverse=True)
        assert {"rate": 23} == dropped(pool_lab)
        assert pool_lab.lab.balancer.call(
            lambda: pool_lab.applier.in_force
        )  # the elements of packets are no difference
        loaded = pool_lab.applier.accepted
        assert loaded is not None
        assert "" == pool_lab.lab.balancer.call(Applier(pool_lab.kernel, "nftlb").diff, loaded.compiled.config)


@pytest.mark.parametrize("version", [4, 6])
def test_all_clients_of_a_prefix_are_one_source(version: int) -> None:
    """With `per`, the clients of a prefix share a burst: here the two clients of the lab, whose networks differ."""
    with PoolLab(NAT, clients=2) as pool_lab:
        pool_lab.load(guarded(pool_lab, Guard(rate=SLOW, burst=7, per=SourceLengths(23, 46))))
        first, second = pool_lab.lab.clients
        with first.connect((vip(version), PORT)) as one, second.connect((vip(version), PORT)) as other:
            one.send(5)
            pool_lab.servers.settle()
            other.send(5)
            assert {first.name: 5, second.name: 2} == arrived(pool_lab)


@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (NAT, 6), (STATELESS_INGRESS, 4), (DSR_INGRESS, 6)], ids=str)
def test_bans_outlive_reloads_and_restarts(mode: Mode, version: int) -> None:
    """A source that was above its limit stays banned after a reload with another rate, and after a restart."""
    with PoolLab(mode, clients=2) as pool_lab:
        guard = Guard(rate=SLOW, burst=5, ban=3_600_000)
        pool_lab.load(guarded(pool_lab, guard))
        first, second = pool_lab.lab.clients
        with first.connect((vip(version), PORT)) as greedy, second.connect((vip(version), PORT)) as other:
            greedy.send(8)
            other.send(5)
            assert {first.name: 5, second.name: 5} == arrived(pool_lab)
            assert {"rate": 1, "banned": 2} == dropped(pool_lab)

            pool_lab.load(guarded(pool_lab, replace(guard, burst=9, ban=60_000, sources=1000)))
            greedy.send(3)
            other.send(12)
            assert {first.name: 5, second.name: 5 + 9} == arrived(pool_lab)

            pool_lab.applier = pool_lab.lab.balancer.call(Applier, pool_lab.kernel, "nftlb")
            pool_lab.load(guarded(pool_lab, replace(guard, burst=9, ban=60_000, sources=1000)))
            greedy.send(3)
            other.send(1)
            assert {first.name: 5, second.name: 5 + 9} == arrived(pool_lab)


@pytest.mark.parametrize("version", [4, 6])
def test_a_ban_ends_while_the_source_goes_on(version: int) -> None:
    """A ban ends after its time, although the source never pauses; then the source has its limit again."""
    with PoolLab(NAT) as pool_lab:
        pool_lab.load(guarded(pool_lab, Guard(rate=Rate(1), burst=1, ban=1000)))
        with pool_lab.lab.client.connect((vip(version), PORT)) as client:
            client.exchange(1)
            await_that(lambda: bool(client.send(1)) and "banned" in dropped(pool_lab), "a ban")
            pool_lab.servers.settle()
            before = len(pool_lab.servers.received)
            await_that(lambda: bool(client.send(1)) and len(pool_lab.servers.settle()) > before, "the end of the ban")


def send_from(host: Host, sources: list[str], target: str, times: int) -> None:
    """Send from several addresses of a host, one socket for each."""
    payload = Datagram(DatagramKind.REQUEST, 0, host.name, 64, 0).encode()
    for source in sources:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with host.call(socket.socket, family, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            for _ in range(times):
                sock.sendto(payload, (target, PORT))


@pytest.mark.parametrize(
    ("mode", "version", "shared"), [(NAT, 4, 0), (NAT, 6, 4), (STATELESS_INGRESS, 4, 4), (DSR_INGRESS, 6, 0)], ids=str
)
def test_a_full_table_closes(mode: Mode, version: int, shared: int) -> None:
    """Sources for which there is no room share one limit. The others keep theirs, and are known."""
    with PoolLab(mode, clients=2) as pool_lab:
        guard = Guard(rate=SLOW, burst=2, sources=16, shared_rate=Rate(shared, 3600) if shared else None)
        pool_lab.load(guarded(pool_lab, guard))
        host, known = pool_lab.lab.clients
        sources = [str(ip_address(host.address(version)) + 100 + number) for number in range(30)]
        # Without these addresses on the host, the balancer would ask for them before it forwards the replies.
        add_addresses(host, "lo", *(f"{source}/{32 if version == 4 else 128}" for source in sources))
        with known.connect((vip(version), PORT)) as client:
            client.send(1)
            pool_lab.servers.settle()
            send_from(host, sources, vip(version), 3)
            client.send(3)
            assert {known.name: 2, host.name: 15 * 2 + (shared or 2)} == arrived(pool_lab)
        assert {"rate": 15 + 2, "full": 15 * 3 - (shared or 2)} == dropped(pool_lab)


@pytest.mark.parametrize("version", [4, 6])
def test_packets_that_leave_the_fast_path_meet_one_guard(version: int) -> None:
    """Fragmented datagrams take the ordinary chains, and use nothing of the fast path's limit; each counts once."""
    with PoolLab(STATELESS_INGRESS) as pool_lab:
        others = (
            replace(
                pool_lab.pool(2000 + 100 * distance + port),
                name=f"more{distance}-{port}",
                listen=tuple(
                    replace(one, address=one.address + distance, first_port=port, last_port=port)
                    for one in pool_lab.pool().listen
                ),
            )
            for distance, ports in FORMS["many addresses, many ports"]
            for port in ports
        )
        pool_lab.load(guarded(pool_lab, Guard(rate=SLOW, burst=4, clients=True)), *others)
        with pool_lab.lab.client.connect((vip(version), PORT)) as client:
            assert {1} == {answer.copies for answer in client.exchange(4, size=4000)}
            assert {1} == {answer.copies for answer in client.exchange(4)}
            client.send(3)
            assert 8 == len(pool_lab.servers.settle())
        assert {"rate": 3} == dropped(pool_lab)
        found = pool_lab.lab.balancer.call(pool_lab.applier.sources, guarded(pool_lab, Guard()), 10)
        (source,) = found.most
        assert (11, 3) == (source.arrived.packets, source.dropped.packets)


@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (NAT, 6), (STATELESS_INGRESS, 6), (DSR, 4)], ids=str)
def test_lists_and_clients(mode: Mode, version: int) -> None:
    """Sources in `deny` are dropped, unless they are in `allow`; those in `allow` have no limit. Both are counted."""
    with PoolLab(mode, clients=3) as pool_lab:
        allowed, denied, limited = pool_lab.lab.clients
        every = "198.51.0.0/16" if version == 4 else "2001:db8::/32"
        guard = Guard(
            rate=SLOW,
            burst=3,
            ban=3_600_000,
            allow=entry(allowed.address(version), limited.address(version)),
            deny=entry(every),
            clients=True,
        )
        pool_lab.load(guarded(pool_lab, guard))
        with (
            allowed.connect((vip(version), PORT)) as first,
            denied.connect((vip(version), PORT)) as second,
            limited.connect((vip(version), PORT)) as third,
        ):
            first.send(8)
            second.send(6)
            assert {allowed.name: 8} == arrived(pool_lab)
            pool_lab.load(
                guarded(
                    pool_lab,
                    replace(
                        guard, allow=entry(allowed.address(version)), deny=entry("203.0.113.0/24", "2001:db9::/32")
                    ),
                )
            )
            third.send(5)
            assert {allowed.name: 8, limited.name: 3} == arrived(pool_lab)
        assert {"denied": 6, "rate": 1, "banned": 1} == dropped(pool_lab)
        found = pool_lab.lab.balancer.call(pool_lab.applier.sources, guarded(pool_lab, guard), 10)
        seen = [(one.source, one.arrived.packets, one.dropped.packets, one.banned is not None) for one in found.most]
        hosts = ((allowed, 8, 0, False), (denied, 6, 6, False), (limited, 5, 2, True))
        assert [(host.address(version), *rest) for host, *rest in hosts] == seen


@pytest.mark.parametrize(("mode", "version"), [(STATELESS_INGRESS, 4), (DSR_INGRESS, 6)], ids=str)
def test_each_packet_counts_once_without_a_backend(mode: Mode, version: int) -> None:
    """While no backend is left, packets pass by the guard of the fast path; afterwards, the fast path counts again."""
    with PoolLab(mode) as pool_lab:
        client = pool_lab.lab.client
        pool = guarded(pool_lab, Guard(rate=SLOW, burst=100, clients=True), fallback=Fallback(FallbackKind.DROP))
        pool_lab.load(pool)

        def counted() -> int:
            (found,) = pool_lab.lab.balancer.call(pool_lab.applier.sources, pool, 10).most
            return int(found.arrived.packets)

        with client.connect((vip(version), PORT)) as sender:
            sender.send(6)
            assert {client.name: 6} == arrived(pool_lab)
            assert 6 == counted()
            pool_lab.update(down("b1", "b2", "b3"))
            sender.send(6)
            assert {client.name: 6} == arrived(pool_lab)
            assert 12 == counted()
            pool_lab.update(down())
            sender.send(6)
            assert {client.name: 12} == arrived(pool_lab)
            assert 18 == counted()


def test_other_forms_of_a_pool() -> None:
    """A guard works for a range of ports and for UDP by flow, and the balancer itself is a source like any other."""
    with PoolLab(NAT) as pool_lab:
        listen = tuple(replace(one, last_port=PORT + 5) for one in pool_lab.pool().listen)
        pool_lab.load(guarded(pool_lab, Guard(rate=SLOW, burst=6), listen=listen, per=Per.FLOW))
        host, balancer = pool_lab.lab.client, pool_lab.lab.balancer
        with host.connect((vip(4), PORT)) as one, host.connect((vip(4), PORT + 5)) as other:
            assert ["b1"] * 4 == [answer.backend for answer in one.exchange(4)]
            assert ["b2"] * 2 == [answer.backend for answer in other.exchange(2)]
            one.send(3)
        with balancer.connect((vip(4), PORT + 1)) as own:
            assert ["b3"] * 6 == [answer.backend for answer in own.exchange(6)]
            with pytest.raises(PermissionError):
                own.send(1)
        assert {host.name: 6, balancer.name: 6} == arrived(pool_lab)
        assert {"rate": 4} == dropped(pool_lab)


@pytest.mark.parametrize("version", [4, 6])
def test_connections_are_counted_and_not_their_packets(version: int) -> None:
    """Of TCP, the limit counts new connections. The connections that there are go on."""
    with PoolLab(NAT, serve=False) as pool_lab:
        listen = tuple(replace(one, protocol=Protocol.TCP) for one in pool_lab.pool().listen)
        pool_lab.load(guarded(pool_lab, Guard(rate=SLOW, burst=2), listen=listen))
        with TcpServers(pool_lab.lab.backends, BACKEND_PORT):
            host, target = pool_lab.lab.client, (vip(version), PORT)
            with TcpConnection(host, target) as one, TcpConnection(host, target) as other:
                sock = host.call(socket.socket, socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
                with sock:
                    sock.setblocking(False)
                    sock.connect_ex(target)
                    await_that(lambda: dropped(pool_lab).get("rate", 0) > 0, "a dropped connection")
                assert ["b1", "b2"] == [one.backend, other.backend]
                assert b"x" * 100_000 == one.echo(b"x" * 100_000)
                assert b"y" * 100_000 == other.echo(b"y" * 100_000)


LOADS = 24
"""Each guard comes six times."""


def reload_while(pool_lab: PoolLab, pools: list[Pool], sender: Sender) -> int:
    """Load the pools in turn, each with a change of backends, and stop the sender; return how often."""
    os.sched_setaffinity(0, {OTHERS})  # for this thread only, which ends with the test
    loads = 0
    while loads < LOADS and sender.running:
        loads += 1
        begin = time.monotonic()
        wanted = Config(pools=(pools[loads % len(pools)],))
        swapper = pool_lab.applier.swapper
        swapper.staged = pool_lab.applier.lists(wanted)
        for backend in ("b1", "b2", "b1"):
            if swapper.stage():
                pool_lab.applier.update(down(backend))
                pool_lab.applier.tidy()
        pool_lab.applier.load(wanted, Membership())
        swapper.staged = None
        pool_lab.applier.update(down("b1" if loads % 2 else "b2"))
        time.sleep(max(0.0, 0.02 - (time.monotonic() - begin)))  # the pace of the reloads, not a wait for an event
    sender.stop()
    return loads


@pytest.mark.alone
@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (STATELESS_INGRESS, 4), (DSR_INGRESS, 6)], ids=str)
def test_reloads_of_lists_under_full_load(
    blaster: Blaster, mode: Mode, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While lists, rates and the guard itself come and go, an allowed client loses no datagram, and gets none twice.

    The lists come in parts of one range, some before the load and the rest with it.
    """
    monkeypatch.setattr(plan, "PART", 1)
    count = MOST_FIRE  # the most; the sender stops with the last load
    with PoolLab(mode, serve=False) as pool_lab:
        client = pool_lab.lab.client.address(version)
        every = ("198.51.0.0/16", "2001:db8::/32")
        guards = (
            Guard(allow=entry(client), deny=entry(*every), rate=SLOW, clients=True),
            Guard(allow=entry(client, "203.0.113.7"), deny=entry(*every, "203.0.113.0/24"), rate=SLOW, ban=60_000),
            Guard(rate=Rate(1_000_000), burst=1_000_000, deny=entry("203.0.113.0/24")),
            None,
        )
        pools = [replace(pool_lab.pool(), guard=guard) for guard in guards]
        pool_lab.load(pools[0])
        bind = vip(version) if mode.dsr else ""
        with blaster.sinks(
            pool_lab.lab.backends, port=mode.port, version=version, address=bind, log=count, cpu=OTHERS
        ) as sinks:
            sender = sinks.start(pool_lab.lab.client, (vip(version), PORT), count=count, cpu=SENDER)
            loads = pool_lab.lab.balancer.call(reload_while, pool_lab, pools, sender)
            sent = sender.report()
        ledger = sinks.ledger(sent.sent)
    print(f"{mode} IPv{version}: {loads} loads, {sent.rate:.0f}/s, {ledger.counts}")  # noqa: T201
    assert 0 == sum(report.buffer_drops for report in sinks.reports.values()) + sent.buffer_drops
    assert ([], []) == (ledger.missing, ledger.twice)
    assert LOADS == loads
