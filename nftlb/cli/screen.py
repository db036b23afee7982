"""The whole terminal: draws lines, and reads keys.

A library for terminals would make `nftlb top` slower to start than the rest of its work: CONTRIBUTING.md has the times.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import sys
import termios
import time
import tty
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nftlb.errors import NftlbError
from nftlb.printable import printable

from .output import write_error, write_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

QUIT_KEYS = ("q", "Q", "\x03", "\x04")
"""With ^C and ^D, for terminals that send them as keys."""
# The alternate screen, without cursor and without wrapping of lines; and back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

UP, DOWN, PAGE_UP, PAGE_DOWN, ESCAPE, BACKSPACE, RETURN = (
    "up", "down", "page up", "page down", "escape", "backspace", "return",
)  # fmt: skip
"""The names of keys that are not a character."""
_SEQUENCES = {
    "\x1b[A": UP,
    "\x1bOA": UP,
    "\x1b[B": DOWN,
    "\x1bOB": DOWN,
    "\x1b[5~": PAGE_UP,
    "\x1b[6~": PAGE_DOWN,
    "\x7f": BACKSPACE,
    "\b": BACKSPACE,
    "\r": RETURN,
    "\n": RETURN,
}


_CUT = re.compile(rb"(\x1b([\[O][^@-~]*)?|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})$")
"""The beginning of a sequence, or a character of several bytes, at the end of what was read."""
_REST = 0.05
"""Seconds to wait for the rest. After that, an escape is the key Escape."""


def keys_of(text: str) -> Iterator[str]:
    """The keys that a terminal has sent: characters, and names for other keys. Unknown sequences are left out."""
    at = 0
    while at < len(text):
        end = at + 1
        if text[at] == "\x1b" and text[at + 1 : at + 2] in {"[", "O"}:
            end = at + 2
            while end < len(text) and not "@" <= text[end] <= "~":
                end += 1
            end += 1
        piece = text[at:end]
        at = end
        if piece in _SEQUENCES:
            yield _SEQUENCES[piece]
        elif len(piece) == 1:
            yield ESCAPE if piece == "\x1b" else piece


class Screen:
    """The whole terminal: draws lines, and reads keys."""

    def __init__(self, keys: int | None, signals: socket.socket) -> None:
        self._keys = keys
        self._signals = signals

    @property
    def height(self) -> int:
        """The number of lines."""
        return shutil.get_terminal_size().lines

    def draw(self, lines: list[str]) -> None:
        """Show only these lines. The screen is not cleared before, so it does not flicker."""
        write_output(HOME + "\n".join(line + REST_OF_LINE for line in lines) + REST_OF_SCREEN, painted=True)

    def keys(self, until: float) -> list[str] | None:
        """Wait for keys until `time.monotonic()` is `until`; empty if there were none, None after a resize."""
        watched: list[Any] = [self._signals] if self._keys is None else [self._signals, self._keys]
        ready, _, _ = select.select(watched, [], [], max(until - time.monotonic(), 0.0))
        if self._signals in ready:
            with suppress(BlockingIOError):
                self._signals.recv(1024)
            return None
        if ready and self._keys is not None:
            pressed = self._pressed(self._keys)
            if not pressed:  # standard input has ended
                self._keys = None
                return None
            return list(keys_of(pressed)) or None
        return []

    @staticmethod
    def _pressed(keys: int) -> str:
        """What the terminal has sent. The rest of a sequence may come later than its beginning, through a network."""
        pressed = os.read(keys, 1024)
        while _CUT.search(pressed) and select.select([keys], [], [], _REST)[0] and (rest := os.read(keys, 1024)):
            pressed += rest
        return pressed.decode("utf-8", "replace")

    def forget_keys(self) -> None:
        """Drop the keys that `keys` has not returned yet."""
        if self._keys is not None:
            with suppress(termios.error):
                termios.tcflush(self._keys, termios.TCIFLUSH)


def watch_text(text: Callable[[], str], interval: float) -> None:
    """Show a text again and again, until q or ^C. `interval`: seconds between two calls of `text`.

    While `text` raises an NftlbError, the error is shown below the last text. Without a terminal, texts follow each
    other with an empty line between them, and errors are written to standard error, each once.
    """
    with suppress(KeyboardInterrupt):
        if on_terminal():
            with full_screen() as screen:
                _watch(screen, text, interval)
        else:
            _repeat(text, interval)


def _repeat(text: Callable[[], str], interval: float) -> None:
    trouble = ""
    while True:
        try:
            write_output(text() + "\n", painted=True)
            trouble = ""
        except NftlbError as error:
            if trouble != str(error):
                write_error(f"nftlb: {error}; trying again\n")
            trouble = str(error)
        time.sleep(interval)


def _watch(screen: Screen, text: Callable[[], str], interval: float) -> None:
    shown, trouble = "", ""
    while True:
        try:
            shown, trouble = text(), ""
        except NftlbError as error:  # the daemon may be restarting
            trouble = printable(f"! {error}".replace("\n", "; "))
        due = time.monotonic() + interval
        while True:
            lines = [*shown.splitlines(), *([trouble] if trouble else [])]
            height = screen.height
            if len(lines) > height:
                lines = [*lines[: height - 1], trouble or f"... {len(lines) - height + 1} more lines"]
            screen.draw(lines)
            keys = screen.keys(due)
            if keys == []:
                break
            if set(keys or ()) & set(QUIT_KEYS):
                return


def on_terminal() -> bool:
    """Whether standard output is a terminal that can move its cursor."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def full_screen() -> Iterator[Screen]:
    """Take the terminal over, and restore it afterwards, also after SIGTERM and SIGHUP, which end the command.

    Keys arrive at once and are not shown.
    """
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    before = None if keys is None else termios.tcgetattr(keys)
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    handlers = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, _ignore)
    wakeup = signal.set_wakeup_fd(writing.fileno())
    try:
        if keys is not None:
            _disable_echo(keys)
        write_output(ENTER, painted=True)
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
        write_output(LEAVE, painted=True)


def _disable_echo(keys: int) -> None:
    tty.setcbreak(keys)
    modes = termios.tcgetattr(keys)
    # ^Z would return to the shell with the alternate screen still shown.
    modes[6][termios.VSUSP] = os.fpathconf(keys, "PC_VDISABLE").to_bytes(1, "big")
    termios.tcsetattr(keys, termios.TCSADRAIN, modes)


def _exit(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ignore(_: int, __: FrameType | None) -> None:
    """Do nothing: a signal wakes select() up through the wakeup descriptor only if it has a handler."""
