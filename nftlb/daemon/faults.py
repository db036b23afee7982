"""What of the world does not work now: each fault is told when it begins and ends, and shown between."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nftlb.service import Event, EventKind, Fault

from .clock import wall

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


class Faults:
    """The faults, by what they are about."""

    def __init__(self, publish: Callable[[Event], None]) -> None:
        self._publish = publish
        self._present: dict[str, Fault] = {}

    def all(self) -> tuple[Fault, ...]:
        return tuple(self._present.values())

    def set(self, what: str, message: str) -> None:
        """Note that something does not work. Told again only if the message is another one."""
        now = wall()
        before = self._present.get(what)
        if before is not None and before.message == message:
            return
        self._present[what] = Fault(what=what, message=message, since=before.since if before else now)
        _log.error("%s: %s", what, message)
        self._publish(Event(kind=EventKind.FAULT, at=now, reason=message, details={"what": what}))

    def clear(self, what: str) -> None:
        """Note that it works, again."""
        if self._present.pop(what, None) is not None:
            _log.info("%s: works again", what)
            self._publish(Event(kind=EventKind.FAULT_GONE, at=wall(), details={"what": what}))
