"""What `nftlb doctor` finds on this host for the configuration in use: looked for in a thread, and not too often."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.service import Notice, Notices

from .events import now, wall

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.doctor import Finding
    from nftlb.model import Config

FRESH = 30.0
"""Seconds for which findings are given again. An examination tries the whole ruleset, without loading it."""


class NoticeBoard:
    """Gives the findings for `config()`. `examine` runs in a thread."""

    def __init__(self, config: Callable[[], Config], examine: Callable[[Config], list[Finding]] | None = None) -> None:
        self._config = config
        self._examine = examine or _examine
        self._lock = asyncio.Lock()
        self._found: Notices | None = None
        self._about: Config | None = None
        self._until = 0.0

    async def notices(self) -> Notices:
        """The findings, at most FRESH seconds old, and about the configuration of now."""
        async with self._lock:
            config = self._config()
            if self._found is None or self._about is not config or now() >= self._until:
                at = wall()
                findings = await asyncio.to_thread(self._look, config)
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
