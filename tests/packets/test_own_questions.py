"""What the balancer itself asks from the address and port of a service is answered to it: no backend sees the answers.

ONE socket on the balancer asks a server outside, which is on the host `client1`.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from packets.world import DSR, DSR_INGRESS, PORT, STATELESS, STATELESS_INGRESS, World, vip

from nftlb.lab import sctp
from nftlb.model import Balance, Listener, Pool, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packets.world import Mode

    from nftlb.lab import Servers

VERSIONS = (4, 6)
MODES = (STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS)
BOTH = [True, False]
OFFLOADS = ["offload", "no-offload"]
ASKED = 123
NARROW, WIDE = (40000, 40100), (33000, 60000)
INSIDE = 40007
"""A port as Linux gives it to a socket that names none, inside the range that a pool listens at."""


@pytest.fixture(params=MODES, ids=str, scope="module")
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture(params=BOTH, ids=OFFLOADS, scope="module")
def world(mode: Mode, request: pytest.FixtureRequest) -> Iterator[World]:
    with World(mode, offload=bool(request.param)) as world:
        yield world


@contextmanager
def outside(world: World, *, answer: bool = True, zero_checksum: bool = False) -> Iterator[Servers]:
    """A server on the client's host; no backend has seen anything yet."""
    host = world.lab.client
    with world.lab.serve(ASKED, backends=[host], answer=answer, zero_checksum=zero_checksum) as servers:
        world.servers.clear()
        yield servers


def own_address(version: int, place: str) -> str:
    """An address of the balancer: of its loopback interface (switched: a second one), or an interface's only one."""
    if place == "loopback":
        return vip(version)
    return {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]


def listening(world: World, ports: tuple[int, int], *places: str, protocol: Protocol = Protocol.UDP) -> Pool:
    """The world's pool at other addresses and ports of the balancer."""
    pool = world.pool()
    addresses = [ip_address(own_address(version, place)) for version in VERSIONS for place in places]
    backends = pool.backends
    if ports[0] != ports[1]:
        backends = tuple(replace(one, port=None) for one in backends)
    listen = tuple(Listener(address, *ports, protocol) for address in addresses)
    return replace(pool, listen=listen, backends=backends, balance=Balance.HASH)


def ask(world: World, version: int, source: tuple[str, int], *, size: int = 100, zero_checksum: bool = False) -> None:
    """Twelve questions of one socket, all answered by the server outside, and none seen by a backend."""
    target = (world.lab.client.address(version), ASKED)
    with world.lab.balancer.connect(
        target, source_address=source[0], source_port=source[1], zero_checksum=zero_checksum
    ) as client:
        answers = client.exchange(12, size=size, reply_size=size)
    assert [("client1", target, size, True, 1)] * 12 == [
        (one.backend, one.source, one.size, one.whole, one.copies) for one in answers
    ]
    assert [] == world.servers.settle()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["loopback", "interface"])
@pytest.mark.parametrize("size", [100, 4000])
def test_from_the_port_of_a_service(world: World, place: str, version: int, size: int) -> None:
    """An NTP daemon asks from port 123, and so do others: the answers are its own, whole."""
    world.load(listening(world, (PORT, PORT), "loopback", "interface"))
    address = own_address(version, place)
    with outside(world) as servers:
        ask(world, version, (address, PORT), size=size)
        assert {address} == {one.source[0] for one in servers.received}
        assert PORT not in {one.source[1] for one in servers.received}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["loopback", "interface"])
