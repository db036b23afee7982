"""The log on standard error: a line an entry, as text or JSON, with priorities where the journal reads it."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from enum import StrEnum

from nftlb.errors import NftlbError
from nftlb.printable import printable

# The numbers of syslog, which journald takes in angle brackets.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def configure(form: LogFormat, level: str) -> None:
    """Send the log of nftlb, and warnings of its libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text(journal=_is_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("nftlb").setLevel(level.upper())


def _is_journal() -> bool:
    """Whether standard error leads to the journal: it says which file that is."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Text(logging.Formatter):
    """`TIME LEVEL message`; for the journal, which knows the time itself, `<PRIORITY>message`."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        lines = _lines(self, record)
        if self._journal:
            return "\n".join(f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" for line in lines)
        return "\n".join(f"{_time(record)} {record.levelname.lower():<7} {line}" for line in lines)


class _Json(logging.Formatter):
    """One object a line; what an entry is about (`extra={"fields": {...}}`) stands beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": _time(record), "level": record.levelname.lower(), "message": "\n".join(_lines(self, record))}
        entry |= getattr(record, "fields", {})
        text = json.dumps(entry, ensure_ascii=False, default=str)
        return text if text.isprintable() else json.dumps(entry, default=str)


def _lines(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The lines of a message. What was put into the message can't begin one, but for an error's own lines."""
    arguments = record.args
    if isinstance(arguments, tuple):
        record.args = tuple(map(_harmless, arguments))
    text = record.getMessage()
    record.args = arguments
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return [printable(line) for line in text.splitlines()] or [""]


def _harmless(argument: object) -> object:
    """A number stays one. The lines of an error are ours, and each is harmless by itself."""
    if isinstance(argument, int | float):
        return argument
    return str(argument) if isinstance(argument, NftlbError) else printable(str(argument))


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
