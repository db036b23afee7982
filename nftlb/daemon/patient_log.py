"""A log handler that never waits for the reader of standard error.

If the reader of a pipe, or journald, stops reading, write(2) waits. The event loop would wait too, and no dead backend
would be removed. Here, lines that the reader does not take are kept, and a thread writes them later. A file always
takes lines, says poll(2), but its disk may hang: there, a thread writes all lines.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from collections import deque
from threading import Condition, Thread

MOST_BYTES = 1 << 20
"""Bytes of lines that are kept for a reader that does not read. Further entries are lost, and counted.

Entries are kept again when half of the lines are written: the log then has one line about many lost entries.
"""
LAST_SECONDS = 1.0
"""Seconds that the end of the process waits for the reader."""
_AT_ONCE = select.PIPE_BUF
"""Bytes that a pipe takes without waiting if poll(2) says that it can be written to; a Unix socket takes them too."""


class PatientHandler(logging.Handler):
    """Writes lines to a file descriptor: at once if it has a reader who takes them, otherwise from a thread."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._kept: deque[bytes] = deque()  # while it is not empty, a thread writes it
        self._size = 0
        self._lost = 0
        self._changed = Condition()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the lines of an entry. Never waits."""
        try:
            text = self._encoded(record)
        except Exception:  # noqa: BLE001 - as the handlers of Python: an entry with wrong arguments harms nothing else
            self.handleError(record)
            return
        with self._changed:
            if self._kept:
                self._keep(text)
                return
            lost = self._lost
            whole = self._missing() + text
            if rest := whole if self._is_file else self._write(whole, 0):
                unreported = lost if len(rest) > len(text) else 0
                self._keep(rest)
                if self._kept:
                    self._start_thread(unreported)
                else:  # the entry is too large to be kept
                    self._lost += unreported

    def flush(self) -> None:
        """Wait until all lines are written, but not long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._kept, LAST_SECONDS)

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _start_thread(self, lost: int) -> None:
        """Start the thread. `lost`: the lost entries that the kept line reports."""
        try:
            Thread(target=self._write_kept, name="log", daemon=True).start()
        except RuntimeError:  # this process may have no further thread now
            self._lost += lost + len(self._kept)
            self._kept.clear()
            self._size = 0

    def _keep(self, text: bytes) -> None:
        if self._lost or self._size + len(text) > MOST_BYTES:
            self._lost += 1
            return
        self._kept.append(text)
        self._size += len(text)

    def _missing(self) -> bytes:
        """A line about the lost entries, which then count as reported; empty if there are none."""
        lost, self._lost = self._lost, 0
        return self._encoded(_about(lost)) if lost else b""

    def _write(self, text: bytes, milliseconds: int | None) -> bytes:
        """Write a text, and return what the reader did not take within the time; None: wait. Nothing without a reader.

        Other threads may be in poll(2) too, so each call has its own object.
        """
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while text and poll.poll(milliseconds):
            try:
                text = text[os.write(self._descriptor, text[:_AT_ONCE]) :]
            except BlockingIOError:  # another process has written in between
                continue
            except OSError:  # there is no reader, or no space on the disk
                return b""
        return text

    def _write_kept(self) -> None:
        """Write the kept lines whenever the reader takes some, until there are no more. Runs in a thread."""
        with self._changed:
            text = self._kept[0]
        while text:
            self._write(text, None)
            text = self._next()

    def _next(self) -> bytes:
        """Forget the first line, which is written, and return the next; empty: the thread ends.

        All is one step: if no line is kept, an entry of another thread starts the next thread.
        """
        with self._changed:
            self._size -= len(self._kept.popleft())
            if self._lost and self._size <= MOST_BYTES // 2:
                self._keep(self._missing())
            if self._kept:
                return self._kept[0]
            self._changed.notify_all()
            return b""


def _about(lost: int) -> logging.LogRecord:
    words = "nobody read this log for some time: %d entries are missing here"
    return logging.LogRecord(__name__, logging.WARNING, "", 0, words, (lost,), None)
