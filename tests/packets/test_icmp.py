"""ICMP errors: in `nat` they reach the right host; in `stateless` and `dsr` they behave as documented."""

from __future__ import annotations

import errno
import socket

import pytest
from error_queue import ErrorQueueClient
from packet_tap import Tap
from pool_lab import BACKEND_PORT, DSR, DSR_INGRESS, NAT, PORT, STATELESS, STATELESS_INGRESS, Mode, PoolLab, vip
from servers.processes import await_that

VERSIONS = (4, 6)
NARROW = 1300
HEADERS = {4: 28, 6: 48}  # bytes of IP and UDP
DSRS = [DSR, DSR_INGRESS]
STATELESSES = [STATELESS, STATELESS_INGRESS]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, *DSRS], ids=str)
def test_port_unreachable_reaches_the_client(mode: Mode, version: int) -> None:
    """After a backend process dies, the client's connected socket gets the error at once, as if from the VIP."""
    with (
        PoolLab(mode, serve=False) as pool_lab,
        ErrorQueueClient(pool_lab.lab.client, (vip(version), PORT)) as client,
    ):
        answers = client.exchange(3)
        errors = client.icmp_errors()
    assert [errno.ECONNREFUSED] * 3 == [answer.error.errno if answer.error else 0 for answer in answers]
    assert {vip(version)} == {error.offender for error in errors}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", STATELESSES, ids=str)
def test_stateless_keeps_port_unreachable_from_the_client(mode: Mode, version: int) -> None:
    """In `stateless` the error quotes the rewritten datagram, so the client's socket gets no error."""
    with (
        PoolLab(mode, serve=False) as pool_lab,
        pool_lab.lab.client.connect((vip(version), PORT)) as client,
        Tap(pool_lab.lab.client) as tap,
    ):
        answers = client.exchange(3, timeout=0.2)
        arrived = tap.packets()
    assert [None] * 3 == [answer.error for answer in answers]
    assert arrived  # the errors did reach the client's host


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_path_mtu_of_requests(version: int, offload: bool) -> None:
    """`nat`: a client that forbids fragments learns the smaller MTU to a backend; then its datagrams fit."""
    with (
        PoolLab(NAT, mtu={"b1": NARROW, "b2": NARROW, "b3": NARROW}, offload=offload) as pool_lab,
        ErrorQueueClient(pool_lab.lab.client, (vip(version), PORT), connected=False, dont_fragment=True) as client,
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
    """With a smaller MTU to the client, each backend loses at most one reply; then it knows the MTU."""
    with (
        PoolLab(mode, mtu={"client1": NARROW}) as pool_lab,
        pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client,
    ):
        client.exchange(3, size=200, reply_size=1400, timeout=0.2)
        pool_lab.servers.settle()  # all three have replied, also if they were slower than the time-out
        answers = client.exchange(9, size=200, reply_size=1400)
    assert [1] * 9 == [answer.copies for answer in answers]
    assert all(answer.whole and answer.size == 1400 for answer in answers)
    assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", STATELESSES, ids=str)
def test_stateless_smaller_mtu_to_backends(mode: Mode, version: int) -> None:
    """In `stateless`, clients do not discover a smaller MTU to backends: the error quotes an unknown address.

    Datagrams of a connected socket that forbids fragments are lost without an error. Other clients are served.
    """
    narrow = {"b1": NARROW, "b2": NARROW, "b3": NARROW}
    with (
        PoolLab(mode, mtu=narrow) as pool_lab,
        ErrorQueueClient(pool_lab.lab.client, (vip(version), PORT), dont_fragment=True) as strict,
        pool_lab.lab.client.connect((vip(version), PORT), connected=False) as lenient,
    ):
        answers = strict.exchange(3, size=1400, timeout=0.2)
        assert [(0, None)] * 3 == [(answer.copies, answer.error) for answer in answers]
        assert [True] * 3 == [answer.whole for answer in lenient.exchange(3, size=1200)]


@pytest.mark.parametrize("version", VERSIONS)
def test_client_that_has_closed_its_socket(version: int) -> None:
    """`nat`: the error of a closed client socket ends at the balancer, and does not reach the late backend.

    The error quotes only the service and the client, and the zone of each backend has an entry for this exchange.
    """
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    icmp = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}[version]
    with PoolLab(NAT, backends=1, weights=(1,), serve=False) as pool_lab:
        client_host, backend_host = pool_lab.lab.client, pool_lab.lab.backends[0]
        with backend_host.call(socket.socket, family, socket.SOCK_DGRAM) as backend:
            backend.settimeout(20)
            backend.bind(("", BACKEND_PORT))
            with client_host.call(socket.socket, family, socket.SOCK_DGRAM) as client:
                client.sendto(b"?", (vip(version), PORT))
                _, peer = backend.recvfrom(100)
            with Tap(client_host) as at_client, Tap(backend_host) as at_backend:
                backend.sendto(b"late", peer)
                await_that(lambda: icmp in [one.protocol for one in at_client.packets() if one.outgoing], "the error")
                # On one machine, the error has been handled now.
                assert icmp not in [packet.protocol for packet in at_backend.packets() if not packet.outgoing]
