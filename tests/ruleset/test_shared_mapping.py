"""Mappings that share a base behave like dictionaries, and find what differs by identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.ruleset import SharedMapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Thing:
    """A value that is equal to all others, like a chain that was read again. Only identity tells values apart."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    __hash__ = None  # type: ignore[assignment]


NAMES = st.sampled_from("abcdefgh")
BASE = {name: Thing() for name in "abcde"}
THINGS = st.sampled_from([*BASE.values(), *(Thing() for _ in range(3))])
CHANGES = st.dictionaries(NAMES, st.none() | THINGS)


def plain(base: Mapping[str, Thing], steps: Sequence[Mapping[str, Thing | None]]) -> dict[str, Thing]:
    """Return the dictionary after these changes."""
    found: dict[str, Thing | None] = dict(base)
    for changes in steps:
        found |= changes
    return {name: value for name, value in found.items() if value is not None}


def made(base: Mapping[str, Thing], steps: Sequence[Mapping[str, Thing | None]]) -> SharedMapping[Thing]:
    found = SharedMapping(base)
    for changes in steps:
        found = found.with_changes(changes)
    return found


def ids(values: Mapping[str, Thing]) -> dict[str, int]:
    return {name: id(value) for name, value in values.items()}


@given(st.lists(CHANGES, max_size=4))
def test_a_shared_mapping_is_like_a_dictionary(steps: list[dict[str, Thing | None]]) -> None:
    """Names, values, length and membership are those of a dictionary after the same changes."""
    expected, actual = plain(BASE, steps), made(BASE, steps)

    assert ids(expected) == ids(actual) == ids(actual.to_dict())
    assert len(expected) == len(actual) == len(list(actual))
    assert {name: name in expected for name in "abcdefghi"} == {name: name in actual for name in "abcdefghi"}


@given(st.lists(CHANGES, max_size=3), st.lists(CHANGES, max_size=3), st.booleans())
def test_new_values_are_found_by_identity(
    steps: list[dict[str, Thing | None]], other_steps: list[dict[str, Thing | None]], shared: bool
) -> None:
    """The new values are those that are not the same object, whether or not the mappings share their base."""
    present, wanted = made(BASE, steps), made(BASE if shared else dict(BASE), other_steps)
    expected = [id(value) for name, value in wanted.items() if present.get(name) is not value]

    assert sorted(expected) == sorted(map(id, present.new_values(wanted)))


def test_replaced_values_keep_their_place() -> None:
    """A new value comes last, and a value that is added back has its old place."""
    base = {"a": 1, "b": 2, "c": 3}
    without = SharedMapping(base).with_changes({"b": None, "d": 4, "c": 5})

    assert ["a", "c", "d"] == list(without)
    assert list(base) == list(without.with_changes({"b": 2, "d": None}))


def test_a_change_returns_a_new_mapping() -> None:
    """A change returns a new mapping; the old mapping stays as it is."""
    first = SharedMapping({"a": 1})
    second = first.with_changes({"a": 2, "b": 3})
    third = second.with_changes({"a": None})

    assert ({"a": 1}, {"a": 2, "b": 3}, {"b": 3}) == (dict(first), dict(second), dict(third))
    with pytest.raises(KeyError):
        third["a"]
