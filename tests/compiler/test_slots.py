"""The properties of cycles and hash tables that slots.py claims."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.compiler.slots import hash_size, hash_table, round_robin

WEIGHTS = st.lists(st.integers(0, 256), max_size=12).map(tuple)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1, 1, 1), (0, 1, 2)),
        ((7, 7), (0, 1)),
        ((5, 3, 1), (0, 1, 0, 0, 1, 0, 1, 0, 2)),
        ((2, 0, 1), (0, 0, 2)),
        ((256,), (0,)),
        ((), ()),
        ((0, 0), ()),
    ],
)
def test_examples_of_rotations(weights: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Equal weights take turns, 5:3:1 is interleaved, 0 takes nothing, and common factors make no cycle longer."""
    assert expected == round_robin(weights)


@given(weights=WEIGHTS)
def test_a_cycle_is_exact(weights: tuple[int, ...]) -> None:
    """In one cycle, every index gets slots in exact proportion to its weight."""
    cycle = round_robin(weights)
    counts = Counter(cycle)

    assert [weight * len(cycle) for weight in weights] == [
        counts[index] * sum(weights) for index in range(len(weights))
    ]


@given(weights=WEIGHTS)
def test_a_rotation_is_the_shortest_that_is_exact(weights: tuple[int, ...]) -> None:
    """No shorter cycle is exact: its length is the sum of the weights without their common factor."""
    assert len(round_robin(weights)) == len(round_robin(tuple(3 * weight for weight in weights))) <= sum(weights)


@given(weights=WEIGHTS, start=st.integers(0, 3000), length=st.integers(0, 3000))
def test_no_index_is_a_slot_ahead_or_behind(weights: tuple[int, ...], start: int, length: int) -> None:
    """From the cycle's first slot on, at any prefix, an index is less than one slot from its share.

    So between any two points, also across the seam, it is less than two from it.
    """
    cycle = round_robin(weights)
    if not cycle:
        return
    for until, slack in ((start, 1), (start + length, 1)):
        assert all(abs(ahead) < slack for ahead in _ahead(cycle, weights, 0, until))
    assert all(abs(ahead) < 2 for ahead in _ahead(cycle, weights, start, start + length))


def _ahead(cycle: tuple[int, ...], weights: tuple[int, ...], start: int, end: int) -> list[Fraction]:
    """Return how far each index is ahead of its share between two slots of an endlessly repeated cycle."""
    turns, rest = divmod(end - start, len(cycle))
    first = start % len(cycle)
    counts = Counter((cycle + cycle)[first : first + rest])
    whole = Counter(cycle)
    return [
        turns * whole[index] + counts[index] - Fraction((end - start) * weight, sum(weights))
        for index, weight in enumerate(weights)
    ]


NAMES = st.integers(2, 12).map(lambda count: tuple(f"dns/ns{number}" for number in range(count)))


@given(names=NAMES, gone=st.integers(0, 11))
def test_when_a_name_is_removed_only_its_slots_move(names: tuple[str, ...], gone: int) -> None:
    """Every slot of another name stays with that name; so when the name comes back, it gets its own slots again."""
    gone %= len(names)
    size = hash_size(len(names))
    before = hash_table(names, (1,) * len(names), size)
    left = names[:gone] + names[gone + 1 :]
    after = hash_table(left, (1,) * len(left), size)

    assert all(names[old] == left[new] for old, new in zip(before, after, strict=True) if old != gone)


@given(names=NAMES, weight=st.integers(2, 256))
def test_when_a_weight_grows_other_names_exchange_no_slots(names: tuple[str, ...], weight: int) -> None:
    """A heavier name takes slots from other names, which exchange no slots among themselves."""
    size = hash_size(len(names))
    before = hash_table(names, (1,) * len(names), size)
    after = hash_table(names, (weight, *(1,) * (len(names) - 1)), size)

    assert all(new in (old, 0) for old, new in zip(before, after, strict=True))


def test_the_order_of_names_does_not_matter() -> None:
    """A slot's owner is the same name, in whatever order the file has them."""
    names, weights = ("a", "b", "c"), (1, 2, 3)
    forth = [names[index] for index in hash_table(names, weights, 256)]
    back = [names[::-1][index] for index in hash_table(names[::-1], weights[::-1], 256)]

    assert forth == back


def test_hash_slots_are_in_proportion_to_weight() -> None:
    """Over many tables, names with weights 5:3:1 own 5/9, 3/9 and 1/9 of the slots, to within one per cent."""
    owned = Counter[int]()
    for trial in range(100):
        owned += Counter(hash_table((f"{trial}/a", f"{trial}/b", f"{trial}/c"), (5, 3, 1), 256))

    assert [5 / 9, 3 / 9, 1 / 9] == [pytest.approx(owned[index] / owned.total(), abs=0.01) for index in range(3)]


def test_weight_0_owns_no_hash_slot() -> None:
    """Only names with a weight are in the table."""
    assert {0, 2} == set(hash_table(("a", "b", "c"), (1, 0, 1), 256))


def test_the_fullest_of_ten_has_15_per_cent_more() -> None:
    """What slots.py claims: of ten equal backends the fullest owns 15 % more slots than the mean, give or take two."""
    size = hash_size(10)
    tables = [hash_table(tuple(f"{trial}/b{number}" for number in range(10)), (1,) * 10, size) for trial in range(200)]
    excess = [max(Counter(table).values()) * 10 / size - 1 for table in tables]

    assert pytest.approx(0.15, abs=0.02) == mean(excess)


@pytest.mark.parametrize(("backends", "slots"), [(0, 1), (1, 64), (2, 128), (3, 256), (4, 256), (5, 512), (10, 1024)])
def test_hash_tables_seldom_change_size(backends: int, slots: int) -> None:
    """At least 64 slots a backend, and a power of two: the size changes only when the number of backends doubles."""
    assert slots == hash_size(backends)
