"""The interface to the service manager: the log on standard error or in the journal, and messages of sd_notify(3).

Without systemd, the log has its own time stamps and no message is sent.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from enum import StrEnum

from nftlb.errors import NftlbError
from nftlb.own_thread import OwnThread
from nftlb.printable import printable

from .journal import PRIORITIES, JournalHandler
from .patient_log import PatientHandler

_log = logging.getLogger(__name__)

_NOTIFY_TIMEOUT = 1.0
"""Seconds that systemd may be too busy to take a message."""

_sender = OwnThread("systemd")
"""Sends messages in order. The event loop waits neither for systemd nor for the file system of its socket."""


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def configure_logging(form: LogFormat, level: str) -> None:
    """Write the log of nftlb and the warnings of its libraries to standard error."""
    handler = _standard_error()
    journal = _is_journal()
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text(journal=journal))
    if journal and form is LogFormat.TEXT:
        handler = JournalHandler(handler)
        handler.setFormatter(_Plain())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("nftlb").setLevel(level.upper())


_NO_FILE = (AttributeError, OSError, ValueError)
"""What asking for the descriptor of standard error raises if it is closed, or a stream in memory."""


def _standard_error() -> logging.Handler:
    try:
        return PatientHandler(sys.stderr.fileno())
    except _NO_FILE:
        return logging.StreamHandler(sys.stderr)


def _is_journal() -> bool:
    """Whether standard error is the journal, whose device and inode are in the environment."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except _NO_FILE:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Plain(logging.Formatter):
    """The message alone."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(_lines(self, record))


class _Text(logging.Formatter):
    """Lines `TIME LEVEL message`; for the journal, which has its own time, `<PRIORITY>message`."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        lines = _lines(self, record)
        if self._journal:
            return "\n".join(f"<{PRIORITIES.get(record.levelno, 6)}>{line}" for line in lines)
        return "\n".join(f"{_time(record)} {record.levelname.lower():<7} {line}" for line in lines)


class _Json(logging.Formatter):
    """One JSON object per line, with the message and the fields of the entry (`extra={"fields": {...}}`)."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": _time(record), "level": record.levelname.lower(), "message": "\n".join(_lines(self, record))}
        entry |= getattr(record, "fields", {})
        text = json.dumps(entry, ensure_ascii=False, default=str)
        return text if text.isprintable() else json.dumps(entry, default=str)


def _lines(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The lines of a message. Arguments can't add lines, except the lines of our own errors."""
    arguments = record.args
    if isinstance(arguments, tuple):
        record.args = tuple(map(_harmless, arguments))
    text = record.getMessage()
    record.args = arguments
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return [printable(line) for line in text.splitlines()] or [""]


def _harmless(argument: object) -> object:
    """Make an argument printable. Numbers stay numbers; the lines of our own errors are printable already."""
    if isinstance(argument, int | float):
        return argument
    return str(argument) if isinstance(argument, NftlbError) else printable(str(argument))


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"


def notify(*lines: str) -> None:
    """Send assignments such as `READY=1` soon; see sd_notify(3)."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        _sender.submit(_send, path, lines)


def _send(path: str, lines: tuple[str, ...]) -> None:
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_NOTIFY_TIMEOUT)
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _log.warning("can't send to systemd (%s): %s", " ".join(lines), error.strerror or error)


def reloading() -> None:
    """Send that the configuration is being read again. READY=1 ends this state."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between messages for the watchdog: half of the time after which systemd acts; None without a watchdog."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 2_000_000 if microseconds > 0 else None
