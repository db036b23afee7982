"""Commands of nftlb, and other programs, on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from installed_command import NFTLB


class Terminal:
    """A command of nftlb on a pseudo-terminal, by default `top`. `url`: the address of the daemon."""

    def __init__(self, url: str, *arguments: str, program: str = NFTLB, **variables: str) -> None:
        self._ours, self._its = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self._its)
        environment = {**os.environ, "NFTLB_URL": url, "TERM": "xterm", "LANG": "C.UTF-8", **variables}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            # A shell ignores SIGINT for programs in the background, and their children inherit that.
            ["env", "--default-signal=INT", "setsid", "--ctty", program, *(arguments or ("top", "--interval", "0.1"))],
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env=environment,
        )
        self._shown = b""

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def see(self, expected: str) -> str:
        """Wait until `expected` is shown, and return the text up to it since the last call."""
        deadline = time.monotonic() + 30
        while (at := self._shown.find(expected.encode())) < 0:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._ours], [], [], 1)[0]:
                self._shown += os.read(self._ours, 1 << 16)
        at += len(expected.encode())
        text, self._shown = self._shown[:at].decode(), self._shown[at:]
        return text

    def end(self) -> int:
        """Wait for the end, check that the terminal's modes are restored, and return the exit status."""
        self.see("\x1b[?7h\x1b[?25h\x1b[?1049l")
        ended = self.process.wait(30)
        assert self.before == termios.tcgetattr(self._its)
        return ended

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._its)
