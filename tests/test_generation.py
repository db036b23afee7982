"""The generation number of nf_tables, read from the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from unprivileged import unprivileged

from nftlb.errors import SystemFault
from nftlb.kernel.generation import Generation, generation
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("generation") as namespace:
        yield namespace


def test_every_transaction_moves_it_by_one(host: Namespace) -> None:
    """A transaction of several commands counts once; reading, and checking without loading, do not count."""
    with host.call(Generation) as reader:
        first = reader.read()

        host.run(["nft", "add table ip a; add table ip b; add chain ip a c"])
        assert reader.read() == first + 1

        host.run(["nft", "delete table ip a"])
        host.run(["nft", "list ruleset"])
        host.run(["nft", "--check", "add table ip d"])
        assert reader.read() == first + 2


def test_it_belongs_to_the_namespace_of_the_thread(host: Namespace) -> None:
    """What happens in one namespace is not seen in another."""
    with Namespace("other") as other:
        before, elsewhere = host.call(generation), other.call(generation)

        other.run(["nft", "add table ip a"])

        assert (before, elsewhere + 1) == (host.call(generation), other.call(generation))


def test_a_reader_can_be_used_by_another_thread(host: Namespace) -> None:
    """The namespace is that of the thread which made the reader, whoever reads."""
    with host.call(Generation) as reader:
        host.run(["nft", "add table ip a"])

        assert host.call(generation) == reader.read()


def test_a_reading_costs_well_under_a_tenth_of_a_millisecond(host: Namespace) -> None:
    """It is read before every swap, so it must not be felt; the best of many, since other work goes on beside."""
    with host.call(Generation) as reader:
        durations = []
        for _ in range(1000):
            start = time.perf_counter()
            reader.read()
            durations.append(time.perf_counter() - start)

    assert min(durations) < 0.00005


def test_many_readings_keep_working(host: Namespace) -> None:
    """The number of a request has 32 bits; a daemon asks for longer than that."""
    with host.call(Generation) as reader:
        first = reader.read()
        reader._netlink._sequence = 0xFFFFFFFE

        assert [first] * 3 == [reader.read() for _ in range(3)]


def test_without_privileges_it_says_so(host: Namespace) -> None:
    """The kernel refuses everybody who may not change the tables."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, generation)
