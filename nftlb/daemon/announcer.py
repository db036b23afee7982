"""Tells what changed: a line in the log, an event for those who listen, the hook that the operator wants run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nftlb.service import Event, EventKind

from .clock import wall
from .hooks import Call

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.daemon.bus import Bus
    from nftlb.daemon.hooks import Hooks
    from nftlb.health import Change
    from nftlb.model import Config, Pool

_log = logging.getLogger(__name__)

_LEVELS = {EventKind.BACKEND_DOWN: logging.WARNING, EventKind.QUORUM_DOWN: logging.ERROR}


class Announcer:
    """Never waits for anyone."""

    def __init__(self, bus: Bus, hooks: Hooks) -> None:
        self._bus = bus
        self._hooks = hooks

    def tell(self, changes: Iterable[Change], config: Config) -> None:
        """Tell of these changes; `config` has the hooks."""
        for change in changes:
            subject = f"{change.pool}/{change.backend}" if change.backend else f"pool {change.pool}"
            quorum = "" if change.backend else "quorum "
            level = _LEVELS.get(change.kind, logging.INFO)
            fields = {
                "event": change.kind,
                "pool": change.pool,
                "backend": change.backend,
                "old": change.old,
                "new": change.new,
                "reason": change.reason,
            }
            extra = {"fields": {key: value for key, value in fields.items() if value}}
            _log.log(level, "%s: %s%s, was %s: %s", subject, quorum, change.new, change.old, change.reason, extra=extra)
            self._bus.publish(
                Event(
                    kind=change.kind,
                    at=wall(),
                    pool=change.pool,
                    backend=change.backend,
                    old=change.old,
                    new=change.new,
                    reason=change.reason,
                )
            )
            pool = config.pool(change.pool)
            argv = getattr(pool.hooks, change.kind, ()) if pool else ()
            if pool and argv:
                self._hooks.run(
                    Call((change.pool, change.backend), argv, _environment(change, pool), pool.hooks.capabilities)
                )


def _environment(change: Change, pool: Pool) -> dict[str, str]:
    backend = pool.backend(change.backend)
    return {
        "NFTLB_EVENT": change.kind,
        "NFTLB_POOL": change.pool,
        "NFTLB_BACKEND": change.backend,
        "NFTLB_ADDRESS": str(backend.address) if backend else "",
        "NFTLB_PORT": str(backend.port) if backend and backend.port is not None else "",
        "NFTLB_OLD": change.old,
        "NFTLB_NEW": change.new,
        "NFTLB_REASON": change.reason.replace("\0", ""),
    }
