"""`mirror`: each datagram also reaches the collector, with the source of its client; clients notice nothing.

The tests use ONE client socket, and count the datagrams at the backends and at the collector.
"""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from added_addresses import add_addresses
from blaster import Membership as Members
from copies_lab import COLLECTOR_PORT, CopiesLab
from hop_limits import send_all_errors, set_ttl, time_exceeded
from lab_parameters import offload_id
from packet_tap import Tap
from pool_lab import DSR, NAT, PORT, STATELESS, STATELESS_EARLY, down, vip
from under_fire import OTHERS, SENDER, paced

from nftlb.model import BackendState, Balance, Collector, Listener, Membership, Per, Protocol, SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from blaster import Blaster, Sender
    from pool_lab import Mode

    from nftlb.lab.host import DatagramResult, LabClient
    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)

COUNT = 8
SIZES = (64, 4000)
"""The bytes of a datagram. The larger datagrams arrive in fragments."""
CASES = [
    *((mode, version, True, False) for mode in (NAT, STATELESS, DSR) for version in (4, 6)),
    (STATELESS_EARLY, 4, True, False),
    *((mode, version, True, True) for mode, version in ((NAT, 4), (STATELESS, 4), (STATELESS, 6), (DSR, 6))),
    *((mode, version, False, False) for mode, version in ((NAT, 4), (STATELESS, 4), (STATELESS, 6))),
    (STATELESS, 4, False, True),
]
"""The mode, the version of IP, whether interfaces leave checksums to hardware, whether all UDP checksums are zero."""


def spread(answers: list[DatagramResult]) -> dict[str, int]:
    """The datagrams by backend. Each has exactly one reply, and all replies come from the service."""
    assert [1] * len(answers) == [answer.copies for answer in answers]
    assert {PORT} == {answer.source[1] for answer in answers}
    assert all(answer.source[0] in {vip(4), vip(6)} for answer in answers)
    names = [answer.backend for answer in answers]
    return {name: names.count(name) for name in sorted(set(names))}


