"""How the statements of a keepalived block are read: values, repeated statements, and the timing of checks. No I/O.

Where keepalived ignores a statement, the import ignores it too, and makes a remark.
"""

from __future__ import annotations

import re
from collections import ChainMap
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from nftlb.config.reading import shown_duration
from nftlb.errors import ConfigError
from nftlb.printable import show

from .draft import bad_text, parse_address, parse_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import IPAddress

    from .draft import Notes
    from .keepalived_statements import Statement

_TRUE, _FALSE = {"on", "true", "yes"}, {"off", "false", "no"}


@contextmanager
def ignoring_bad_value(notes: Notes, statement: Statement) -> Iterator[None]:
    """Turn an error about a value into a remark: keepalived complains about the value, and goes on without it."""
    try:
        yield
    except ConfigError as error:
        notes.missing(statement.line, f"{statement}: {error.problems[0].message}; keepalived ignores this value")


def required_value(statement: Statement) -> str:
    """Return the value of a statement. ConfigError if it has none: keepalived does not start then."""
    if not statement.values:
        raise bad_text(statement.line, f"{statement.key} has no value; allowed: {statement.key} VALUE")
    return statement.values[0]


def optional_number(statement: Statement, notes: Notes, low: int, high: int) -> int | None:
    """Return the number of a statement; None, with a remark, for a value that keepalived ignores."""
    text = required_value(statement)
    with ignoring_bad_value(notes, statement):
        return parse_number(text, statement.line, low, high)
    return None


def optional_address(statement: Statement, notes: Notes) -> IPAddress | None:
    """Return the address of a statement; None, with a remark, for a value that keepalived ignores."""
    text = required_value(statement)
    with ignoring_bad_value(notes, statement):
        return parse_address(text, statement.line)
    return None


def optional_name(statement: Statement, notes: Notes) -> str | None:
    """Return the name of a statement; None, with a remark, where the name is missing."""
    if not statement.values:
        notes.missing(statement.line, f"{statement}: it has no value; keepalived ignores it")
        return None
    return statement.values[0]


def is_on(statement: Statement) -> bool:
    """Whether an option is on. A keyword without a value is on."""
    if not statement.values:
        return True
    word = statement.values[0].lower()
    if word not in _TRUE | _FALSE:
        message = f"{show(word)} is not a boolean; allowed: on, off, true, false, yes, no"
        raise bad_text(statement.line, message)
    return word in _TRUE


