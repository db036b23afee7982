"""Mappings that share what they have in common: they are as a dictionary would be, and tell what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.ruleset import Layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Thing:
    """Told apart by identity alone, although all are equal: as a chain read anew from the kernel is."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    __hash__ = None  # type: ignore[assignment]


NAMES = st.sampled_from("abcdefgh")
BASE = {name: Thing() for name in "abcde"}
THINGS = st.sampled_from([*BASE.values(), *(Thing() for _ in range(3))])
CHANGES = st.dictionaries(NAMES, st.none() | THINGS)


def plain(base: Mapping[str, Thing], steps: Sequence[Mapping[str, Thing | None]]) -> dict[str, Thing]:
    """What a dictionary would hold."""
    found: dict[str, Thing | None] = dict(base)
    for changes in steps:
        found |= changes
    return {name: thing for name, thing in found.items() if thing is not None}


def made(base: Mapping[str, Thing], steps: Sequence[Mapping[str, Thing | None]]) -> Layers[Thing]:
    found = Layers(base)
    for changes in steps:
        found = found.changed(changes)
    return found


def ids(things: Mapping[str, Thing]) -> dict[str, int]:
    return {name: id(thing) for name, thing in things.items()}


@given(st.lists(CHANGES, max_size=4))
def test_it_is_what_a_dictionary_would_be(steps: list[dict[str, Thing | None]]) -> None:
    """Names, values, length and membership, whatever was changed and in how many steps."""
    expected, actual = plain(BASE, steps), made(BASE, steps)

    assert ids(expected) == ids(actual) == ids(actual.flat())
    assert len(expected) == len(actual) == len(list(actual))
    assert {name: name in expected for name in "abcdefghi"} == {name: name in actual for name in "abcdefghi"}


@given(st.lists(CHANGES, max_size=3), st.lists(CHANGES, max_size=3), st.booleans())
def test_what_differs_is_told_by_identity(
    one: list[dict[str, Thing | None]], other: list[dict[str, Thing | None]], shared: bool
) -> None:
    """Each thing that is wanted and not there as the very same object, whether or not the two share their base."""
    present, wanted = made(BASE, one), made(BASE if shared else dict(BASE), other)
    expected = [id(thing) for name, thing in wanted.items() if present.get(name) is not thing]

    assert sorted(expected) == sorted(map(id, present.differing(wanted)))


def test_what_was_replaced_keeps_its_place() -> None:
    """What is new comes last; what comes back is where it was."""
    base = {"a": 1, "b": 2, "c": 3}
    without = Layers(base).changed({"b": None, "d": 4, "c": 5})

    assert ["a", "c", "d"] == list(without)
    assert list(base) == list(without.changed({"b": 2, "d": None}))


def test_one_that_was_changed_stays_as_it_was() -> None:
    """A change makes another one."""
    first = Layers({"a": 1})
    second = first.changed({"a": 2, "b": 3})
    third = second.changed({"a": None})

    assert ({"a": 1}, {"a": 2, "b": 3}, {"b": 3}) == (dict(first), dict(second), dict(third))
    with pytest.raises(KeyError):
        third["a"]
