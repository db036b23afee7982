"""Reads the packets and replies of backends, and reports the backends that are silent."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.health import SilentBackends

from .events import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import Config
    from nftlb.ruleset import ReplyCount
    from nftlb.swap.applier import Applier

    from .controller import Controller
    from .counters import Counters
    from .kernel_thread import KernelThread

_log = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds between two readings of the kernel's counters."""
REST = 20
"""The pause after a reading, as a multiple of its processor time, which grows with the number of all backends."""


class SilenceWatch:
    """Compares packets and replies while a pool counts replies. `counters` gets the figures for the status."""

    def __init__(self, config: Config, controller: Controller, kernel_thread: KernelThread, counters: Counters) -> None:
        self._backends = SilentBackends(config)
        self._controller = controller
        self._kernel_thread = kernel_thread
        self._counters = counters
        self._changed = asyncio.Event()

    def follow(self, config: Config) -> None:
        """Use another configuration."""
        self._backends.follow(config)
        self._changed.set()

    async def run(self) -> None:
        """Read and report. Never returns."""
        while True:
            self._changed.clear()
            seconds = 0.0
            if self._backends:
                seconds = await self._look()
            else:
                self._counters.record_reply_counts({})
            self._controller.set_silent(self._backends.judge(self._controller.state.health.pools, now()))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(EVERY, REST * seconds) if self._backends else None):
                    await self._changed.wait()

    async def _look(self) -> float:
        """Read the counters once. Return the seconds of processor time that this took."""
        try:
            found, seconds = await self._kernel_thread.read(_timed)
        except NftlbError as error:
            _log.debug("no counters of replies: %s", error)
            return 0.0
        self._backends.record(self._counters.record_reply_counts(found), now())
        self._counters.set_shares(self._backends.shares())
        return seconds


def _timed(applier: Applier) -> tuple[Mapping[str, ReplyCount], float]:
    began = time.thread_time()
    return applier.reply_counts(), time.thread_time() - began