class EffectiveStatements:
    """The statement of each keyword of a block that has an effect. The other statements become remarks."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._effective: dict[str, Statement] = {}

    def keep_last(self, key: str, statement: Statement) -> None:
        """Replace an earlier statement that sets the same."""
        earlier = self._effective.get(key)
        if earlier is not None:
            self._notes.missing(earlier.line, f"{earlier}: line {statement.line} replaces this")
        self._effective[key] = statement

    def keep_first(self, key: str, statement: Statement) -> bool:
        """Prefer an earlier statement that sets the same; return whether there is none."""
        earlier = self._effective.setdefault(key, statement)
        if earlier is not statement:
            self._notes.missing(statement.line, f"{statement}: keepalived uses line {earlier.line}, which comes first")
        return earlier is statement


_CONNECTING = {"bind_port", "log_all_failures"}
_HTTP = _CONNECTING | {"fast_recovery", "http_protocol"}
WITHOUT_COUNTERPART = {
    "virtual_server": {
        "ha_suspend", "hashed", "ip_family", "omega", "persistence_engine", "smtp_alert", "snmp_name",
        "sorry_server_inhibit",
    },
    "real_server": {"lthreshold", "smtp_alert", "snmp_name", "uthreshold"},
    "HTTP_GET": _HTTP,
    "SSL_GET": _HTTP,
    "url": {"regex_max_offset", "regex_min_offset", "regex_no_match", "regex_options", "regex_stack"},
    "TCP_CHECK": _CONNECTING,
    "SMTP_CHECK": _CONNECTING | {"helo_name"},
    "DNS_CHECK": _CONNECTING,
    "UDP_CHECK": _CONNECTING | {"max_reply_length", "min_reply_length"},
    "PING_CHECK": _CONNECTING | {"connect_port"},
    "MISC_CHECK": {"log_all_failures", "user"},
}  # fmt: skip
"""By block, the keywords of keepalived 2.2 that nftlb has no counterpart for."""


def note_without_counterpart(statement: Statement, block: str, notes: Notes) -> None:
    """Note a statement that is not taken over, and whether keepalived knows the keyword in this block."""
    known = statement.key in WITHOUT_COUNTERPART[block] or statement.key.startswith("include")
    where = "" if block in {"virtual_server", "real_server"} else f" of {block}"
    unknown = "" if known else ": not a keyword of keepalived 2.2 in this block"
    notes.missing(statement.line, f"{statement}{where}{unknown}")


# --- the timing of checks ---------------------------------------------------------------------------------------------

DELAY_LOOP = 60_000
CONNECT_TIMEOUT = 5_000
_TIMERS = {"delay_loop", "connect_timeout", "delay_before_retry"}
TIMING_KEYS = _TIMERS | {"retry", "nb_get_retry", "alpha", "warmup"}
_ZERO_IS_A_TIME = {"delay_before_retry"}
_LONGEST_CONNECT = 4_294_967
_LONGEST = 24 * 3_600_000
_SHORTEST = 10
_MOST_RETRIES = 2**32 - 1
_TIMER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")

TimingValues: TypeAlias = "ChainMap[str, int]"
"""Milliseconds, the number of retries, and `alpha` as 0 or 1. A block without a value has that of the outer block."""


@dataclass(frozen=True)
class Timing:
    """The timing of a block. `service_delay` is the delay_loop of the virtual_server, whatever inner blocks set."""

    values: TimingValues = field(default_factory=ChainMap)
    service_delay: int = DELAY_LOOP

    @classmethod
    def of_service(cls, values: dict[str, int]) -> Timing:
        return cls(ChainMap(values), values.get("delay_loop", DELAY_LOOP))

    def inner(self, values: dict[str, int]) -> Timing:
        """The timing of a block within this one."""
        return Timing(self.values.new_child(values), self.service_delay)


class TimingReader:
    """Reads the timing that one block sets."""

    def __init__(
        self, notes: Notes, effective: EffectiveStatements, *, least_retry: int, alpha_has_value: bool = True
    ) -> None:
        self._notes = notes
        self._effective = effective
        self._least_retry = least_retry
        self._alpha_has_value = alpha_has_value
        self.values: dict[str, int] = {}

    def read(self, statement: Statement) -> None:
        if statement.key == "warmup":
            self._notes.missing(statement.line, f"{statement}: nftlb always spreads the first checks")
        elif statement.key == "alpha":
            self._alpha(statement)
        elif statement.key in {"retry", "nb_get_retry"}:
            found = optional_number(statement, self._notes, self._least_retry, _MOST_RETRIES)
            if found is not None:
                self._keep("retry", statement, found)
        else:
            text = required_value(statement)
            with ignoring_bad_value(self._notes, statement):
                self._keep(
                    statement.key,
                    statement,
                    _nearest_allowed(self._milliseconds(statement, text), statement, self._notes),
                )

    def _keep(self, key: str, statement: Statement, found: int) -> None:
        self._effective.keep_last(key, statement)
        self.values[key] = found

    def _alpha(self, statement: Statement) -> None:
        if not self._alpha_has_value:
            self._keep("alpha", statement, 1)
            if statement.values and statement.values[0].lower() in {"0", "off", "false", "no"}:
                self._notes.changed(
                    statement.line,
                    f"{statement}: it is on, because keepalived ignores the value of the service's alpha",
                )
            return
        with ignoring_bad_value(self._notes, statement):
            self._keep("alpha", statement, int(is_on(statement)))

    def _milliseconds(self, statement: Statement, text: str) -> int:
        """Read seconds, perhaps with a fraction. A time above 0 is at least a millisecond."""
        if not _TIMER.fullmatch(text):
            raise bad_text(statement.line, f"{show(text)} is not a time; allowed: seconds, such as 3 or 0.5")
        seconds = float(text)
        found = max(round(seconds * 1000), 1) if seconds else 0
        if found == 0 and statement.key not in _ZERO_IS_A_TIME:
            raise bad_text(statement.line, f"{show(text)} is not a time above 0; allowed: more than 0 seconds")
        if statement.key == "connect_timeout" and found > _LONGEST_CONNECT:
            raise bad_text(statement.line, f"{show(text)} is too long; allowed: up to 4294 seconds")
        return found


def _nearest_allowed(milliseconds: int, statement: Statement, notes: Notes) -> int:
    """Return the nearest duration that nftlb allows; a remark tells of the difference."""
    nearest = min(max(milliseconds, _SHORTEST), _LONGEST)
    if nearest != milliseconds:
        notes.changed(statement.line, f"{statement} is {shown_duration(nearest)} here; allowed: 10ms to 24h")
    return nearest
