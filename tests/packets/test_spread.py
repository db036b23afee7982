"""Datagrams of one client socket are balanced one by one, arrive whole, and get replies from the service's address."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest
from pool_lab import BACKEND_PORT, MODES, NAT, PORT, STATELESS, PoolLab, down, vip

from nftlb.compiler.slots import round_robin
from nftlb.lab import VIP4, DatagramResult
from nftlb.model import Membership
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool_lab import Mode

    from nftlb.lab import LabClient

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
def pool_lab(mode: Mode, offload: bool) -> Iterator[PoolLab]:
    with PoolLab(mode, offload=offload) as pool_lab:
        yield pool_lab


@pytest.fixture(scope="module")
def without_checksum(mode: Mode, offload: bool) -> Iterator[PoolLab]:
    with PoolLab(mode, offload=offload, zero_checksum=True) as pool_lab:
        yield pool_lab


@pytest.fixture(scope="module")
def weighted(mode: Mode, offload: bool) -> Iterator[PoolLab]:
    with PoolLab(mode, offload=offload, weights=WEIGHTS) as pool_lab:
        yield pool_lab


def in_turn(answers: list[DatagramResult], names: list[str], order: tuple[int, ...]) -> bool:
    """Whether the replies follow the order of turns, from any slot on."""
    got = [answer.backend for answer in answers]
    turns = [
        list(islice(cycle([names[index] for index in order]), start, start + len(got))) for start in range(len(order))
    ]
    return got in turns


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_order_and_right_source(pool_lab: PoolLab, version: int) -> None:
    """Each backend gets every third datagram of a socket, in strict order, and all replies come from VIP:port."""
    with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
        answers = client.exchange(30)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
    assert {(vip(version), PORT)} == {answer.source for answer in answers}
    assert {1} == {answer.copies for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_exact_and_interleaved(weighted: PoolLab, version: int) -> None:
    """Weights 5:3:1 are exact over each cycle of 9, and no backend gets its turns in a row."""
    with weighted.lab.client.connect((vip(version), PORT)) as client:
        answers = client.exchange(36)
    order = round_robin(WEIGHTS)
    assert in_turn(answers, ["b1", "b2", "b3"], order), [answer.backend for answer in answers]
    for start in range(0, 36, 9):
        turn = [answer.backend for answer in answers[start : start + 9]]
        assert {"b1": 5, "b2": 3, "b3": 1} == {name: turn.count(name) for name in ("b1", "b2", "b3")}


@pytest.mark.parametrize("size", [1, 1400, 4000, 60000])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_size_arrives_whole(pool_lab: PoolLab, version: int, size: int) -> None:
    """From one byte to forty fragments: each datagram arrives whole at the next backend, and so does the reply."""
    check_sizes(pool_lab, version, size, zero_checksum=False)


@pytest.mark.parametrize("size", [1, 1400, 4000, 60000])
@pytest.mark.parametrize("version", VERSIONS)
def test_without_checksum(without_checksum: PoolLab, version: int, size: int) -> None:
    """The same holds if requests and replies have no UDP checksum."""
    check_sizes(without_checksum, version, size, zero_checksum=True)


def check_sizes(pool_lab: PoolLab, version: int, size: int, *, zero_checksum: bool) -> None:
    pool_lab.servers.clear()
    with pool_lab.lab.client.connect((vip(version), PORT), connected=False, zero_checksum=zero_checksum) as client:
        answers = tiny(client, 9) if size == 1 else client.exchange(9, size=size)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
    assert {(vip(version), PORT)} == {answer.source for answer in answers}
    assert all(answer.whole and answer.copies == 1 for answer in answers)
    arrived = pool_lab.servers.received
    assert [size] * 9 == [datagram.size for datagram in arrived]
    assert [pool_lab.mode.port] * 9 == [datagram.destination[1] for datagram in arrived]


def tiny(client: LabClient, count: int) -> list[DatagramResult]:
    """Exchange datagrams of one byte, too short for a number, one by one. Servers add their name to the reply."""
    answers = []
    with socket.socket(fileno=os.dup(client.fileno())) as sock:
        sock.settimeout(20)
        for number in range(count):
            sock.sendto(b"?", client.target)
            payload, source = sock.recvfrom(100)
            name, _, rest = payload.decode().partition(" ")
            answers.append(DatagramResult(number, name, (source[0], source[1]), len(payload), rest == "?", 1))
    return answers


@pytest.mark.parametrize("version", VERSIONS)
def test_turns_by_rules_in_place_of_a_map(mode: Mode, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With very many pools, rules choose the slot: in the same strict order, also when a backend leaves."""
    monkeypatch.setattr("nftlb.compiler.compiled.MOST_MAPS", 0)
    with PoolLab(mode) as pool_lab:
        assert pool_lab.applier.accepted is not None
        assert "vmap @pool/" not in file_text(pool_lab.applier.accepted.ruleset)
        with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(30)
            pool_lab.update(down("b2"))
            others = client.exchange(10)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
    assert in_turn(others, ["b1", "b3"], (0, 1)), [answer.backend for answer in others]
    assert {((vip(version), PORT), 1)} == {(answer.source, answer.copies) for answer in answers + others}


