"""What becomes of packets when no backend is left."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address

import pytest
from packets.world import BACKEND_PORT, MODES, NAT, PORT, STATELESS, Mode, World, down, vip

from nftlb.model import Endpoint, Fallback, FallbackKind

VERSIONS = (4, 6)
NOBODY = down("b1", "b2", "b3")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_reject_tells_the_client_at_once(mode: Mode, version: int) -> None:
    """`reject`: a connected socket's every datagram is refused by an ICMP error, none waits for a time-out."""
    with World(mode) as world:
        world.load(world.pool(), membership=NOBODY)
        with world.lab.client.connect((vip(version), PORT)) as client:
            answers = client.exchange(3)
        assert [errno.ECONNREFUSED] * 3 == [answer.error.errno if answer.error else 0 for answer in answers]
        assert [] == world.servers.settle()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_drop_is_silent(mode: Mode) -> None:
    """`drop`: no backend, no error, nothing."""
    with World(mode) as world:
        world.load(replace(world.pool(), fallback=Fallback(FallbackKind.DROP)), membership=NOBODY)
        for version in VERSIONS:
            with world.lab.client.connect((vip(version), PORT), error_queue=True) as client:
                client.send(5)
                assert [] == world.servers.settle()
                assert [] == client.icmp_errors()
                assert [] == client.errors


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_all_uses_every_backend(mode: Mode) -> None:
    """`all`: when every backend is said to be dead, all get their turn."""
    with World(mode) as world:
        world.load(replace(world.pool(), fallback=Fallback(FallbackKind.ALL)), membership=NOBODY)
        for version in VERSIONS:
            with world.lab.client.connect((vip(version), PORT)) as client:
                answers = client.exchange(9)
            assert ["b1", "b2", "b3"] * 3 == [answer.backend for answer in answers]


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_sorry_server_answers(mode: Mode) -> None:
    """A sorry server answers for the pool, from the pool's address, and only while no backend is left."""
    with World(mode) as world:
        pool = world.pool()
        third = world.lab.backends[2]
        sorry = tuple(Endpoint(ip_address(address), BACKEND_PORT) for address in (third.ipv4, third.ipv6))
        two = tuple(backend for backend in pool.backends if not backend.name.startswith("b3"))
        pool = replace(pool, backends=two, fallback=Fallback(FallbackKind.SORRY, sorry))
        for version in VERSIONS:
            with world.lab.client.connect((vip(version), PORT), connected=False) as client:
                world.load(pool)
                assert ["b1", "b2"] * 2 == [answer.backend for answer in client.exchange(4)]
                world.load(pool, membership=down("b1", "b2"))
                answers = client.exchange(4)
                assert ["b3"] * 4 == [answer.backend for answer in answers]
                assert {(vip(version), PORT)} == {answer.source for answer in answers}
                world.load(pool, membership=down("b1"))
                assert ["b2"] * 4 == [answer.backend for answer in client.exchange(4)]


def test_panic_uses_all_below_the_threshold() -> None:
    """`panic: 50%`: with one of three healthy, the dead are used too; with two, they are not."""
    with World(NAT) as world:
        pool = replace(world.pool(), panic=50)
        with world.lab.client.connect((vip(4), PORT)) as client:
            world.load(pool, membership=down("b1", "b2"))
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
            world.load(pool, membership=down("b1"))
            assert ["b2", "b3", "b2"] == [answer.backend for answer in client.exchange(3)]
