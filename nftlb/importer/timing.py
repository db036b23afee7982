"""When keepalived checks: what a virtual_server hands to its real servers, and these to their checks. No I/O."""

from __future__ import annotations

import re
from collections import ChainMap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model.reading import show

from . import read
from .remark import fault
from .said import Said, ignoring, truth, value

if TYPE_CHECKING:
    from .draft import Notes
    from .statements import Statement

DELAY_LOOP = 60_000
CONNECT_TIMEOUT = 5_000
TIMERS = {"delay_loop", "connect_timeout", "delay_before_retry"}
KEYS = TIMERS | {"retry", "nb_get_retry", "alpha", "warmup"}
_ZERO_IS_A_TIME = {"delay_before_retry"}
_LONGEST_CONNECT = 4_294_967
_LONGEST = 24 * 3_600_000
_SHORTEST = 10
_MOST = 2**32 - 1
_TIMER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")

Values: TypeAlias = "ChainMap[str, int]"
"""Milliseconds, the number of retries, and `alpha` as 0 or 1. What a level does not say, the one around it does."""


@dataclass(frozen=True)
class Timing:
    """`service_delay` is the virtual_server's own delay_loop, whatever other levels say."""

    values: Values = field(default_factory=ChainMap)
    service_delay: int = DELAY_LOOP

    def inner(self, values: dict[str, int]) -> Timing:
        return Timing(self.values.new_child(values), self.service_delay)


def of_service(values: dict[str, int]) -> Timing:
    return Timing(ChainMap(values), values.get("delay_loop", DELAY_LOOP))


class Level:
    """Reads the timing of one block."""

    def __init__(self, notes: Notes, said: Said, *, least_retry: int, alpha_has_value: bool = True) -> None:
        self._notes = notes
        self._said = said
        self._least_retry = least_retry
        self._alpha_has_value = alpha_has_value
        self.values: dict[str, int] = {}

    def take(self, one: Statement) -> None:
        if one.key == "warmup":
            self._notes.missing(one.line, f"{one}: first checks are spread anyway")
        elif one.key == "alpha":
            self._alpha(one)
        elif one.key in {"retry", "nb_get_retry"}:
            text = value(one, self._notes.file)
            with ignoring(self._notes, one):
                found = read.number(text, self._notes.file, one.line, self._least_retry, _MOST)
                self._keep("retry", one, found)
        else:
            text = value(one, self._notes.file)
            with ignoring(self._notes, one):
                found = self._milliseconds(one, text)
                self._keep(one.key, one, within(self._notes, one, found))

    def _keep(self, key: str, one: Statement, found: int) -> None:
        self._said.last(key, one)
        self.values[key] = found

    def _alpha(self, one: Statement) -> None:
        if not self._alpha_has_value:
            self._keep("alpha", one, 1)
            if one.values and one.values[0].lower() in {"0", "off", "false", "no"}:
                self._notes.changed(one.line, f"{one}: on, since keepalived reads no word behind the service's alpha")
            return
        with ignoring(self._notes, one):
            self._keep("alpha", one, int(truth(one, self._notes.file)))

    def _milliseconds(self, one: Statement, text: str) -> int:
        found = milliseconds(one, text, self._notes.file)
        if found == 0 and one.key not in _ZERO_IS_A_TIME:
            raise fault(self._notes.file, one.line, f"{show(text)} is no time to wait; allowed: more than 0")
        if one.key == "connect_timeout" and found > _LONGEST_CONNECT:
            raise fault(self._notes.file, one.line, f"{show(text)} is too long; allowed: up to 4294 seconds")
        return found


def milliseconds(one: Statement, text: str, file: str) -> int:
    """Seconds, with a fraction; a little is a millisecond at least."""
    if not _TIMER.fullmatch(text):
        raise fault(file, one.line, f"{show(text)} is not a time; allowed: seconds, such as 3 or 0.5")
    seconds = float(text)
    return max(round(seconds * 1000), 1) if seconds else 0


def within(notes: Notes, one: Statement, found: int) -> int:
    """The nearest time that we can have."""
    nearest = min(max(found, _SHORTEST), _LONGEST)
    if nearest != found:
        notes.changed(one.line, f"{one} is {duration(nearest)} here; allowed: 10ms to 24h")
    return nearest


def duration(found: int) -> str:
    """As the configuration writes it."""
    seconds, rest = divmod(found, 1000)
    return f"{found}ms" if rest else f"{seconds}s"