def test_two_sockets_share_the_turns_of_a_pool(pool_lab: PoolLab) -> None:
    """All sockets share the turns of a pool: the next datagram of any socket goes to the next backend."""
    with (
        pool_lab.lab.client.connect((VIP4, PORT)) as first,
        pool_lab.lab.client.connect((VIP4, PORT)) as second,
    ):
        answers = [answer for _ in range(6) for answer in (*first.exchange(1), *second.exchange(1))]
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_one_way(mode: Mode) -> None:
    """Datagrams without replies, such as syslog's, are balanced in the same way."""
    with PoolLab(mode) as pool_lab, pool_lab.lab.serve(BACKEND_PORT + 1, answer=False) as servers:
        pool_lab.load(pool_lab.pool(port=BACKEND_PORT + 1))
        with pool_lab.lab.client.connect((VIP4, PORT)) as client:
            client.send(30)
        servers.wait(30)
        order = [datagram.backend for datagram in servers.settle()]
    assert ["b1", "b2", "b3"] * 10 == order


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", [1, 3, 5])
def test_swaps_of_other_pools_keep_the_turns(mode: Mode, version: int, number: int) -> None:
    """Whatever happens to the backends of other pools between two datagrams, a pool goes on with its next backend."""
    with PoolLab(mode) as pool_lab:
        base = pool_lab.pool()
        others = []
        for at in range(1, number + 1):
            listen = tuple(replace(listener, first_port=PORT + at, last_port=PORT + at) for listener in base.listen)
            behind = tuple(replace(backend, port=backend.port and backend.port + at) for backend in base.backends)
            others.append(replace(base, name=f"other{at}", listen=listen, backends=behind))
        pool_lab.load(base, *others)
        answers = []
        with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
            for turn in range(9):
                lost = [("other1", name) for name in ("b1", "b1-6")] if turn % 2 else []
                pool_lab.update(Membership.with_down(lost))
                answers += client.exchange(1)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shared", [False, True], ids=["an address each", "one address"])
def test_turns_beside_many_services(mode: Mode, version: int, shared: bool) -> None:
    """With more services than have rules, a map leads to the pools: turns are as strict."""
    with PoolLab(mode) as pool_lab:
        base = pool_lab.pool()
        others = []
        for number in range(1, 6):
            listen = tuple(
                replace(
                    listener,
                    address=listener.address if shared else listener.address + number,
                    first_port=PORT + number,
                    last_port=PORT + number,
                )
                for listener in base.listen
            )
            behind = tuple(replace(backend, port=backend.port and backend.port + number) for backend in base.backends)
            others.append(replace(base, name=f"other{number}", listen=listen, backends=behind))
        pool_lab.load(base, *others)
        with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
            answers = client.exchange(30)
    assert in_turn(answers, ["b1", "b2", "b3"], (0, 1, 2)), [answer.backend for answer in answers]
