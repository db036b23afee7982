"""Whoever asks, from wherever, with whichever socket, is balanced and answered alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from packets.world import MODES, NAT, PORT, World, vip

if TYPE_CHECKING:
    from packets.world import Mode

VERSIONS = (4, 6)
EACH = {"b1": 3, "b2": 3, "b3": 3}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_client_on_the_balancer(version: int, offload: bool) -> None:
    """A socket on the balancer itself is balanced packet by packet too, and answered from the VIP."""
    with World(NAT, offload=offload) as world:
        with world.lab.balancer.connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(9)
        assert ["b1", "b2", "b3"] * 3 == [answer.backend for answer in answers]
        assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_backend_that_is_its_own_client(version: int, offload: bool) -> None:
    """A backend that asks the service it belongs to gets its turn like everyone, and answers from the VIP only."""
    with World(NAT, offload=offload) as world:
        with world.lab.backends[0].connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(9)
        assert ["b1", "b2", "b3"] * 3 == [answer.backend for answer in answers]
        assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_two_clients_with_one_source_port(mode: Mode, connected: bool) -> None:
    """Two hosts that use the same source port each get their own answers, all of them."""
    with World(mode, clients=2) as world:
        one, other = world.lab.clients
        for version in VERSIONS:
            world.servers.clear()
            with (
                one.connect((vip(version), PORT), source_port=40000, connected=connected) as first,
                other.connect((vip(version), PORT), source_port=40000, connected=connected) as second,
            ):
                answers = [answer for _ in range(3) for answer in (*first.exchange(3), *second.exchange(3))]
            assert ["b1", "b2", "b3"] * 6 == [answer.backend for answer in answers]
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            assert {1} == {answer.copies for answer in answers}
            assert {"client1": 9, "client2": 9} == world.senders()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_backends_see(mode: Mode) -> None:
    """`nat` shows backends the balancer's address; `stateless` and `dsr` the client's own."""
    with World(mode) as world:
        with world.lab.client.connect((vip(4), PORT)) as client:
            client.exchange(3)
            own = client.source
        seen = [one.source[0] for one in world.servers.received]
    expected = [f"10.0.{number}.1" for number in (1, 2, 3)] if mode is NAT else [own[0]] * 3
    assert expected == seen
