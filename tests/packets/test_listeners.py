"""Ranges of ports, several listeners a pool, several pools an address, ports translated and kept."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from packets.world import BACKEND_PORT, DSR, DSR_INGRESS, MODES, NAT, PORT, STATELESS, STATELESS_INGRESS, World, vip

from nftlb.model import Balance, Listener, Protocol

if TYPE_CHECKING:
    from packets.world import Mode

    from nftlb.model import Pool

VERSIONS = (4, 6)
RANGE = (16384, 16399)


def ports_kept(pool: Pool) -> Pool:
    """The pool with backends that get packets at the port they were sent to."""
    return replace(pool, backends=tuple(replace(one, port=None) for one in pool.backends))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_range_of_ports(mode: Mode) -> None:
    """Each port of a range is the pool's, reaches backends as it is and answers as itself; those beside it are not."""
    with World(mode, serve=False) as world, world.lab.serve([RANGE[0], RANGE[1]]) as servers:
        listen = tuple(Listener(ip_address(vip(version)), *RANGE, Protocol.UDP) for version in VERSIONS)
        world.load(ports_kept(replace(world.pool(), listen=listen)))
        for version in VERSIONS:
            for port in RANGE:
                with world.lab.client.connect((vip(version), port), connected=False) as client:
                    answers = client.exchange(6)
                assert {"b1": 2, "b2": 2, "b3": 2} == {
                    name: [answer.backend for answer in answers].count(name) for name in ("b1", "b2", "b3")
                }
                assert {(vip(version), port)} == {answer.source for answer in answers}
            before = len(servers.received)
            for port in (RANGE[0] - 1, RANGE[1] + 1):
                with world.lab.client.connect((vip(version), port)) as client:
                    assert [""] == [answer.backend for answer in client.exchange(1, timeout=0.5)]
            assert before == len(servers.settle())


def test_a_range_to_one_port() -> None:
    """In `nat` a whole range may lead to one port of the backends; each reply comes from the port that was asked."""
    with World(NAT) as world:
        listen = tuple(Listener(ip_address(vip(version)), *RANGE, Protocol.UDP) for version in VERSIONS)
        world.load(replace(world.pool(), listen=listen))
        for version in VERSIONS:
            for port in RANGE:
                with world.lab.client.connect((vip(version), port), connected=False) as client:
                    answers = client.exchange(6)
                assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers]
                assert {(vip(version), port)} == {answer.source for answer in answers}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_pools_that_share_an_address(mode: Mode) -> None:
    """Two pools on one address, told apart by their ports, have their own backends and their own wheels."""
    with World(mode, serve=False) as world, world.lab.serve([PORT, 123]):
        one = ports_kept(world.pool())
        other = replace(
            one,
            name="ntp",
            listen=tuple(replace(listener, first_port=123, last_port=123) for listener in one.listen),
            backends=tuple(backend for backend in one.backends if not backend.name.startswith("b1")),
        )
        world.load(one, other)
        for version in VERSIONS:
            with (
                world.lab.client.connect((vip(version), PORT), connected=False) as dns,
                world.lab.client.connect((vip(version), 123), connected=False) as ntp,
            ):
                answers = [answer for _ in range(6) for answer in (*dns.exchange(1), *ntp.exchange(1))]
            assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers[::2]]
            assert ["b2", "b3"] * 3 == [answer.backend for answer in answers[1::2]]
            assert {(vip(version), PORT), (vip(version), 123)} == {answer.source for answer in answers}


def test_several_listeners_share_a_wheel() -> None:
    """A pool's listeners, of whatever port, take turns on the pool's one wheel."""
    with World(NAT) as world:
        pool = world.pool()
        more = tuple(replace(one, first_port=5300, last_port=5300) for one in pool.listen)
        world.load(replace(pool, listen=(*pool.listen, *more)))
        for version in VERSIONS:
            with (
                world.lab.client.connect((vip(version), PORT), connected=False) as first,
                world.lab.client.connect((vip(version), 5300), connected=False) as second,
            ):
                answers = [answer for _ in range(3) for answer in (*first.exchange(1), *second.exchange(1))]
            assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers]
            assert [(vip(version), PORT), (vip(version), 5300)] * 3 == [answer.source for answer in answers]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("mode", [STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS], ids=str)
def test_tcp_without_state(mode: Mode, offload: bool, version: int) -> None:
    """TCP in `stateless` and `dsr` goes by the client's address, so that a connection stays with its backend."""
    with World(mode, serve=False, offload=offload) as world, world.lab.serve_tcp(mode.port) as servers:
        pool = world.pool()
        listen = tuple(replace(one, protocol=Protocol.TCP) for one in pool.listen)
        world.load(replace(pool, listen=listen, balance=Balance.HASH))
        payload = bytes(range(256)) * 200
        found = set()
        for _ in range(3):
            with world.lab.client.dial((vip(version), PORT)) as flow:
                found.add(flow.backend)
                assert payload == flow.echo(payload)
        assert 1 == len(found)
        assert 3 == sum(servers.counts.values())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [STATELESS, DSR], ids=str)
def test_sctp_without_state(mode: Mode, version: int) -> None:
    """SCTP too; where the port is rewritten, its checksum is right."""
    with World(mode, serve=False) as world, world.lab.serve_sctp(mode.port) as servers:
        pool = world.pool()
        listen = tuple(replace(one, protocol=Protocol.SCTP) for one in pool.listen)
        world.load(replace(pool, listen=listen, balance=Balance.HASH))
        with world.lab.client.associate((vip(version), PORT), source_port=42000) as association:
            assert [association.backend] * 3 == [association.beat() for _ in range(3)]
        assert 0 == servers.bad_checksums


def test_ports_kept_and_translated_in_one_pool() -> None:
    """A backend without a port gets the packet's own, its neighbour another."""
    with World(NAT, serve=False) as world, world.lab.serve([PORT, BACKEND_PORT]) as servers:
        pool = world.pool()
        kept = tuple(replace(one, port=None) if one.name.startswith("b2") else one for one in pool.backends)
        world.load(replace(pool, backends=kept))
        for version in VERSIONS:
            servers.clear()
            with world.lab.client.connect((vip(version), PORT), connected=False) as client:
                answers = client.exchange(3)
            assert ["b1", "b2", "b3"] == [answer.backend for answer in answers]
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            assert [BACKEND_PORT, PORT, BACKEND_PORT] == [one.destination[1] for one in servers.received]