@pytest.mark.parametrize("ports", [NARROW, WIDE], ids=["narrow", "wide"])
def test_from_inside_a_range(world: World, ports: tuple[int, int], place: str, version: int) -> None:
    """Linux may give a socket a port at which a pool listens: the answers are the socket's all the same."""
    world.load(listening(world, ports, "loopback", "interface"))
    address = own_address(version, place)
    with outside(world) as servers:
        ask(world, version, (address, INSIDE))
        ask(world, version, (address, INSIDE), size=4000)
        assert {address} == {one.source[0] for one in servers.received}
        assert not any(ports[0] <= one.source[1] <= ports[1] for one in servers.received)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_range_still_takes_requests(world: World, version: int) -> None:
    """The host that was asked from inside a range may ask there itself, and is served by a backend."""
    with world.lab.serve((INSIDE,)) as servers, outside(world):
        world.load(listening(world, WIDE, "loopback"))
        ask(world, version, (vip(version), INSIDE))
        with world.lab.client.connect((vip(version), INSIDE), source_port=ASKED + 1, connected=False) as client:
            answers = client.exchange(4)
        assert {(vip(version), INSIDE)} == {one.source for one in answers}
        assert 4 == len(servers.received)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_checksum(mode: Mode, version: int) -> None:
    """Neither questions nor answers have a UDP checksum, and none is made up on the way."""
    with World(mode) as world, outside(world, zero_checksum=True):
        ask(world, version, (vip(version), PORT), zero_checksum=True)
        ask(world, version, (vip(version), PORT), size=4000, zero_checksum=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_one_server_may_ask_and_be_asked(world: World, version: int) -> None:
    """The host that was just asked is a client like any other, even from the same port to the same port."""
    world.load(world.pool())
    with outside(world) as servers:
        ask(world, version, (vip(version), PORT))
        aliases = {one.source[1] for one in servers.received}
    with world.lab.client.connect((vip(version), PORT), source_port=ASKED, connected=False) as client:
        answers = client.exchange(9)
        assert {"b1": 3, "b2": 3, "b3": 3} == {
            name: [one.backend for one in answers].count(name) for name in world.servers.counts
        }
        assert {(vip(version), PORT)} == {one.source for one in answers}
    assert PORT not in aliases


@pytest.mark.parametrize("source_port", [PORT, 40000], ids=["service-port", "another-port"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", BOTH, ids=OFFLOADS)
@pytest.mark.parametrize("hairpin", BOTH, ids=["hairpin", "no-hairpin"])
def test_backend_that_is_its_own_client(hairpin: bool, offload: bool, version: int, source_port: int) -> None:
    """With `hairpin: true` a backend that asks its own pool has all its turns answered by the service.

    Without, it loses those that fall to itself; over IPv6, they are answered from its own address.
    """
    with World(STATELESS, offload=offload) as world:
        world.load(replace(world.pool(), hairpin=hairpin))
        first, *_ = world.lab.backends
        target = (vip(version), PORT)
        answered = ["b1" if hairpin else "", "b2", "b3"] * 3
        with first.connect(target, source_port=source_port, connected=False) as client:
            # Only what is not going to come is waited for briefly.
            answers = [one for name in answered for one in client.exchange(1, timeout=2 if name else 0.1)]
        assert answered == [one.backend if one.source == target else "" for one in answers]
        with world.lab.client.connect(target, source_port=source_port) as client:
            assert ["b1", "b2", "b3"] * 2 == [one.backend for one in client.exchange(6)]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_storm(world: World, version: int) -> None:
    """A server that answers to anything is asked twelve times, and answers twelve times: nobody answers its answers."""
    world.load(world.pool())
    target = (world.lab.client.address(version), ASKED)
    with (
        outside(world) as servers,
        world.lab.balancer.connect(target, source_address=vip(version), source_port=PORT) as client,
        socket.socket(fileno=os.dup(client.fileno())) as sock,
    ):
        sock.settimeout(2)
        for _ in range(12):
            sock.send(b"?")
            assert b"client1 ?" == sock.recv(100)
        assert 12 == len(servers.settle())
        assert [] == world.servers.settle()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [100, 4000])
def test_client_on_the_balancer(world: World, version: int, size: int) -> None:
    """What the balancer sends to a service of its own address stays there: no backend's turn, a refusal at once."""
    world.load(world.pool())
    world.servers.clear()
    with world.lab.balancer.connect((vip(version), PORT)) as client:
        answers = client.exchange(4, size=size)
        assert ["ConnectionRefusedError"] * 4 == [type(one.error).__name__ for one in answers]
    assert [] == world.servers.settle()
    with world.lab.serve(PORT, backends=[world.lab.balancer]) as own:
        with world.lab.balancer.connect((vip(version), PORT)) as client:
            answers = client.exchange(4, size=size)
        assert [("balancer", (vip(version), PORT))] * 4 == [(one.backend, one.source) for one in answers]
        assert 4 == len(own.received)


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_of_the_balancer(mode: Mode, version: int) -> None:
    """What holds for datagrams holds for TCP and SCTP, whose checksums stay right."""
    with World(mode, serve=False) as world:
        client, balancer = world.lab.client, world.lab.balancer
        target = (client.address(version), ASKED)
        world.load(listening(world, (PORT, PORT), "interface", protocol=Protocol.TCP))
        with world.lab.serve_tcp(ASKED, backends=[client]), balancer.dial(target, source_port=PORT) as flow:
            assert "client1" == flow.backend
            assert b"x" * 50_000 == flow.echo(b"x" * 50_000)
        world.load(listening(world, (PORT, PORT), "interface", protocol=Protocol.SCTP))
        with (
            sctp.SctpServers([client], ASKED) as servers,
            sctp.SctpFlow(balancer, target, source_port=PORT) as association,
        ):
            assert ["client1"] * 4 == [association.backend, *(association.beat() for _ in range(3))]
            assert 0 == servers.bad_checksums
