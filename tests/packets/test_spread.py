"""One client socket's datagrams are spread packet by packet, whole, and answered from the service's own address."""

from __future__ import annotations

import os
import socket
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest
from packets.world import BACKEND_PORT, MODES, NAT, PORT, STATELESS, World, down, vip

from nftlb.compiler.slots import round_robin
from nftlb.lab import VIP4, Answer
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packets.world import Mode

    from nftlb.lab import Client

VERSIONS = (4, 6)
ETHERNET = 1500
WEIGHTS = (5, 3, 1)


@pytest.fixture(params=[True, False], ids=["offload", "no-offload"], scope="module")
def offload(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=MODES, ids=str, scope="module")
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture(scope="module")
def world(mode: Mode, offload: bool) -> Iterator[World]:
    with World(mode, offload=offload) as world:
        yield world


@pytest.fixture(scope="module")
def without_checksum(mode: Mode, offload: bool) -> Iterator[World]:
    with World(mode, offload=offload, zero_checksum=True) as world:
        yield world


@pytest.fixture(scope="module")
def weighted(mode: Mode, offload: bool) -> Iterator[World]:
    with World(mode, offload=offload, weights=WEIGHTS) as world:
        yield world


def in_turn(answers: list[Answer], names: list[str], wheel: tuple[int, ...]) -> bool:
    """Whether the answers follow the wheel, from whichever slot it stood at."""
    got = [answer.backend for answer in answers]
    turns = [
        list(islice(cycle([names[index] for index in wheel]), start, start + len(got))) for start in range(len(wheel))
    ]
    return got in turns


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_order_and_right_source(world: World, version: int) -> None:
    """Of one socket's datagrams each backend gets every third, in strict order, and replies come from VIP:port only."""
    with world.lab.client.connect((vip(version), PORT), connected=False) as client:
        answers = client.exchange(30)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
    assert {(vip(version), PORT)} == {answer.source for answer in answers}
    assert {1} == {answer.copies for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_exact_and_interleaved(weighted: World, version: int) -> None:
    """Weights 5:3:1 are exact over each cycle of 9, and no backend gets its share in one burst."""
    with weighted.lab.client.connect((vip(version), PORT)) as client:
        answers = client.exchange(36)
    wheel = round_robin(WEIGHTS)
    assert in_turn(answers, ["b1", "b2", "b3"], wheel), [answer.backend for answer in answers]
    for start in range(0, 36, 9):
        turn = [answer.backend for answer in answers[start : start + 9]]
        assert {"b1": 5, "b2": 3, "b3": 1} == {name: turn.count(name) for name in ("b1", "b2", "b3")}


@pytest.mark.parametrize("size", [1, 1400, 4000, 60000])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_size_arrives_whole(world: World, version: int, size: int) -> None:
    """From one byte to forty fragments: whole to one backend, in turn, and the reply back."""
    check_sizes(world, version, size, zero_checksum=False)


@pytest.mark.parametrize("size", [1, 1400, 4000, 60000])
@pytest.mark.parametrize("version", VERSIONS)
def test_without_checksum(without_checksum: World, version: int, size: int) -> None:
    """The same where neither the requests nor the replies have a UDP checksum."""
    check_sizes(without_checksum, version, size, zero_checksum=True)


def check_sizes(world: World, version: int, size: int, *, zero_checksum: bool) -> None:
    world.servers.clear()
    with world.lab.client.connect((vip(version), PORT), connected=False, zero_checksum=zero_checksum) as client:
        answers = tiny(client, 9) if size == 1 else client.exchange(9, size=size)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
    assert {(vip(version), PORT)} == {answer.source for answer in answers}
    assert all(answer.whole and answer.copies == 1 for answer in answers)
    arrived = world.servers.received
    assert [size] * 9 == [one.size for one in arrived]
    assert [world.mode.port] * 9 == [one.destination[1] for one in arrived]


def tiny(client: Client, count: int) -> list[Answer]:
    """Datagrams of one byte, too short for a number, one after the other; a server adds its name to its answer."""
    answers = []
    with socket.socket(fileno=os.dup(client.fileno())) as sock:
        sock.settimeout(2)
        for number in range(count):
            sock.sendto(b"?", client.target)
            payload, source = sock.recvfrom(100)
            name, _, rest = payload.decode().partition(" ")
            answers.append(Answer(number, name, (source[0], source[1]), len(payload), rest == "?", 1))
    return answers


@pytest.mark.parametrize("version", VERSIONS)
def test_turns_by_rules_in_place_of_a_map(mode: Mode, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are very many pools, rules pick the slot: in the same strict order, also when a backend leaves."""
    monkeypatch.setattr("nftlb.compiler.compiled.MOST_MAPS", 0)
    with World(mode) as world:
        assert world.applier.accepted is not None
        assert "vmap {" not in file_text(world.applier.accepted)
        with world.lab.client.connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(30)
            world.update(down("b2"))
            others = client.exchange(10)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
    assert in_turn(others, ["b1", "b3"], (0, 1)), [answer.backend for answer in others]
    assert {((vip(version), PORT), 1)} == {(answer.source, answer.copies) for answer in answers + others}


def test_two_sockets_share_the_wheel(world: World) -> None:
    """The wheel is the pool's: whoever sends next gets the next backend."""
    with (
        world.lab.client.connect((VIP4, PORT)) as first,
        world.lab.client.connect((VIP4, PORT)) as second,
    ):
        answers = [answer for _ in range(6) for answer in (*first.exchange(1), *second.exchange(1))]
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_one_way(mode: Mode) -> None:
    """Datagrams that nobody answers, such as syslog's, are spread just the same."""
    with World(mode) as world, world.lab.serve(BACKEND_PORT + 1, answer=False) as servers:
        world.load(world.pool(port=BACKEND_PORT + 1))
        with world.lab.client.connect((VIP4, PORT)) as client:
            client.send(30)
        servers.wait(30)
        order = [one.backend for one in servers.settle()]
    assert ["b1", "b2", "b3"] * 10 == order
