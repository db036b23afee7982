"""Every client is balanced and gets replies: on the balancer, on a backend, with an equal port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pool_lab import MODES, NAT, PORT, PoolLab, vip

if TYPE_CHECKING:
    from pool_lab import Mode

VERSIONS = (4, 6)
EACH = {"b1": 3, "b2": 3, "b3": 3}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_client_on_the_balancer(version: int, offload: bool) -> None:
    """A socket on the balancer is also balanced packet by packet, with replies from the VIP."""
    with PoolLab(NAT, offload=offload) as pool_lab:
        with pool_lab.lab.balancer.connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(9)
        assert ["b1", "b2", "b3"] * 3 == [answer.backend for answer in answers]
        assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_backend_that_is_its_own_client(version: int, offload: bool) -> None:
    """A backend that is a client of its own service gets its turn too, and replies from the VIP only."""
    with PoolLab(NAT, offload=offload) as pool_lab:
        with pool_lab.lab.backends[0].connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(9)
        assert ["b1", "b2", "b3"] * 3 == [answer.backend for answer in answers]
        assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_two_clients_with_one_source_port(mode: Mode, connected: bool) -> None:
    """Two hosts with the same source port each get all their replies."""
    with PoolLab(mode, clients=2) as pool_lab:
        client, other = pool_lab.lab.clients
        for version in VERSIONS:
            pool_lab.servers.clear()
            with (
                client.connect((vip(version), PORT), source_port=40000, connected=connected) as first,
                other.connect((vip(version), PORT), source_port=40000, connected=connected) as second,
            ):
                answers = [answer for _ in range(3) for answer in (*first.exchange(3), *second.exchange(3))]
            assert ["b1", "b2", "b3"] * 6 == [answer.backend for answer in answers]
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            assert {1} == {answer.copies for answer in answers}
            assert {"client1": 9, "client2": 9} == pool_lab.senders()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_source_address_that_backends_see(mode: Mode) -> None:
    """`nat` shows backends the balancer's address; `stateless` and `dsr` the client's own."""
    with PoolLab(mode) as pool_lab:
        with pool_lab.lab.client.connect((vip(4), PORT)) as client:
            client.exchange(3)
            own = client.source
        seen = [datagram.source[0] for datagram in pool_lab.servers.received]
    expected = [f"10.0.{number}.1" for number in (1, 2, 3)] if mode is NAT else [own[0]] * 3
    assert expected == seen
