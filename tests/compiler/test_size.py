"""Large configurations: the size of the compiled rules, and how it grows with the number of pools."""

from __future__ import annotations

import sys
import tracemalloc
from functools import cache, partial
from typing import TYPE_CHECKING

import pytest
from pool_builders import backend, pool
from pool_builders import config as configured

from nftlb.compiler import Compiled
from nftlb.compiler.selection import MOST_SLOTS
from nftlb.config import parse_config
from nftlb.model import Membership
from nftlb.ruleset import Ruleset, TableFamily, file_lines, file_pieces, file_text
from nftlb.swap.plan import make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nftlb.model import Config

WEIGHTS = [1 + number * 37 % 100 for number in range(250)]


def large(pools: int, weights: Sequence[int]) -> Config:
    """Return pools with an address each, all with backends of these weights."""
    return configured(
        *(
            pool(
                f"pool{number}",
                f"192.0.{number // 250}.{number % 250 + 1}:53/udp",
                tuple(
                    backend(f"b{index}", f"10.{number // 250}.{number % 250}.{index}:5353", weight=weight)
                    for index, weight in enumerate(weights, 1)
                ),
            )
            for number in range(pools)
        )
    )


def test_the_map_of_weights_without_a_common_divisor_is_bounded() -> None:
    """250 weights without a common divisor give some 2,048 slots, each twice in the map, and less than 250 kB."""
    ruleset = Compiled(large(1, WEIGHTS)).ruleset()
    maps = [set_ for set_ in ruleset.tables[TableFamily.IP].sets.values() if set_.name.startswith("pool/")]

    assert [pytest.approx(2 * MOST_SLOTS, rel=0.07)] == [len(slot_map.elements) for slot_map in maps]
    assert len(file_text(ruleset)) < 250_000


def test_a_swap_of_a_large_pool_sends_its_map_only() -> None:
    """When a backend of one of three large pools leaves, the transaction has one map, one rule and nothing else."""
    compiled = Compiled(large(3, WEIGHTS))
    before = compiled.ruleset()
    after = compiled.ruleset(Membership.with_down([("pool1", "b7")]))
    transaction = make(before, after)

    assert len(transaction.operations) <= 4
    assert len(transaction.text) < 250_000


def test_elements_of_a_map_of_slots_read_like_a_tuple() -> None:
    """The elements are made when they are read: their number, order and single elements are those of a tuple."""
    (slot_map,) = (
        set_
        for set_ in Compiled(large(1, [1, 2])).ruleset().tables[TableFamily.IP].sets.values()
        if "pool/" in set_.name
    )
    whole = tuple(slot_map.elements)

    assert ["0", "1", "2", "16777216", "33554432"] == [element.key for element in whole]
    assert len(slot_map.elements) == len(whole)
    assert slot_map.elements == whole
    assert hash(slot_map.elements) == hash(whole)
    assert whole[1] == slot_map.elements[1]
    assert whole[1:3] == slot_map.elements[1:3]
    assert slot_map.elements != whole[1:]


def test_joined_pieces_are_the_text() -> None:
    """The joined pieces are the text, each piece ends with a line, and a large text has several pieces."""
    ruleset = Compiled(large(200, [1, 1, 1, 1])).ruleset()
    pieces = list(file_pieces(ruleset))

    assert "".join(pieces) == file_text(ruleset)
    assert len(pieces) > 1
    assert all(piece.endswith("\n") for piece in pieces)


def test_parts_of_the_text_are_short() -> None:
    """The daemon makes some parts in a turn, so the thousands of elements of a set come in parts of up to 16 lines."""
    parts = list(file_lines(Compiled(large(1, WEIGHTS)).ruleset()))

    assert 16 == max(part.count("\n") + 1 for part in parts)


def test_loading_is_linear_in_pools() -> None:
    """Twice as many pools need at most 2.1 times as much text, and as many calls of Python functions."""
    small, double = (_measure(pools) for pools in (1100, 2200))

    for size, double_size in zip(small, double, strict=True):
        assert double_size <= 2.1 * size


def test_a_pool_costs_few_calls() -> None:
    """A pool of four backends costs at most this many calls to compile, and to write as a transaction.

    The numbers were 344 and 42 when this test was written last.
    """
    text, compiled, written = _measure(1100)

    assert compiled <= 365 * 1100
    assert written <= 50 * 1100
    assert text <= 1200 * 1100


def test_a_file_of_many_pools_costs_few_calls() -> None:
    """Besides a fixed number, a pool of four backends costs at most 315 calls to read and to validate: it was 293."""
    parse_config(_file(1))  # the first file makes the validators
    few, many = (_calls(partial(parse_config, _file(pools))) for pools in (10, 210))

    assert many - few <= 315 * 200


def test_the_text_of_a_large_pool_needs_little_memory() -> None:
    """The rules of four pools of 250 backends with odd weights, and their text in pieces, take less than 2.5 MB.

    The text of the pools has 0.8 MB. Rules and text took 1.4 MB when this test was written.
    """
    config = large(4, WEIGHTS)
    tracemalloc.start()
    try:
        characters = sum(map(len, file_pieces(Compiled(config).ruleset())))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert characters > 700_000
    assert peak < 2_500_000


def test_a_file_of_many_pools_needs_little_memory() -> None:
    """Besides a fixed amount, a pool of four backends takes at most 7,300 bytes while it is read.

    With Python 3.13, it took 7,001 bytes.

    Most of this is freed with the places of the values, when the file is valid.
    """
    parse_config(_file(1))  # the first file makes the validators
    few, many = (_peak(partial(parse_config, _file(pools))) for pools in (100, 500))

    assert many - few <= 7300 * 400


def _peak(work: Callable[[], object]) -> int:
    """Return the most bytes that were allocated at one time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_pools_are_equal_by_their_fields() -> None:
    """The compiler's caches find a pool by the very same pool, and another pool with the same fields is equal too."""
    first, second = (large(1, [1, 2]).pools[0] for _ in range(2))
    other = large(1, [1, 3]).pools[0]

    assert first == second
    assert hash(first) == hash(second)
    assert first != other
    assert first != "pool0"


def _file(pools: int) -> str:
    """Return a file of pools with four backends each."""
    lines = ["pools:"]
    for number in range(pools):
        lines += [f"  pool{number}:", f"    listen: 192.0.{number // 250}.{number % 250 + 1}:53/udp", "    backends:"]
        lines += [f"      b{index}: 10.{number // 250}.{number % 250}.{index}:5353" for index in range(1, 5)]
    return "\n".join(lines)


@cache
def _measure(pools: int) -> tuple[int, int, int]:
    """Return the characters of a first load, and the calls of functions to compile it, and to write its text."""
    config = large(pools, [1, 1, 1, 1])
    found: list[Ruleset] = []
    texts: list[str] = []
    compiled = _calls(lambda: found.append(Compiled(config).ruleset()))
    written = _calls(lambda: texts.append(make(Ruleset("nftlb"), found[0]).text))
    return len(texts[0]), compiled, written


def _calls(work: Callable[[], object]) -> int:
    """Count the calls of Python functions. The number is the same in every run, unlike a duration."""
    count = 0

    def see(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count
