"""Who changed what: a line in the log and an event for each change that an operator asks for."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nftlb.model import EventKind
from nftlb.printable import printable
from nftlb.service import Event

from .events import wall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.service import Actor

    from .events import Bus

_log = logging.getLogger(__name__)

DONE = "done"
_INTERRUPTED = "interrupted by the end of the daemon"
_LONGEST_NAME = 100
_LONGEST_CHANGE = 4000


@contextmanager
def audited(bus: Bus, by: Actor, what: str, pool: str = "", backend: str = "") -> Iterator[None]:
    """Log and publish that `by` asked for a change, and its result when the block ends: `done`, or the error.

    `what` is the change in words: `drain`, `weight 3`, `add`, `remove`, `reload`; for several backends with their
    names. The names are those of the request, which need not exist.
    """
    what = printable(what[:_LONGEST_CHANGE])
    result = _INTERRUPTED
    try:
        yield
        result = DONE
    except Exception as error:
        result = printable("; ".join(str(error).splitlines()) or type(error).__name__)
        raise
    finally:
        _report(bus, by, what, pool, backend, result)


def _report(bus: Bus, by: Actor, what: str, pool: str, backend: str, result: str) -> None:
    event = Event(
        kind=EventKind.OPERATED,
        at=wall(),
        pool=printable(pool[:_LONGEST_NAME]),
        backend=printable(backend[:_LONGEST_NAME]),
        reason=result,
        details={"who": printable(by.who), "from": printable(by.origin), "what": what, "result": result[:1000]},
    )
    fields = {"event": event.kind, "pool": event.pool, "backend": event.backend, **event.details}
    subject = "/".join(filter(None, (event.pool, event.backend)))
    _log.log(
        logging.INFO if result in {DONE, _INTERRUPTED} else logging.WARNING,
        "%s by %s (%s): %s",
        f"{subject}: {what}" if subject else what,
        *(event.details["who"], event.details["from"], result),
        extra={"fields": {key: value for key, value in fields.items() if value}},
    )
    bus.publish(event)
