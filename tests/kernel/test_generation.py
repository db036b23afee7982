"""The generation number of nf_tables, read from the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from unprivileged import unprivileged

from nftlb.errors import SystemFault
from nftlb.kernel.generation import Generation, read_generation
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("generation") as namespace:
        yield namespace


def test_every_transaction_raises_the_generation_by_one(host: Namespace) -> None:
    """A transaction of several commands counts once; reading, and checking without loading, do not count."""
    with host.call(Generation) as reader:
        first = reader.read()

        host.run(["nft", "add table ip a; add table ip b; add chain ip a c"])
        assert reader.read() == first + 1

        host.run(["nft", "delete table ip a"])
        host.run(["nft", "list ruleset"])
        host.run(["nft", "--check", "add table ip d"])
        assert reader.read() == first + 2


def test_each_network_namespace_is_separate(host: Namespace) -> None:
    """A transaction in one namespace does not change the number of another."""
    with Namespace("other") as other:
        before, elsewhere = host.call(read_generation), other.call(read_generation)

        other.run(["nft", "add table ip a"])

        assert (before, elsewhere + 1) == (host.call(read_generation), other.call(read_generation))


def test_a_reader_can_be_used_by_another_thread(host: Namespace) -> None:
    """The reader keeps the namespace of the thread that made it, also if another thread reads."""
    with host.call(Generation) as reader:
        host.run(["nft", "add table ip a"])

        assert host.call(read_generation) == reader.read()


def test_a_reading_costs_well_under_a_tenth_of_a_millisecond(host: Namespace) -> None:
    """A reading is fast, because it happens before every swap. The best of many counts, because of other load."""
    with host.call(Generation) as reader:
        durations = []
        for _ in range(1000):
            start = time.perf_counter()
            reader.read()
            durations.append(time.perf_counter() - start)

    assert min(durations) < 0.00005


def test_many_readings_keep_working(host: Namespace) -> None:
    """The sequence number of requests has 32 bits and wraps in a long-running daemon."""
    with host.call(Generation) as reader:
        first = reader.read()
        reader._sequence = 0xFFFFFFFE

        assert [first] * 3 == [reader.read() for _ in range(3)]


def test_without_privileges_the_error_says_so(host: Namespace) -> None:
    """Without privileges the kernel refuses, and the message names the fix."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, read_generation)
