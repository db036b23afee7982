"""The packets of a pool without backends."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address

import pytest
from error_queue import ErrorQueueClient
from pool_lab import BACKEND_PORT, MODES, NAT, PORT, STATELESS, Mode, PoolLab, down, vip

from nftlb.model import Endpoint, Fallback, FallbackKind

VERSIONS = (4, 6)
NOBODY = down("b1", "b2", "b3")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_reject_sends_an_error_at_once(mode: Mode, version: int) -> None:
    """`reject`: an ICMP error refuses each datagram of a connected socket, and none waits for a time-out."""
    with PoolLab(mode) as pool_lab:
        pool_lab.load(pool_lab.pool(), membership=NOBODY)
        with pool_lab.lab.client.connect((vip(version), PORT)) as client:
            answers = client.exchange(3)
        assert [errno.ECONNREFUSED] * 3 == [answer.error.errno if answer.error else 0 for answer in answers]
        assert [] == pool_lab.servers.settle()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_drop_sends_no_error(mode: Mode) -> None:
    """`drop`: without a backend there is neither a reply nor an error."""
    with PoolLab(mode) as pool_lab:
        pool_lab.load(replace(pool_lab.pool(), fallback=Fallback(FallbackKind.DROP)), membership=NOBODY)
        for version in VERSIONS:
            with ErrorQueueClient(pool_lab.lab.client, (vip(version), PORT)) as client:
                client.send(5)
                assert [] == pool_lab.servers.settle()
                assert [] == client.icmp_errors()
                assert [] == client.errors


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_all_uses_every_backend(mode: Mode) -> None:
    """`all`: if all backends are down, all backends get their turns."""
    with PoolLab(mode) as pool_lab:
        pool_lab.load(replace(pool_lab.pool(), fallback=Fallback(FallbackKind.ALL)), membership=NOBODY)
        for version in VERSIONS:
            with pool_lab.lab.client.connect((vip(version), PORT)) as client:
                answers = client.exchange(9)
            assert ["b1", "b2", "b3"] * 3 == [answer.backend for answer in answers]


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_sorry_server_answers(mode: Mode) -> None:
    """A sorry server replies from the pool's address, but only while no backend is up."""
    with PoolLab(mode) as pool_lab:
        pool = pool_lab.pool()
        third = pool_lab.lab.backends[2]
        sorry = tuple(Endpoint(ip_address(address), BACKEND_PORT) for address in (third.ipv4, third.ipv6))
        two = tuple(backend for backend in pool.backends if not backend.name.startswith("b3"))
        pool = replace(pool, backends=two, fallback=Fallback(FallbackKind.SORRY, sorry))
        for version in VERSIONS:
            with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
                pool_lab.load(pool)
                assert ["b1", "b2"] * 2 == [answer.backend for answer in client.exchange(4)]
                pool_lab.load(pool, membership=down("b1", "b2"))
                answers = client.exchange(4)
                assert ["b3"] * 4 == [answer.backend for answer in answers]
                assert {(vip(version), PORT)} == {answer.source for answer in answers}
                pool_lab.load(pool, membership=down("b1"))
                assert ["b2"] * 4 == [answer.backend for answer in client.exchange(4)]


def test_panic_uses_all_below_the_threshold() -> None:
    """`panic: 50%`: with one of three backends healthy, dead backends are used too; with two, they are not."""
    with PoolLab(NAT) as pool_lab:
        pool = replace(pool_lab.pool(), panic=50)
        with pool_lab.lab.client.connect((vip(4), PORT)) as client:
            pool_lab.load(pool, membership=down("b1", "b2"))
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
            pool_lab.load(pool, membership=down("b1"))
            assert ["b2", "b3", "b2"] == [answer.backend for answer in client.exchange(3)]
