"""ICMP errors: in `nat` they reach the right end; what `stateless` and `dsr` do with them is what the documents say."""

from __future__ import annotations

import errno
import socket

import pytest
from packets.world import BACKEND_PORT, DSR, DSR_INGRESS, NAT, PORT, STATELESS, STATELESS_INGRESS, Mode, World, vip

VERSIONS = (4, 6)
NARROW = 1300
HEADERS = {4: 28, 6: 48}  # bytes of IP and UDP
DSRS = [DSR, DSR_INGRESS]
STATELESSES = [STATELESS, STATELESS_INGRESS]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, *DSRS], ids=str)
def test_port_unreachable_reaches_the_client(mode: Mode, version: int) -> None:
    """A dead backend process: the client's connected socket is told at once, as if by the VIP."""
    with (
        World(mode, serve=False) as world,
        world.lab.client.connect((vip(version), PORT), error_queue=True) as client,
    ):
        answers = client.exchange(3)
        errors = client.icmp_errors()
    assert [errno.ECONNREFUSED] * 3 == [answer.error.errno if answer.error else 0 for answer in answers]
    assert {vip(version)} == {error.offender for error in errors}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", STATELESSES, ids=str)
def test_stateless_keeps_port_unreachable_from_the_client(mode: Mode, version: int) -> None:
    """In `stateless` the error quotes the rewritten datagram, which the client's socket never sent: it isn't told."""
    with (
        World(mode, serve=False) as world,
        world.lab.client.connect((vip(version), PORT)) as client,
        world.lab.client.tap() as tap,
    ):
        answers = client.exchange(3, timeout=0.2)
        arrived = tap.packets()
    assert [None] * 3 == [answer.error for answer in answers]
    assert arrived  # what came was not nothing: the errors did pass


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_path_mtu_of_requests(version: int, offload: bool) -> None:
    """`nat`: a client that forbids fragments is told of a narrow way to a backend, and then fits."""
    with (
        World(NAT, mtu={"b1": NARROW, "b2": NARROW, "b3": NARROW}, offload=offload) as world,
        world.lab.client.connect((vip(version), PORT), connected=False, dont_fragment=True, error_queue=True) as client,
    ):
        first = client.exchange(1, size=1400)
        assert [errno.EMSGSIZE] == [answer.error.errno if answer.error else 0 for answer in first]
        assert {NARROW} == {error.mtu for error in client.icmp_errors()}
        answers = client.exchange(6, size=NARROW - HEADERS[version])
    assert all(answer.whole for answer in answers)
    assert {vip(version)} == {answer.source[0] for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS, STATELESS_INGRESS], ids=str)
def test_path_mtu_of_replies(mode: Mode, version: int) -> None:
    """A narrow way to the client: each backend loses one reply at most, learns, and then fits."""
    with (
        World(mode, mtu={"client1": NARROW}) as world,
        world.lab.client.connect((vip(version), PORT), connected=False) as client,
    ):
        client.exchange(3, size=200, reply_size=1400, timeout=0.2)
        answers = client.exchange(9, size=200, reply_size=1400)
    assert [1] * 9 == [answer.copies for answer in answers]
    assert all(answer.whole and answer.size == 1400 for answer in answers)
    assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", STATELESSES, ids=str)
def test_stateless_narrow_way_to_backends(mode: Mode, version: int) -> None:
    """In `stateless` a narrow way to the backends is not found out: the error quotes an address never sent to.

    A connected socket that forbids fragments gets nothing through and isn't told why; others are served.
    """
    narrow = {"b1": NARROW, "b2": NARROW, "b3": NARROW}
    with (
        World(mode, mtu=narrow) as world,
        world.lab.client.connect((vip(version), PORT), dont_fragment=True, error_queue=True) as strict,
        world.lab.client.connect((vip(version), PORT), connected=False) as lenient,
    ):
        answers = strict.exchange(3, size=1400, timeout=0.2)
        assert [(0, None)] * 3 == [(answer.copies, answer.error) for answer in answers]
        assert [True] * 3 == [answer.whole for answer in lenient.exchange(3, size=1200)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_has_gone(version: int) -> None:
    """`nat`: that a client has closed its socket is told to the balancer; the backend that answered late isn't told.

    The error quotes the service and the client alone, and every backend's zone knows such an exchange.
    """
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    icmp = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}[version]
    with World(NAT, backends=1, weights=(1,), serve=False) as world:
        client_host, backend_host = world.lab.client, world.lab.backends[0]
        with backend_host.call(socket.socket, family, socket.SOCK_DGRAM) as backend:
            backend.settimeout(2)
            backend.bind(("", BACKEND_PORT))
            with client_host.call(socket.socket, family, socket.SOCK_DGRAM) as client:
                client.sendto(b"?", (vip(version), PORT))
                _, peer = backend.recvfrom(100)
            with client_host.tap() as at_client, backend_host.tap() as at_backend:
                backend.sendto(b"late", peer)
                # On one machine the reply, the error and what becomes of it are all done when sendto() returns.
                assert icmp in [packet.protocol for packet in at_client.packets() if packet.outgoing]
                assert icmp not in [packet.protocol for packet in at_backend.packets() if not packet.outgoing]
