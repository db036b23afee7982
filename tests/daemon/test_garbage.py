"""Objects that stay as long as a configuration are left out of collections of garbage."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING
from weakref import ref

import pytest
from pool_builders import backends, config, pool
from virtual_time import play

from nftlb.daemon.garbage import SETTLED, THRESHOLDS, Garbage
from nftlb.model import Config

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.enable()


class Loop:
    """An object that only a collection of garbage can free."""

    def __init__(self) -> None:
        self.itself = self


def looked_at(wanted: object) -> bool:
    """Whether collections of garbage look at an object."""
    return any(tracked is wanted for tracked in gc.get_objects())


def test_objects_of_the_start_are_frozen() -> None:
    """The objects of the first load are frozen at once, and those that are made soon after it a little later."""

    async def scene() -> list[bool]:
        first, garbage = Loop(), Garbage()
        gc.disable()  # as commands do
        garbage.begin(Config())
        second = Loop()
        found = [looked_at(first), looked_at(second)]
        await asyncio.sleep(SETTLED + 1)
        third = Loop()
        return [*found, looked_at(second), looked_at(third)]

    assert [False, True, False, True] == play(scene())
    assert gc.isenabled()
    assert THRESHOLDS == gc.get_threshold()


def test_a_reload_frees_the_former_configuration() -> None:
    """Frozen objects that nothing refers to are freed after a reload, and the new objects are frozen."""

    async def scene() -> tuple[bool, bool]:
        old, garbage = Loop(), Garbage()
        garbage.begin(Config())
        gone, new = ref(old), Loop()
        del old
        garbage.follow(Config())
        await asyncio.sleep(SETTLED + 1)
        return gone() is None, looked_at(new)

    assert (True, False) == play(scene())


def test_a_change_of_one_pool_collects_no_frozen_objects() -> None:
    """After a change by the API, objects stay frozen: a collection of all objects would hold up the event loop."""

    async def scene() -> tuple[bool, bool]:
        old, kept = Loop(), pool("kept", "192.0.2.1:53/udp", backends("10.0.0.1:53"))
        garbage, first = Garbage(), config(kept, pool("changed", "192.0.2.1:54/udp", backends("10.0.0.1:53")))
        garbage.begin(first)
        gone, new = ref(old), Loop()
        del old
        garbage.follow(config(kept, pool("changed", "192.0.2.1:54/udp", backends("10.0.0.2:53"))))
        await asyncio.sleep(SETTLED + 1)
        return gone() is None, looked_at(new)

    assert (False, False) == play(scene())


def test_after_close_nothing_is_frozen() -> None:
    """After close(), nothing is frozen any more."""

    async def scene() -> bool:
        garbage = Garbage()
        garbage.begin(Config())
        new = Loop()
        garbage.close()
        await asyncio.sleep(SETTLED + 1)
        return looked_at(new)

    assert play(scene())
