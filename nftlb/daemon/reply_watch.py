"""Notices when settings of this host begin or cease to permit `replies: prerouting`.

The kernel announces changes of routes, addresses, links and `rp_filter`, but not of `accept_local`. So the settings are
read at every announcement, and also once a second while a pool wants its replies rewritten in prerouting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from nftlb.compiler.reply_form import wishes
from nftlb.errors import KernelError
from nftlb.kernel.reply_paths import find_obstacles

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.compiler.reply_form import Obstacles
    from nftlb.model import Config

_log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two reads of the settings without an announcement."""
REST = 10
"""The pause after a read, as a multiple of its processor time: each backend costs the kernel a look-up of a route."""


class ReplyWatch:
    """Reads the settings inside `with`, on the running loop. `report` receives the obstacles that each read finds."""

    def __init__(
        self,
        config: Config,
        report: Callable[[Obstacles], None],
        find: Callable[[Config], Obstacles] = find_obstacles,
    ) -> None:
        self._config = config
        self._report = report
        self._find = find
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "replies")
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    def follow(self, config: Config) -> None:
        """Use another configuration."""
        self._config = config
        self._changed.set()

    def suspect(self) -> None:
        """Read the settings soon, because a route, an address or a setting may have changed."""
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            seconds = 0.0
            if wishes(self._config):
                try:
                    seconds = await self._read()
                    self._trouble = ""
                except KernelError as error:
                    self._warn(f"{error}")
                except Exception as error:  # noqa: BLE001 - if the watch ended, replies could be lost unnoticed
                    self._warn(f"a fault of nftlb itself: {type(error).__name__}: {error}")
            await asyncio.sleep(REST * seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY if wishes(self._config) else None):
                    await self._changed.wait()

    def _warn(self, trouble: str) -> None:
        """Log why a read failed, unless the read before failed for the same reason: reads follow each second."""
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("the settings that `replies: prerouting` needs are not known: %s", trouble)

    async def _read(self) -> float:
        """Read the settings once. Return the seconds of processor time that this took."""
        config = self._config
        found, seconds = await asyncio.get_running_loop().run_in_executor(self._thread, _timed, self._find, config)
        if config is self._config:
            self._report(found)
        return seconds


def _timed(find: Callable[[Config], Obstacles], config: Config) -> tuple[Obstacles, float]:
    began = time.thread_time()
    return find(config), time.thread_time() - began
