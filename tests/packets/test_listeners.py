"""Ranges of ports, several listeners per pool, several pools per address, translated and kept ports."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pool_lab import BACKEND_PORT, DSR, DSR_INGRESS, MODES, NAT, PORT, STATELESS, STATELESS_INGRESS, PoolLab, vip
from sctp_associations import SctpAssociation, SctpServers
from tcp_connections import TcpConnection, TcpServers

from nftlb.model import Balance, Listener, Protocol

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.model import Pool

VERSIONS = (4, 6)
RANGE = (16384, 16399)


def ports_kept(pool: Pool) -> Pool:
    """Return the pool with backends that get packets at the original port."""
    return replace(pool, backends=tuple(replace(backend, port=None) for backend in pool.backends))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_range_of_ports(mode: Mode) -> None:
    """Backends get each port of a range unchanged, and reply from it. Ports beside the range are not balanced."""
    with PoolLab(mode, serve=False) as pool_lab, pool_lab.lab.serve([RANGE[0], RANGE[1]]) as servers:
        listen = tuple(Listener(ip_address(vip(version)), *RANGE, Protocol.UDP) for version in VERSIONS)
        pool_lab.load(ports_kept(replace(pool_lab.pool(), listen=listen)))
        for version in VERSIONS:
            for port in RANGE:
                with pool_lab.lab.client.connect((vip(version), port), connected=False) as client:
                    answers = client.exchange(6)
                assert {"b1": 2, "b2": 2, "b3": 2} == {
                    name: [answer.backend for answer in answers].count(name) for name in ("b1", "b2", "b3")
                }
                assert {(vip(version), port)} == {answer.source for answer in answers}
            before = len(servers.received)
            for port in (RANGE[0] - 1, RANGE[1] + 1):
                with pool_lab.lab.client.connect((vip(version), port)) as client:
                    assert [""] == [answer.backend for answer in client.exchange(1, timeout=0.5)]
            assert before == len(servers.settle())


def test_a_range_to_one_port() -> None:
    """In `nat` a whole range may lead to one port of the backends; each reply comes from the port of its request."""
    with PoolLab(NAT) as pool_lab:
        listen = tuple(Listener(ip_address(vip(version)), *RANGE, Protocol.UDP) for version in VERSIONS)
        pool_lab.load(replace(pool_lab.pool(), listen=listen))
        for version in VERSIONS:
            for port in RANGE:
                with pool_lab.lab.client.connect((vip(version), port), connected=False) as client:
                    answers = client.exchange(6)
                assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers]
                assert {(vip(version), port)} == {answer.source for answer in answers}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_pools_that_share_an_address(mode: Mode) -> None:
    """Two pools at different ports of one address have separate backends and separate turns."""
    with PoolLab(mode, serve=False) as pool_lab, pool_lab.lab.serve([PORT, 123]):
        pool = ports_kept(pool_lab.pool())
        other = replace(
            pool,
            name="ntp",
            listen=tuple(replace(listener, first_port=123, last_port=123) for listener in pool.listen),
            backends=tuple(backend for backend in pool.backends if not backend.name.startswith("b1")),
        )
        pool_lab.load(pool, other)
        for version in VERSIONS:
            with (
                pool_lab.lab.client.connect((vip(version), PORT), connected=False) as dns,
                pool_lab.lab.client.connect((vip(version), 123), connected=False) as ntp,
            ):
                answers = [answer for _ in range(6) for answer in (*dns.exchange(1), *ntp.exchange(1))]
            assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers[::2]]
            assert ["b2", "b3"] * 3 == [answer.backend for answer in answers[1::2]]
            assert {(vip(version), PORT), (vip(version), 123)} == {answer.source for answer in answers}


def test_several_listeners_share_the_turns_of_a_pool() -> None:
    """All listeners of a pool, at any port, share the turns of the pool."""
    with PoolLab(NAT) as pool_lab:
        pool = pool_lab.pool()
        more = tuple(replace(listener, first_port=5300, last_port=5300) for listener in pool.listen)
        pool_lab.load(replace(pool, listen=(*pool.listen, *more)))
        for version in VERSIONS:
            with (
                pool_lab.lab.client.connect((vip(version), PORT), connected=False) as first,
                pool_lab.lab.client.connect((vip(version), 5300), connected=False) as second,
            ):
                answers = [answer for _ in range(3) for answer in (*first.exchange(1), *second.exchange(1))]
            assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers]
            assert [(vip(version), PORT), (vip(version), 5300)] * 3 == [answer.source for answer in answers]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("mode", [STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS], ids=str)
def test_tcp_without_state(mode: Mode, offload: bool, version: int) -> None:
    """TCP in `stateless` and `dsr` is balanced by the client's address, so a connection stays with its backend."""
    with (
        PoolLab(mode, serve=False, offload=offload) as pool_lab,
        TcpServers(pool_lab.lab.backends, mode.port) as servers,
    ):
        pool = pool_lab.pool()
        listen = tuple(replace(listener, protocol=Protocol.TCP) for listener in pool.listen)
        pool_lab.load(replace(pool, listen=listen, balance=Balance.HASH))
        payload = bytes(range(256)) * 200
        found = set()
        for _ in range(3):
            with TcpConnection(pool_lab.lab.client, (vip(version), PORT)) as flow:
                found.add(flow.backend)
                assert payload == flow.echo(payload)
        assert 1 == len(found)
        assert 3 == sum(servers.counts.values())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [STATELESS, DSR], ids=str)
def test_sctp_without_state(mode: Mode, version: int) -> None:
    """SCTP is also balanced by the client's address; the checksum is right after a change of the port."""
    with PoolLab(mode, serve=False) as pool_lab, SctpServers(pool_lab.lab.backends, mode.port) as servers:
        pool = pool_lab.pool()
        listen = tuple(replace(listener, protocol=Protocol.SCTP) for listener in pool.listen)
        pool_lab.load(replace(pool, listen=listen, balance=Balance.HASH))
        with SctpAssociation(pool_lab.lab.client, (vip(version), PORT), source_port=42000) as association:
            assert [association.backend] * 3 == [association.beat() for _ in range(3)]
        assert 0 == servers.bad_checksums


def test_ports_kept_and_translated_in_one_pool() -> None:
    """A backend without a port gets the packet's original port, another backend its own port."""
    with PoolLab(NAT, serve=False) as pool_lab, pool_lab.lab.serve([PORT, BACKEND_PORT]) as servers:
        pool = pool_lab.pool()
        kept = tuple(
            replace(backend, port=None) if backend.name.startswith("b2") else backend for backend in pool.backends
        )
        pool_lab.load(replace(pool, backends=kept))
        for version in VERSIONS:
            servers.clear()
            with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
                answers = client.exchange(3)
            assert ["b1", "b2", "b3"] == [answer.backend for answer in answers]
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            assert [BACKEND_PORT, PORT, BACKEND_PORT] == [datagram.destination[1] for datagram in servers.received]
