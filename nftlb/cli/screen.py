"""A terminal that is drawn on as a whole, and is afterwards as it was before."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nftlb.cli.output import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# The alternate screen, no cursor, no wrapping of lines; and back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """What `screen` gives."""

    def __init__(self, keys: int | None, signals: socket.socket) -> None:
        self._keys = keys
        self._signals = signals

    def draw(self, lines: list[str]) -> None:
        """Show these lines and nothing else. Nothing is wiped first, so nothing flickers."""
        write(HOME + "\n".join(line + REST_OF_LINE for line in lines) + REST_OF_SCREEN, painted=True)

    def key(self, until: float) -> str | None:
        """Wait for a key, at most until `time.monotonic()` is `until`; "" if nothing came, None at a change of size."""
        watched: list[Any] = [self._signals] if self._keys is None else [self._signals, self._keys]
        ready, _, _ = select.select(watched, [], [], max(until - time.monotonic(), 0.0))
        if self._signals in ready:
            with suppress(BlockingIOError):
                self._signals.recv(1024)
            return None
        if ready and self._keys is not None:
            pressed = os.read(self._keys, 1024).decode("ascii", "replace")
            if not pressed:  # nobody will press anything any more
                self._keys = None
            return pressed
        return ""


@contextmanager
def screen() -> Iterator[Screen]:
    """Take the terminal over: keys come at once and aren't shown. SIGTERM and SIGHUP give it back too, and end us."""
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    before = None if keys is None else termios.tcgetattr(keys)
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _ignore)
    wakeup = signal.set_wakeup_fd(writing.fileno())
    try:
        if keys is not None:
            _quieten(keys)
        write(ENTER, painted=True)
        yield Screen(keys, reading)
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reading.close()
        writing.close()
        if keys is not None and before is not None:
            with suppress(termios.error):
                termios.tcsetattr(keys, termios.TCSADRAIN, before)
        write(LEAVE, painted=True)


def _quieten(keys: int) -> None:
    tty.setcbreak(keys)
    modes = termios.tcgetattr(keys)
    # ^Z would leave the shell with our screen.
    modes[6][termios.VSUSP] = os.fpathconf(keys, "PC_VDISABLE").to_bytes(1, "big")
    termios.tcsetattr(keys, termios.TCSADRAIN, modes)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ignore(_: int, __: FrameType | None) -> None:
    """Have the signal wake us up, which it only does if it is handled."""
