"""`per: flow`, TCP and SCTP: a connection stays with its backend; a removed backend's connections end at once."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from packets.world import BACKEND_PORT, NAT, PORT, World, down, vip

from nftlb.lab import VIP4, sctp
from nftlb.model import Admin, Balance, Listener, Per, Pool, Protocol

VERSIONS = (4, 6)
BOTH = [True, False]
OFFLOADS = ["offload", "no-offload"]


def over(pool: Pool, protocol: Protocol) -> Pool:
    """The pool with its listeners for another protocol."""
    return replace(pool, listen=tuple(replace(one, protocol=protocol) for one in pool.listen))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", BOTH, ids=OFFLOADS)
def test_tcp_connections_take_turns_and_stay(version: int, offload: bool) -> None:
    """Each TCP connection goes to the next backend, and stays there while others come and backends go."""
    with World(NAT, offload=offload) as world, world.lab.serve_tcp(BACKEND_PORT) as servers:
        pool = over(world.pool(), Protocol.TCP)
        world.load(pool)
        flows = [world.lab.client.dial((vip(version), PORT)) for _ in range(6)]
        assert ["b1", "b2", "b3"] * 2 == [flow.backend for flow in flows]
        world.update(down("b3"))
        payload = bytes(range(256)) * 400
        staying = [flow for flow in flows if flow.backend != "b3"]
        assert [payload] * 4 == [flow.echo(payload) for flow in staying]
        assert {"b1": 2, "b2": 2, "b3": 2} == servers.counts
        for flow in flows:
            flow.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_removed_backend_is_cut_at_once(version: int) -> None:
    """When a backend is removed its TCP connections are reset at their next packet, and new ones go elsewhere."""
    with World(NAT) as world, world.lab.serve_tcp(BACKEND_PORT):
        world.load(over(world.pool(), Protocol.TCP))
        flows = [world.lab.client.dial((vip(version), PORT)) for _ in range(3)]
        world.update(down("b2"))
        with pytest.raises(ConnectionResetError):
            flows[1].echo(b"still there?")
        again = [world.lab.client.dial((vip(version), PORT)) for _ in range(4)]
        assert {"b1", "b3"} == {flow.backend for flow in again}
        for flow in (*flows, *again):
            flow.close()


def test_drained_backend_keeps_its_connections() -> None:
    """`admin: drain` lets connections go on, and gives the backend no new ones; `maintenance` ends them."""
    with World(NAT) as world, world.lab.serve_tcp(BACKEND_PORT):
        pool = over(world.pool(), Protocol.TCP)
        world.load(pool)
        flows = [world.lab.client.dial((VIP4, PORT)) for _ in range(3)]

        def b1(admin: Admin) -> Pool:
            return replace(
                pool, backends=tuple(replace(one, admin=admin) if one.name == "b1" else one for one in pool.backends)
            )

        world.load(b1(Admin.DRAIN))
        assert b"hello" == flows[0].echo(b"hello")
        again = [world.lab.client.dial((VIP4, PORT)) for _ in range(4)]
        assert {"b2", "b3"} == {flow.backend for flow in again}
        world.load(b1(Admin.MAINTENANCE))
        with pytest.raises(ConnectionResetError):
            flows[0].echo(b"hello")
        for flow in (*flows, *again):
            flow.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_udp_per_flow(version: int) -> None:
    """`per: flow`: a socket's datagrams all go to one backend; when it is removed, at once to another."""
    with World(NAT) as world:
        world.load(replace(world.pool(), per=Per.FLOW))
        with (
            world.lab.client.connect((vip(version), PORT), connected=False) as first,
            world.lab.client.connect((vip(version), PORT), connected=False) as second,
        ):
            assert ["b1"] * 5 == [answer.backend for answer in first.exchange(5)]
            assert ["b2"] * 5 == [answer.backend for answer in second.exchange(5)]
            world.update(down("b1"))
            answers = first.exchange(5)
            moved = {answer.backend for answer in answers}
            assert len(moved) == 1
            assert moved <= {"b2", "b3"}
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            assert ["b2"] * 5 == [answer.backend for answer in second.exchange(5)]


def test_hash_of_the_client() -> None:
    """`balance: hash`: all sockets of a client reach one backend, whatever their port, again after it was away."""
    with World(NAT) as world:
        world.load(replace(world.pool(), balance=Balance.HASH))

        def ask() -> set[str]:
            found = set()
            for _ in range(5):
                with world.lab.client.connect((VIP4, PORT)) as client:
                    found |= {answer.backend for answer in client.exchange(3)}
            return found

        before = ask()
        assert len(before) == 1
        world.update(down(*before))
        between = ask()
        assert len(between) == 1
        assert before != between
        world.update(down())
        assert before == ask()


def test_flow_without_backends() -> None:
    """A TCP connection to a pool without backends is refused at once by a reset."""
    with World(NAT) as world:
        world.load(over(world.pool(), Protocol.TCP), membership=down("b1", "b2", "b3"))
        for version in VERSIONS:
            with pytest.raises(ConnectionRefusedError):
                world.lab.client.dial((vip(version), PORT))


def test_udp_and_tcp_in_one_pool() -> None:
    """One pool may mix them: UDP goes packet by packet, TCP by connection, each with a wheel of its own."""
    with World(NAT) as world, world.lab.serve_tcp(BACKEND_PORT):
        pool = world.pool()
        tcp = Listener(ip_address(VIP4), PORT, PORT, Protocol.TCP)
        world.load(replace(pool, listen=(*pool.listen, tcp)))
        with world.lab.client.connect((VIP4, PORT)) as client, world.lab.client.dial((VIP4, PORT)) as flow:
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
            assert "b1" == flow.backend
            assert b"x" * 50_000 == flow.echo(b"x" * 50_000)
            with world.lab.client.dial((VIP4, PORT)) as second:
                assert "b2" == second.backend
        counts = world.lab.balancer.call(world.kernel.counters, "nftlb")
        assert 1 == counts["dns/b3"].packets
        assert counts["dns/b1"].packets > 30  # fifty kilobytes do not fit into fewer


@pytest.mark.parametrize("version", VERSIONS)
def test_sctp_associations(version: int) -> None:
    """SCTP associations take turns and stay with their backend; every checksum is right."""
    with World(NAT) as world, sctp.SctpServers(world.lab.backends, BACKEND_PORT) as servers:
        world.load(over(world.pool(), Protocol.SCTP))
        found = []
        for number in range(3):
            with sctp.SctpFlow(world.lab.client, (vip(version), PORT), source_port=42000 + number) as association:
                found.append(association.backend)
                assert [association.backend] * 3 == [association.beat() for _ in range(3)]
        assert ["b1", "b2", "b3"] == found
        assert 0 == servers.bad_checksums
