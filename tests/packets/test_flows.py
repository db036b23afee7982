"""`per: flow`, TCP and SCTP: a connection stays with its backend; a removed backend's connections end at once."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from pool_lab import BACKEND_PORT, NAT, PORT, PoolLab, down, vip
from sctp_associations import SctpAssociation, SctpServers
from tcp_connections import TcpConnection, TcpServers

from nftlb.lab import VIP4
from nftlb.model import Admin, Balance, Listener, Per, Pool, Protocol

VERSIONS = (4, 6)
BOTH = [True, False]
OFFLOADS = ["offload", "no-offload"]


def over(pool: Pool, protocol: Protocol) -> Pool:
    """The pool with its listeners for another protocol."""
    return replace(pool, listen=tuple(replace(listener, protocol=protocol) for listener in pool.listen))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", BOTH, ids=OFFLOADS)
def test_tcp_connections_take_turns_and_stay(version: int, offload: bool) -> None:
    """Each TCP connection goes to the next backend, and stays there while others begin and backends leave."""
    with PoolLab(NAT, offload=offload) as pool_lab, TcpServers(pool_lab.lab.backends, BACKEND_PORT) as servers:
        pool = over(pool_lab.pool(), Protocol.TCP)
        pool_lab.load(pool)
        flows = [TcpConnection(pool_lab.lab.client, (vip(version), PORT)) for _ in range(6)]
        assert ["b1", "b2", "b3"] * 2 == [flow.backend for flow in flows]
        pool_lab.update(down("b3"))
        payload = bytes(range(256)) * 400
        staying = [flow for flow in flows if flow.backend != "b3"]
        assert [payload] * 4 == [flow.echo(payload) for flow in staying]
        assert {"b1": 2, "b2": 2, "b3": 2} == servers.counts
        for flow in flows:
            flow.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_of_a_removed_backend_end_at_once(version: int) -> None:
    """When a backend is removed, its connections are reset at their next packet; new connections go elsewhere."""
    with PoolLab(NAT) as pool_lab, TcpServers(pool_lab.lab.backends, BACKEND_PORT):
        pool_lab.load(over(pool_lab.pool(), Protocol.TCP))
        flows = [TcpConnection(pool_lab.lab.client, (vip(version), PORT)) for _ in range(3)]
        pool_lab.update(down("b2"))
        with pytest.raises(ConnectionResetError):
            flows[1].echo(b"still there?")
        again = [TcpConnection(pool_lab.lab.client, (vip(version), PORT)) for _ in range(4)]
        assert {"b1", "b3"} == {flow.backend for flow in again}
        for flow in (*flows, *again):
            flow.close()


def test_drained_backend_keeps_its_connections() -> None:
    """`admin: drain` lets connections continue, and gives the backend no new connections; `maintenance` ends them."""
    with PoolLab(NAT) as pool_lab, TcpServers(pool_lab.lab.backends, BACKEND_PORT):
        pool = over(pool_lab.pool(), Protocol.TCP)
        pool_lab.load(pool)
        flows = [TcpConnection(pool_lab.lab.client, (VIP4, PORT)) for _ in range(3)]

        def b1(admin: Admin) -> Pool:
            return replace(
                pool,
                backends=tuple(
                    replace(backend, admin=admin) if backend.name == "b1" else backend for backend in pool.backends
                ),
            )

        pool_lab.load(b1(Admin.DRAIN))
        assert b"hello" == flows[0].echo(b"hello")
        again = [TcpConnection(pool_lab.lab.client, (VIP4, PORT)) for _ in range(4)]
        assert {"b2", "b3"} == {flow.backend for flow in again}
        pool_lab.load(b1(Admin.MAINTENANCE))
        with pytest.raises(ConnectionResetError):
            flows[0].echo(b"hello")
        for flow in (*flows, *again):
            flow.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_udp_per_flow(version: int) -> None:
    """`per: flow`: all datagrams of a socket go to one backend and, after its removal, at once to another."""
    with PoolLab(NAT) as pool_lab:
        pool_lab.load(replace(pool_lab.pool(), per=Per.FLOW))
        with (
            pool_lab.lab.client.connect((vip(version), PORT), connected=False) as first,
            pool_lab.lab.client.connect((vip(version), PORT), connected=False) as second,
        ):
            assert ["b1"] * 5 == [answer.backend for answer in first.exchange(5)]
            assert ["b2"] * 5 == [answer.backend for answer in second.exchange(5)]
            pool_lab.update(down("b1"))
            answers = first.exchange(5)
            moved = {answer.backend for answer in answers}
            assert len(moved) == 1
            assert moved <= {"b2", "b3"}
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            assert ["b2"] * 5 == [answer.backend for answer in second.exchange(5)]


def test_hash_of_the_client() -> None:
    """`balance: hash`: all sockets of a client reach the same backend, also after its removal and return."""
    with PoolLab(NAT) as pool_lab:
        pool_lab.load(replace(pool_lab.pool(), balance=Balance.HASH))

        def ask() -> set[str]:
            found = set()
            for _ in range(5):
                with pool_lab.lab.client.connect((VIP4, PORT)) as client:
                    found |= {answer.backend for answer in client.exchange(3)}
            return found

        before = ask()
        assert len(before) == 1
        pool_lab.update(down(*before))
        between = ask()
        assert len(between) == 1
        assert before != between
        pool_lab.update(down())
        assert before == ask()


def test_flow_without_backends() -> None:
    """A reset refuses a TCP connection to a pool without backends at once."""
    with PoolLab(NAT) as pool_lab:
        pool_lab.load(over(pool_lab.pool(), Protocol.TCP), membership=down("b1", "b2", "b3"))
        for version in VERSIONS:
            with pytest.raises(ConnectionRefusedError):
                TcpConnection(pool_lab.lab.client, (vip(version), PORT))


def test_udp_and_tcp_in_one_pool() -> None:
    """A pool may have both protocols: UDP is balanced by packet, TCP by connection, each with its own turns."""
    with PoolLab(NAT) as pool_lab, TcpServers(pool_lab.lab.backends, BACKEND_PORT):
        pool = pool_lab.pool()
        tcp = Listener(ip_address(VIP4), PORT, PORT, Protocol.TCP)
        pool_lab.load(replace(pool, listen=(*pool.listen, tcp)))
        with (
            pool_lab.lab.client.connect((VIP4, PORT)) as client,
            TcpConnection(pool_lab.lab.client, (VIP4, PORT)) as flow,
        ):
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
            assert "b1" == flow.backend
            assert b"x" * 50_000 == flow.echo(b"x" * 50_000)
            with TcpConnection(pool_lab.lab.client, (VIP4, PORT)) as second:
                assert "b2" == second.backend
        counts = pool_lab.lab.balancer.call(pool_lab.kernel.counters, "nftlb")
        assert 1 == counts["dns/b3"].packets
        assert counts["dns/b1"].packets > 30  # fifty kilobytes do not fit into fewer packets


@pytest.mark.parametrize("version", VERSIONS)
def test_sctp_associations(version: int) -> None:
    """SCTP associations go to the backends in turn and stay there; every checksum is right."""
    with PoolLab(NAT) as pool_lab, SctpServers(pool_lab.lab.backends, BACKEND_PORT) as servers:
        pool_lab.load(over(pool_lab.pool(), Protocol.SCTP))
        found = []
        for number in range(3):
            with SctpAssociation(pool_lab.lab.client, (vip(version), PORT), source_port=42000 + number) as association:
                found.append(association.backend)
                assert [association.backend] * 3 == [association.beat() for _ in range(3)]
        assert ["b1", "b2", "b3"] == found
        assert 0 == servers.bad_checksums
