"""Keeps collections of garbage short: a collection stops all threads, and looks at every object that is not frozen.

With 10,000 backends, some 350,000 objects live as long as the configuration. 110,000 of these are made after the first
load. A full collection of these took 50 to 95 ms, every few seconds in a flood of requests, and held up `/healthz`
for longer than anything else (`python bench/floods.py`).
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import Config

THRESHOLDS = (2_000, 5, 10)
"""When garbage is collected, as in gc.set_threshold. With the 10,000 new objects that the command begins with, a
collection took 10 ms, and each tenth 30 ms."""

SETTLED = 15.0
"""Seconds until most objects that a configuration needs exist: backends have been checked, and the state was saved."""


class Garbage:
    """Freezes the objects that stay: at once at the start, and when a configuration has settled."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._pools: frozenset[int] = frozenset()
        self._replaced = False

    def begin(self, config: Config) -> None:
        """Freeze what was made for the first load, before anything waits for the event loop."""
        self._pools = _identities(config)
        _freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()
        self._later()

    def follow(self, config: Config) -> None:
        """Follow another configuration.

        If all pools are new, as after a reload, the objects of the old configuration are freed too. That takes a full
        collection: 370 ms with 10,000 pools of 4 backends. A change of one pool by the API leaves too little for that.
        """
        pools = _identities(config)
        self._replaced |= self._pools.isdisjoint(pools)
        self._pools = pools
        self._later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        self.close()
        self._timer = asyncio.get_running_loop().call_later(SETTLED, self._freeze)

    def _freeze(self) -> None:
        if self._replaced:
            self._replaced = False
            gc.unfreeze()
        _freeze()


def _identities(config: Config) -> frozenset[int]:
    return frozenset(map(id, config.pools))


def _freeze() -> None:
    gc.collect()
    gc.freeze()
