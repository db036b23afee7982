"""Entries of the journal that have fields, so that `journalctl NFTLB_POOL=dns` finds them.

An entry about an event goes to journald's socket, with the fields of the event. All other entries go to standard error,
which is the journal too: journald knows the unit of a line there even if the process has ended meanwhile.
"""

from __future__ import annotations

import logging
import socket
import struct
from uuid import UUID, uuid5

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""The numbers of syslog, by the level of Python."""
SOCKET = "/run/systemd/journal/socket"
_KINDS = UUID("6f0b0c5e-6d1f-4b7e-9a43-2b8f1c9f7d10")


def message_id(event: str) -> str:
    """The MESSAGE_ID of a kind of event: 32 hexadecimal digits that never change."""
    return uuid5(_KINDS, event).hex


class JournalHandler(logging.Handler):
    """Sends entries with fields to the journal, and passes others, or what the journal does not take, on."""

    def __init__(self, others: logging.Handler, address: str = SOCKET) -> None:
        super().__init__()
        self._others = others
        self._address = address

    def emit(self, record: logging.LogRecord) -> None:
        """Send an entry. Never waits for the journal."""
        fields = getattr(record, "fields", None)
        if not fields or not self._sent(record, fields):
            self._others.handle(record)

    def _sent(self, record: logging.LogRecord, fields: dict[str, object]) -> bool:
        entry = {
            "MESSAGE": self.format(record),
            "PRIORITY": PRIORITIES.get(record.levelno, 6),
            "SYSLOG_IDENTIFIER": "nftlb",
            "MESSAGE_ID": message_id(str(fields["event"])),
            **{f"NFTLB_{name.upper()}": value for name, value in fields.items()},
        }
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto(b"".join(_field(name, str(value)) for name, value in entry.items()), self._address)
        except OSError:  # no journald, its queue is full, or the entry is too long for a datagram
            return False
        return True


def _field(name: str, value: str) -> bytes:
    """A field in journald's native protocol. A value with line breaks needs its length."""
    content = value.encode(errors="replace")
    if b"\n" in content:
        return name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
    return name.encode() + b"=" + content + b"\n"
