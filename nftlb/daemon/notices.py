"""What `nftlb doctor` finds on this host for the configuration in use: looked for in a thread, and not too often."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.service import Notice, Notices

from .events import now, wall

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from nftlb.doctor import Finding
    from nftlb.model import Config

FRESH = 30.0
"""Seconds for which findings are given again. An examination tries the whole ruleset, without loading it."""


class NoticeBoard:
    """Gives the findings for `config()`. `examine` runs in a thread of `thread`.

    An examination continues when the clients that wait for it leave, so that clients which ask and leave start no
    second examination.
    """

    def __init__(
        self, config: Callable[[], Config], thread: Executor, examine: Callable[[Config], list[Finding]] | None = None
    ) -> None:
        self._config = config
        self._thread = thread
        self._examine = examine or _examine
        self._running: asyncio.Task[Notices] | None = None
        self._found: Notices | None = None
        self._about: Config | None = None
        self._until = 0.0

    async def notices(self) -> Notices:
        """The findings, at most FRESH seconds old, and about the configuration of the request or a later one."""
        found = self._fresh()
        if found is None:
            await self._examined()  # this examination may have begun before the request
            found = self._fresh() or await self._examined()
        return found

    def _fresh(self) -> Notices | None:
        return self._found if self._about is self._config() and now() < self._until else None

    async def _examined(self) -> Notices:
        """The result of the examination that runs, or of a new one."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._renew())
        return await asyncio.shield(self._running)

    async def _renew(self) -> Notices:
        config, at = self._config(), wall()
        findings = await asyncio.get_running_loop().run_in_executor(self._thread, self._look, config)
        self._found, self._about, self._until = Notices(at=at, findings=findings), config, now() + FRESH
        return self._found

    def _look(self, config: Config) -> tuple[Notice, ...]:
        try:
            return tuple(map(_notice, self._examine(config)))
        except (NftlbError, OSError) as error:
            message = f"this host can't be examined: {'; '.join(str(error).splitlines())}"
            return (Notice(subject="doctor", severity="error", message=message, fix=()),)


def _examine(config: Config) -> list[Finding]:
    from nftlb.doctor import examine  # noqa: PLC0415 - a start of the daemon must not wait for this import

    return examine(config)


def _notice(finding: Finding) -> Notice:
    return Notice(
        subject=finding.subject,
        severity=str(finding.severity),
        message=finding.message,
        fix=tuple(finding.fix.splitlines()),
    )
