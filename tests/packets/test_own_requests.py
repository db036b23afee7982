"""Requests of the balancer itself from a service's address and port: it gets the replies, and no backend sees them.

ONE socket on the balancer sends requests to a server outside, on the host `client1`.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pool_lab import DSR, DSR_INGRESS, PORT, STATELESS, STATELESS_INGRESS, PoolLab, vip
from sctp_associations import SctpAssociation, SctpServers
from tcp_connections import TcpConnection, TcpServers

from nftlb.model import Balance, Listener, Pool, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool_lab import Mode

    from nftlb.lab import Servers

VERSIONS = (4, 6)
MODES = (STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS)
BOTH = [True, False]
OFFLOADS = ["offload", "no-offload"]
ASKED = 123
NARROW, WIDE = (40000, 40100), (33000, 60000)
INSIDE = 40007
"""An ephemeral port inside the range at which a pool listens."""


@pytest.fixture(params=MODES, ids=str, scope="module")
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture(params=BOTH, ids=OFFLOADS, scope="module")
def pool_lab(mode: Mode, request: pytest.FixtureRequest) -> Iterator[PoolLab]:
    with PoolLab(mode, offload=bool(request.param)) as pool_lab:
        yield pool_lab


@contextmanager
def outside(pool_lab: PoolLab, *, answer: bool = True, zero_checksum: bool = False) -> Iterator[Servers]:
    """A server on the client's host. The records of the backends are empty at first."""
    host = pool_lab.lab.client
    with pool_lab.lab.serve(ASKED, backends=[host], answer=answer, zero_checksum=zero_checksum) as servers:
        pool_lab.servers.clear()
        yield servers


def own_address(version: int, place: str) -> str:
    """An address of the balancer: on loopback (in a segment, a second address), or the only address of an interface."""
    if place == "loopback":
        return vip(version)
    return {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]


def listening(pool_lab: PoolLab, ports: tuple[int, int], *places: str, protocol: Protocol = Protocol.UDP) -> Pool:
    """The lab's pool at other addresses and ports of the balancer."""
    pool = pool_lab.pool()
    addresses = [ip_address(own_address(version, place)) for version in VERSIONS for place in places]
    backends = pool.backends
    if ports[0] != ports[1]:
        backends = tuple(replace(backend, port=None) for backend in backends)
    listen = tuple(Listener(address, *ports, protocol) for address in addresses)
    return replace(pool, listen=listen, backends=backends, balance=Balance.HASH)


def ask(
    pool_lab: PoolLab, version: int, source: tuple[str, int], *, size: int = 100, zero_checksum: bool = False
) -> None:
    """Send twelve requests from one socket. All replies come from the server outside, and no backend sees a request."""
    target = (pool_lab.lab.client.address(version), ASKED)
    with pool_lab.lab.balancer.connect(
        target, source_address=source[0], source_port=source[1], zero_checksum=zero_checksum
    ) as client:
        answers = client.exchange(12, size=size, reply_size=size)
    assert [("client1", target, size, True, 1)] * 12 == [
        (answer.backend, answer.source, answer.size, answer.whole, answer.copies) for answer in answers
    ]
    assert [] == pool_lab.servers.settle()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["loopback", "interface"])
@pytest.mark.parametrize("size", [100, 4000])
def test_from_the_port_of_a_service(pool_lab: PoolLab, place: str, version: int, size: int) -> None:
    """An NTP daemon sends requests from port 123, like many programs, and gets its replies whole."""
    pool_lab.load(listening(pool_lab, (PORT, PORT), "loopback", "interface"))
    address = own_address(version, place)
    with outside(pool_lab) as servers:
        ask(pool_lab, version, (address, PORT), size=size)
        assert {address} == {datagram.source[0] for datagram in servers.received}
        assert PORT not in {datagram.source[1] for datagram in servers.received}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["loopback", "interface"])
