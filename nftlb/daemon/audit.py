"""Who changed what: a line in the log and an event for each change that an operator asks for."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nftlb.model import EventKind, by_pool
from nftlb.printable import printable
from nftlb.service import Event

from .events import wall
from .history import BETWEEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model import BackendKey
    from nftlb.service import Actor

    from .events import Bus

_log = logging.getLogger(__name__)

DONE = "done"
_INTERRUPTED = "interrupted by the end of the daemon"
_LONGEST_NAME = 100
_MOST_NAMES = 4000
"""The most characters of the names of an event; it has more if they are those of one backend."""


@contextmanager
def audited(bus: Bus, by: Actor, what: str, backends: Iterable[BackendKey] = ()) -> Iterator[None]:
    """Log and publish that `by` asked for a change, and its result when the block ends: `done`, or the error.

    `what` is the change in words: `drain`, `weight 3`, `add`, `remove`, `reload`. The names of `backends` are those of
    the request, which need not exist. Each pool has its own line and event; many names have several.
    """
    result = _INTERRUPTED
    try:
        yield
        result = DONE
    except Exception as error:
        result = printable("; ".join(str(error).splitlines()) or type(error).__name__)
        raise
    finally:
        for pool, names in _subjects(backends):
            _report(bus, by, what, pool, names, result)


def _subjects(backends: Iterable[BackendKey]) -> Iterator[tuple[str, list[str]]]:
    """Each pool with as many of its backends as an event names. Without backends, one event without names."""
    pools = by_pool(backends)
    if not pools:
        yield "", []
    for pool, names in pools.items():
        some: list[str] = []
        length = 0
        for name in (printable(name[:_LONGEST_NAME]) for name in names):
            if some and length + len(name) > _MOST_NAMES:
                yield pool, some
                some, length = [], 0
            some.append(name)
            length += len(BETWEEN) + len(name)
        yield pool, some


def _report(bus: Bus, by: Actor, what: str, pool: str, names: list[str], result: str) -> None:
    several = BETWEEN.join(names) if len(names) > 1 else ""
    details = {
        "who": printable(by.who),
        "from": printable(by.origin),
        "what": what,
        "result": result[:1000],
        **({"backends": several} if several else {}),
    }
    event = Event(
        kind=EventKind.OPERATED,
        at=wall(),
        pool=printable(pool[:_LONGEST_NAME]),
        backend="" if several else "".join(names),
        reason=result,
        details=details,
    )
    fields = {"event": event.kind, "pool": event.pool, "backend": event.backend, **details}
    subject = "/".join(filter(None, (event.pool, event.backend)))
    _log.log(
        logging.INFO if result in {DONE, _INTERRUPTED} else logging.WARNING,
        "%s by %s (%s): %s",
        ": ".join(filter(None, (subject, f"{what} of {several}" if several else what))),
        *(details["who"], details["from"], result),
        extra={"fields": {key: value for key, value in fields.items() if value}},
    )
    bus.publish(event)