@pytest.mark.parametrize(
    ("mode", "version", "offload", "zero"),
    CASES,
    ids=[f"{mode}-{version}-{offload_id(offload)}{'-zero' * zero}" for mode, version, offload, zero in CASES],
)
def test_each_datagram_reaches_the_collector(mode: Mode, version: int, offload: bool, zero: bool) -> None:
    """Turns stay exact, and the collector gets each datagram once: fragments and zero checksums too.

    The collector replies. Its replies do not reach the client, whose socket receives from any address. With `dsr` the
    hosts share a segment, and the collector is silent: what does not pass the balancer, the balancer can't drop.
    """
    with (
        CopiesLab(mode, offload=offload, zero_checksum=zero, collector_answers=not mode.dsr) as lab,
        lab.lab.client.connect((vip(version), PORT), connected=False, zero_checksum=zero) as client,
    ):
        lab.load(lab.mirrored())
        for size in SIZES:
            answers = client.exchange(COUNT, size=size)
            assert {"b1": COUNT // 2, "b2": COUNT // 2} == spread(answers)
            copies = lab.copies()
            assert [answer.sequence for answer in answers] == sorted(copy.sequence or 0 for copy in copies)
            assert {(lab.lab.client.address(version), client.source[1])} == {copy.source for copy in copies}
            assert {(size, True)} == {(copy.size, copy.whole) for copy in copies}
            assert {(lab.collector.address(version), COLLECTOR_PORT)} == {copy.destination for copy in copies}
            assert [] == client.drain()
            lab.archive.clear()


def with_range(lab: CopiesLab) -> Pool:
    """A pool at a range of ports: neither the backends nor the collector have a port."""
    pool = lab.mirrored(port=None)
    return replace(
        pool,
        listen=tuple(replace(one, first_port=PORT, last_port=COLLECTOR_PORT) for one in pool.listen),
        backends=tuple(replace(backend, port=None) for backend in pool.backends),
    )


FORMS_OF_POOLS: dict[str, tuple[Mode, Callable[[CopiesLab], Pool]]] = {
    "per flow": (NAT, lambda lab: replace(lab.mirrored(), per=Per.FLOW)),
    "source keep": (NAT, lambda lab: replace(lab.mirrored(), source=SourceKind.KEEP)),
    "hash": (STATELESS, lambda lab: replace(lab.mirrored(), balance=Balance.HASH)),
    "two listeners": (
        STATELESS,
        lambda lab: replace(
            lab.mirrored(),
            listen=(*lab.pool().listen, *(replace(one, first_port=54, last_port=54) for one in lab.pool().listen)),
        ),
    ),
    "beside tcp": (
        STATELESS,
        lambda lab: replace(
            lab.mirrored(),
            balance=Balance.HASH,
            listen=(*lab.pool().listen, *(replace(one, protocol=Protocol.TCP) for one in lab.pool().listen)),
        ),
    ),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("form", FORMS_OF_POOLS)
def test_other_forms_of_pools(form: str, version: int) -> None:
    """Copies are exact in other forms of pools; other services of the host do not change them."""
    mode, make = FORMS_OF_POOLS[form]
    with CopiesLab(mode) as lab, lab.lab.client.connect((vip(version), PORT), connected=False) as client:
        pool = make(lab)
        other = Listener(ip_address(vip(version)), 99, 99, Protocol.UDP)
        servers = tuple(backend for backend in lab.pool(7000).backends if backend.family is other.family)
        lab.load(pool, replace(lab.pool(7000), name="other", forward=NAT.forward, listen=(other,), backends=servers))
        answers = client.exchange(COUNT)
        assert COUNT == sum(spread(answers).values())
        assert COUNT == len(lab.copies())
        assert {client.source[1]} == {copy.source[1] for copy in lab.copies()}
        assert [] == client.drain()


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_a_range_of_ports(mode: Mode) -> None:
    """At a range of ports, a copy keeps the port of its datagram."""
    with CopiesLab(mode) as lab:
        lab.load(with_range(lab))
        with lab.lab.client.connect((vip(4), COLLECTOR_PORT), connected=False) as client:
            client.send(COUNT)
            copies = lab.archive.wait(COUNT)
        assert {(lab.collector.ipv4, COLLECTOR_PORT)} == {copy.destination for copy in copies}
        assert list(range(COUNT)) == sorted(copy.sequence or 0 for copy in copies)


@pytest.mark.parametrize("version", [4, 6])
def test_one_in_ten(version: int) -> None:
    """`one_in: 10`: 10 of 100 datagrams are copied; swaps do not restart the count."""
    with CopiesLab(STATELESS) as lab, lab.lab.client.connect((vip(version), PORT), connected=False) as client:
        lab.load(lab.mirrored(one_in=10))
        for step in range(20):
            spread(client.exchange(5))
            lab.update(down("b1") if step % 2 else Membership())
        assert list(range(0, 100, 10)) == [copy.sequence for copy in lab.copies()]


@pytest.mark.parametrize("version", [4, 6])
def test_clients_on_the_balancer_and_on_a_backend(version: int) -> None:
    """`nat` also copies datagrams of clients on the balancer and on a backend."""
    with CopiesLab(NAT, collector_answers=False) as lab:
        lab.load(lab.mirrored())
        for host in (lab.lab.balancer, lab.lab.backends[0]):
            with host.connect((vip(version), PORT), connected=False) as client:
                assert {"b1": COUNT // 2, "b2": COUNT // 2} == spread(client.exchange(COUNT))
                assert COUNT == len(lab.copies())
                assert {client.source[1]} == {copy.source[1] for copy in lab.copies()}
                lab.archive.clear()


@pytest.mark.parametrize("version", [4, 6])
def test_collectors_on_the_balancer_and_behind_a_router(version: int) -> None:
    """A collector may be a program on the balancer, and may be behind a router."""
    far = {4: "10.77.0.9", 6: "fd00:77::9"}[version]
    with CopiesLab(STATELESS, collector_answers=False) as lab:
        router, length = {4: ("10.0.3.2", 32), 6: ("fd00:3::2", 128)}[version]
        add_addresses(lab.collector, "lo", f"{far}/{length}")
        lab.lab.balancer.run(["ip", "route", "add", f"{far}/{length}", "via", router])
        near = {4: "10.0.1.1", 6: "fd00:1::1"}[version]
        collectors = (
            Collector(name="near", address=ip_address(near), port=9996),
            Collector(name="far", address=ip_address(far), port=COLLECTOR_PORT),
        )
        with (
            lab.collect(9996, [lab.lab.balancer], (version,)) as near_server,
            lab.lab.client.connect((vip(version), PORT), connected=False) as client,
        ):
            lab.load(replace(lab.pool(), mirror=collectors))
            assert {"b1": COUNT // 2, "b2": COUNT // 2} == spread(client.exchange(COUNT))
            near_server.wait(COUNT)  # a copy to this host takes another way than the datagrams that `settle` sends
            for copies, address in ((near_server.settle(), near), (lab.copies(), far)):
                assert COUNT == len(copies)
                assert {address} == {copy.destination[0] for copy in copies}
                assert {client.source[1]} == {copy.source[1] for copy in copies}
            assert [] == client.drain()


def icmp(tap: Tap) -> list[str]:
    """The ICMP errors that passed, as type and code."""
    found = [packet for packet in tap.packets() if packet.protocol in {socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6}]
    kinds = {socket.IPPROTO_ICMP: {3}, socket.IPPROTO_ICMPV6: {1, 2}}
    return [packet.payload[:2].hex() for packet in found if packet.payload[0] in kinds[packet.protocol]]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("mode", "per"), [(NAT, Per.PACKET), (NAT, Per.FLOW), (STATELESS, Per.PACKET), (DSR, Per.PACKET)], ids=str
)
def test_loops_end(mode: Mode, per: Per, version: int) -> None:
    """A copy has a TTL that is one less, and a datagram with a TTL of 1 is not copied: its sender gets an error."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with (
        CopiesLab(mode) as lab,
        lab.lab.client.call(socket.socket, family, socket.SOCK_DGRAM) as sock,
        Tap(lab.lab.client) as at_client,
        Tap(lab.collector) as tap,
    ):
        send_all_errors(lab.lab.balancer)
        lab.load(replace(lab.mirrored(), per=per))
        for ttl in (3, 2, 1):
            set_ttl(sock, ttl)
            sock.sendto(b"a datagram", (vip(version), PORT))
        lab.copies()
        copies = [packet for packet in tap.datagrams() if not packet.outgoing and packet.payload == b"a datagram"]
        assert [2, 1] == [packet.ttl for packet in copies]
        assert 2 == len(lab.servers.received)
        assert 1 == len(time_exceeded(at_client))


FAMILIES = {4: "ip", 6: "ip6"}
FAULTS = ("no program", "no host", "no link", "no route", "small mtu")
SIZE = 1400  # of the payload, more than the small MTU


def cause(lab: CopiesLab, fault: str) -> None:
    """Make copies to the collector impossible."""
    match fault:
        case "no program":
            lab.load(lab.mirrored(port=9997))
        case "no host":  # nobody answers ARP and ND, and the balancer gives up after three attempts
            for family in ("ipv4", "ipv6"):
                lab.lab.balancer.sysctl(f"net.{family}.neigh.b3.retrans_time_ms", 50)
            lab.collector.run(["ip", "address", "flush", "dev", "eth0"])
            lab.lab.balancer.run(["ip", "neighbour", "flush", "dev", "b3"])
        case "no link":
            lab.collector.run(["ip", "link", "set", "eth0", "down"])
        case "no route":
            lab.lab.balancer.run(["ip", "link", "set", "b3", "down"])
        case "small mtu":
            lab.lab.balancer.run(["ip", "link", "set", "b3", "mtu", "1300"])


def exchange_until_known(lab: CopiesLab, client: LabClient, fault: str, version: int) -> list[DatagramResult]:
    """Exchange datagrams until the balancer has given the neighbour up, if there is one; return all results."""
    answers = client.exchange(20, size=SIZE)
    failed = ["ip", f"-{version}", "neighbour", "show", "dev", "b3", "nud", "failed"]
    deadline = time.monotonic() + 60
    while fault == "no host" and not lab.lab.balancer.run(failed):
        assert time.monotonic() < deadline
        answers += client.exchange(20, size=SIZE)
    return answers + client.exchange(20, size=SIZE)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_collector_that_is_down(mode: Mode, version: int, fault: str) -> None:
    """While the collector is down, all datagrams get their replies, and no ICMP error reaches the client."""
    with (
        CopiesLab(mode) as lab,
        lab.lab.client.connect((vip(version), PORT), connected=False) as client,
        Tap(lab.lab.client) as tap,
    ):
        lab.load(lab.mirrored())
        cause(lab, fault)
        answers = exchange_until_known(lab, client, fault, version)
        assert {"b1": len(answers) // 2, "b2": len(answers) // 2} == spread(answers)
        assert [] == icmp(tap)
        assert [] == client.errors


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("fault", ["no program", "no host", "small mtu"])
def test_without_its_chain_errors_would_reach_the_client(fault: str, version: int) -> None:
    """If the chain is flushed that drops ICMP errors about copies, the client gets such errors."""
    with (
        CopiesLab(STATELESS) as lab,
        lab.lab.client.connect((vip(version), PORT), connected=False) as client,
        Tap(lab.lab.client) as tap,
    ):
        lab.load(lab.mirrored())
        cause(lab, fault)
        lab.lab.nft(f"flush chain {FAMILIES[version]} nftlb refused-copies")
        deadline = time.monotonic() + 60
        while not icmp(tap):
            assert time.monotonic() < deadline
            client.exchange(20, size=SIZE)


@pytest.mark.parametrize("version", [4, 6])
def test_without_its_set_replies_would_reach_the_client(version: int) -> None:
    """If the set of collectors is flushed, the client gets a second reply to each datagram."""
    with CopiesLab(STATELESS) as lab, lab.lab.client.connect((vip(version), PORT), connected=False) as client:
        lab.load(lab.mirrored())
        lab.lab.nft(f"flush set {FAMILIES[version]} nftlb collectors")
        answers = client.exchange(COUNT)
        while 2 * COUNT > sum(answer.copies for answer in answers):
            assert select.select([client], [], [], 20)[0]
            answers += client.drain()
        assert 2 * COUNT == sum(answer.copies for answer in answers)


def of(states: dict[str, BackendState]) -> Membership:
    """These states, in both families."""
    return Membership(
        {"dns": frozenset((name + suffix, state) for name, state in states.items() for suffix in ("", "-6"))}
    )


DOWN = BackendState(up=False)
STEPS: tuple[tuple[dict[str, BackendState], tuple[str, ...]], ...] = (
    ({}, ("b1", "b2")),
    ({"b1": DOWN, "spare": DOWN}, ("b2",)),
    ({}, ("b1", "b2")),
    ({"b2": DOWN}, ("b1",)),
)
"""The states of backends and of the collector `spare`, and the backends that get the datagrams."""


SWAPS = 200


def change_while(lab: CopiesLab, sender: Sender) -> list[Members]:
    """Change the states step by step, and stop the sender. Return the backends in service, with their times."""
    os.sched_setaffinity(0, {OTHERS})  # for this thread only, which ends with the test
    history = [Members(0, 0, frozenset(STEPS[0][1]))]
    while len(history) <= SWAPS and sender.running:
        states, names = STEPS[len(history) % len(STEPS)]
        begin, end = paced(partial(lab.applier.update, of(states)))
        history.append(Members(begin, end, frozenset(names)))
    sender.stop()
    return history


@pytest.mark.alone
@pytest.mark.parametrize(
    ("mode", "version"), [(NAT, 4), (NAT, 6), (STATELESS, 4), (STATELESS, 6), (DSR, 4)], ids=lambda value: f"{value}"
)
def test_swaps_under_load(blaster: Blaster, mode: Mode, version: int) -> None:
    """During swaps, each datagram of one socket arrives once at a backend, and its copy once at the collector.

    The swaps change the backends, and whether another collector gets copies.
    """
    count = 1_200_000  # the most; the sender stops with the last swap
    with CopiesLab(mode, serve=False, collector_answers=False) as lab:
        spare = lab.collectors("spare", port=9997)
        lab.load(replace(lab.mirrored(port=6000), mirror=(*lab.collectors(port=6000), *spare)))
        with (
            blaster.sinks([lab.collector], port=6000, version=version, log=count, cpu=OTHERS) as archive,
            blaster.sinks(
                lab.lab.backends[:2],
                port=mode.port,
                version=version,
                address=vip(version) if mode.dsr else "",
                log=count,
                cpu=OTHERS,
            ) as sinks,
        ):
            sender = sinks.start(lab.lab.client, (vip(version), PORT), count=count, rate=20_000, cpu=SENDER)
            history = lab.lab.balancer.call(change_while, lab, sender)
            sent = sender.report()
        ledger, copies = sinks.ledger(sent.sent), archive.ledger(sent.sent)
    print(f"{mode} IPv{version}: {len(history) - 1} swaps, {sent.rate:.0f}/s, {ledger.counts}")  # noqa: T201
    reports = [*sinks.reports.values(), *archive.reports.values()]
    assert 0 == sum(report.buffer_drops for report in reports) + sent.buffer_drops
    assert ([], []) == (ledger.missing, ledger.twice)
    assert ([], []) == (copies.missing, copies.twice)
    assert [] == ledger.outside(history)
    assert SWAPS == len(history) - 1