@pytest.mark.parametrize("ports", [NARROW, WIDE], ids=["narrow", "wide"])
def test_from_inside_a_range(pool_lab: PoolLab, ports: tuple[int, int], place: str, version: int) -> None:
    """Linux may give a socket a port at which a pool listens: the socket still gets its replies."""
    pool_lab.load(listening(pool_lab, ports, "loopback", "interface"))
    address = own_address(version, place)
    with outside(pool_lab) as servers:
        ask(pool_lab, version, (address, INSIDE))
        ask(pool_lab, version, (address, INSIDE), size=4000)
        assert {address} == {datagram.source[0] for datagram in servers.received}
        assert not any(ports[0] <= datagram.source[1] <= ports[1] for datagram in servers.received)


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_to_a_range_are_still_balanced(pool_lab: PoolLab, version: int) -> None:
    """A host that got a request from a port of a range may send requests to this port, and a backend serves it."""
    with pool_lab.lab.serve((INSIDE,)) as servers, outside(pool_lab):
        pool_lab.load(listening(pool_lab, WIDE, "loopback"))
        ask(pool_lab, version, (vip(version), INSIDE))
        with pool_lab.lab.client.connect((vip(version), INSIDE), source_port=ASKED + 1, connected=False) as client:
            answers = client.exchange(4)
        assert {(vip(version), INSIDE)} == {answer.source for answer in answers}
        assert 4 == len(servers.received)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_checksum(mode: Mode, version: int) -> None:
    """If requests and replies have no UDP checksum, they arrive without a checksum."""
    with PoolLab(mode) as pool_lab, outside(pool_lab, zero_checksum=True):
        ask(pool_lab, version, (vip(version), PORT), zero_checksum=True)
        ask(pool_lab, version, (vip(version), PORT), size=4000, zero_checksum=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_may_also_be_a_client(pool_lab: PoolLab, version: int) -> None:
    """A host that just got a request is a client like any other, even from the same port to the same port."""
    pool_lab.load(pool_lab.pool())
    with outside(pool_lab) as servers:
        ask(pool_lab, version, (vip(version), PORT))
        aliases = {datagram.source[1] for datagram in servers.received}
    with pool_lab.lab.client.connect((vip(version), PORT), source_port=ASKED, connected=False) as client:
        answers = client.exchange(9)
        assert {"b1": 3, "b2": 3, "b3": 3} == {
            name: [answer.backend for answer in answers].count(name) for name in pool_lab.servers.counts
        }
        assert {(vip(version), PORT)} == {answer.source for answer in answers}
    assert PORT not in aliases


@pytest.mark.parametrize("source_port", [PORT, 40000], ids=["service-port", "another-port"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", BOTH, ids=OFFLOADS)
@pytest.mark.parametrize("hairpin", BOTH, ids=["hairpin", "no-hairpin"])
def test_backend_that_is_its_own_client(hairpin: bool, offload: bool, version: int, source_port: int) -> None:
    """With `hairpin: true`, a backend that is a client of its own pool gets replies from the service at all turns.

    Without, the packets of its own turns are lost; over IPv6, their replies come from its own address.
    """
    with PoolLab(STATELESS, offload=offload) as pool_lab:
        pool_lab.load(replace(pool_lab.pool(), hairpin=hairpin))
        first, *_ = pool_lab.lab.backends
        target = (vip(version), PORT)
        answered = ["b1" if hairpin else "", "b2", "b3"] * 3
        with first.connect(target, source_port=source_port, connected=False) as client:
            # The time-out is short only if no reply is expected.
            answers = [answer for name in answered for answer in client.exchange(1, timeout=20 if name else 0.1)]
        assert answered == [answer.backend if answer.source == target else "" for answer in answers]
        with pool_lab.lab.client.connect(target, source_port=source_port) as client:
            assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in client.exchange(6)]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_storm(pool_lab: PoolLab, version: int) -> None:
    """A server that replies to every datagram gets twelve requests and sends twelve replies: no loop begins."""
    pool_lab.load(pool_lab.pool())
    target = (pool_lab.lab.client.address(version), ASKED)
    with (
        outside(pool_lab) as servers,
        pool_lab.lab.balancer.connect(target, source_address=vip(version), source_port=PORT) as client,
        socket.socket(fileno=os.dup(client.fileno())) as sock,
    ):
        sock.settimeout(20)
        for _ in range(12):
            sock.send(b"?")
            assert b"client1 ?" == sock.recv(100)
        assert 12 == len(servers.settle())
        assert [] == pool_lab.servers.settle()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [100, 4000])
def test_client_on_the_balancer(pool_lab: PoolLab, version: int, size: int) -> None:
    """Datagrams of the balancer to a service at its own address stay there: no turn is taken; they are refused."""
    pool_lab.load(pool_lab.pool())
    pool_lab.servers.clear()
    with pool_lab.lab.balancer.connect((vip(version), PORT)) as client:
        answers = client.exchange(4, size=size)
        assert ["ConnectionRefusedError"] * 4 == [type(answer.error).__name__ for answer in answers]
    assert [] == pool_lab.servers.settle()
    with pool_lab.lab.serve(PORT, backends=[pool_lab.lab.balancer]) as own:
        with pool_lab.lab.balancer.connect((vip(version), PORT)) as client:
            answers = client.exchange(4, size=size)
        assert [("balancer", (vip(version), PORT))] * 4 == [(answer.backend, answer.source) for answer in answers]
        assert 4 == len(own.received)


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_of_the_balancer(mode: Mode, version: int) -> None:
    """TCP and SCTP behave like datagrams, and their checksums stay right."""
    with PoolLab(mode, serve=False) as pool_lab:
        client, balancer = pool_lab.lab.client, pool_lab.lab.balancer
        target = (client.address(version), ASKED)
        pool_lab.load(listening(pool_lab, (PORT, PORT), "interface", protocol=Protocol.TCP))
        with TcpServers([client], ASKED), TcpConnection(balancer, target, source_port=PORT) as flow:
            assert "client1" == flow.backend
            assert b"x" * 50_000 == flow.echo(b"x" * 50_000)
        pool_lab.load(listening(pool_lab, (PORT, PORT), "interface", protocol=Protocol.SCTP))
        with (
            SctpServers([client], ASKED) as servers,
            SctpAssociation(balancer, target, source_port=PORT) as association,
        ):
            assert ["client1"] * 4 == [association.backend, *(association.beat() for _ in range(3))]
            assert 0 == servers.bad_checksums
