"""`nftlb top`: rates, the lines that it shows, and the terminal that it draws on."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from fake_api import NOW, Api, backend, fake_api, pool, status, troubled
from hypothesis import given, settings
from hypothesis import strategies as st
from installed_command import NFTLB

from nftlb.cli import main
from nftlb.cli.terminal import (
    TextStyle,
)
from nftlb.cli.top import MOST_FAULTS, Order, Sample, rate_lines, rate_rows
from nftlb.client import StatusView, read_status_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.service import Status


pytest_plugins = ("cli_fixtures",)

STATUS = ("GET", "/api/v1/status")


def seen(shown: Status) -> StatusView:
    return read_status_view(shown.model_dump(mode="json"))


def reading(at: float, *packets: int) -> Sample:
    backends = tuple(backend(f"ns{i}", i, packets=count, bytes=count * 100) for i, count in enumerate(packets, 1))
    return Sample(seen(status(pools=(pool(backends=backends),))), at)


def test_rates() -> None:
    """Differences over the time between two samples; none for a new backend or after a reset of its counters."""
    before, now = reading(10.0, 100, 100, 100), reading(12.0, 300, 50, 120, 7)
    found = {row.name: (row.packets, row.bits) for row in rate_rows(before, now, Order.NAME)}
    assert {
        "dns/ns1": (100.0, 80_000.0),
        "dns/ns2": (None, None),
        "dns/ns3": (10.0, 8000.0),
        "dns/ns4": (None, None),
    } == found
    assert [None] * 4 == [row.packets for row in rate_rows(None, now, Order.NAME)]
    assert [None] * 4 == [row.packets for row in rate_rows(replace(before, at=12.0), now, Order.NAME)]
    assert [] == rate_rows(before, now, Order.NAME, ["other"])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.RATE, ["ns2", "ns3", "ns1"]),
        (Order.PACKETS, ["ns1", "ns2", "ns3"]),
        (Order.NAME, ["ns1", "ns2", "ns3"]),
        (Order.STATE, ["ns1", "ns2", "ns3"]),
    ],
)
def test_order(order: Order, expected: list[str]) -> None:
    """The busiest backend first by default."""
    shown = rate_rows(reading(0, 900, 0, 0), reading(1, 900, 200, 100), order)
    assert expected == [row.backend.name for row in shown]


def test_order_by_state() -> None:
    """Backends that are down, then those without packets, then the rest."""
    shown = rate_rows(None, Sample(seen(troubled()), 0), Order.STATE)
    assert ["ns2", "ns4", "ns3", "ns1"] == [row.backend.name for row in shown]


def test_lines() -> None:
    """The daemon, the sum, and a row for each backend with the share that it should get and the share that it got."""
    now = reading(1, 300, 100)
    shown = rate_rows(reading(0, 0, 0), now, Order.RATE)
    assert [
        "nftlb 0.1.0, ready, running for 3d1h (pid 42)",
        "400 packets/s to 2 backends",
        "",
        "POOL/BACKEND  STATE  ADMIN    WT  SHARE    NOW  PKT/S  BIT/S  PACKETS  ADDRESS",
        "dns/ns1       ✓ up   enabled   1  50.0%  75.0%    300   240k      300  10.0.0.11:5353",
        "dns/ns2       ✓ up   enabled   1  50.0%  25.0%    100  80.0k      100  10.0.0.12:5353",
    ] == rate_lines(now, shown, NOW, TextStyle(width=100))
    assert ["dns/ns2       ✓ up   enabled   1  50.0%  25.0%    100  80.0k      100"] == rate_lines(
        now, shown, NOW, TextStyle(width=80)
    )[-1:]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(20, 200), st.integers(1, 50), st.booleans())
def test_lines_fit_the_terminal(height: int, width: int, count: int, sick: bool) -> None:
    """Never more lines than the terminal has; lines left out are counted."""
    now = Sample(seen(troubled()), 1) if sick else reading(1, *range(count))
    lines = rate_lines(now, rate_rows(None, now, Order.RATE), NOW, TextStyle(width=width), height)
    assert len(lines) <= height
    if len(lines) > MOST_FAULTS + 5:
        assert lines[-1].startswith(("... ", "dns/"))


def test_top_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Two samples, printed once as plain text; without `--once` too, if standard output is a pipe."""
    numbers = count(1000, 1000)

    def document() -> Any:
        number = next(numbers)
        return json.loads(status(pools=(pool(backends=(backend(packets=number, bytes=0),)),)).model_dump_json())

    api.answers[STATUS] = 200, document
    for arguments in (["--once"], ["-b"], []):
        assert 0 == main(["top", "--interval", "0.1", *arguments])
        out, error = capsys.readouterr()
        row = out.splitlines()[-1].split()
        assert ("", "dns/ns1", "100.0%") == (error, row[0], row[6])
        assert 1000 <= float(row[7].replace("k", "e3")) <= 10_000
        assert "\x1b" not in out
    assert 6 == len(api.asked)


class Terminal:
    """`nftlb top` on a pseudo-terminal."""

    def __init__(self, url: str) -> None:
        self._ours, self._its = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self._its)
        environment = {**os.environ, "NFTLB_URL": url, "TERM": "xterm", "LANG": "C.UTF-8"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            # A shell ignores SIGINT for programs in the background, and their children inherit that.
            ["env", "--default-signal=INT", "setsid", "--ctty", NFTLB, "top", "--interval", "0.1"],
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


@contextmanager
def live() -> Iterator[tuple[Terminal, Api]]:
    with fake_api() as served:
        terminal = Terminal(served.where)
        try:
            yield terminal, served
        finally:
            terminal.close()


@pytest.mark.parametrize(("keys", "ended"), [(b"q", 0), (b"\x03", 0)])
def test_top_quits(keys: bytes, ended: int) -> None:
    """By q or ^C, with status 0 and a restored terminal."""
    with live() as (terminal, _):
        terminal.see("\x1b[?1049h")
        terminal.see("dns/ns2")
        terminal.type(keys)
        assert ended == terminal.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_top_is_killed(number: signal.Signals) -> None:
    """SIGTERM and SIGHUP end it, and the terminal is restored too."""
    with live() as (terminal, _):
        terminal.see("dns/ns2")
        terminal.process.send_signal(number)
        assert 128 + number == terminal.end()


def test_top_updates() -> None:
    """Shows rates from the second sample on, uses a resized terminal, and waits for a daemon that restarts."""
    with live() as (terminal, served):
        terminal.see("0 packets/s to 2 backends")
        assert "10.0.0.11:5353" not in terminal.see("dns/ns2")
        terminal.resize(24, 120)
        terminal.see("10.0.0.11:5353")
        terminal.type(b"x")  # a key without a meaning
        served.answers[STATUS] = 500, {"error": "starting"}
        terminal.see("! the daemon refused: starting")
        served.show(status(pools=(pool("sip"),)))
        terminal.see("sip/ns2")
        terminal.type(b"q")
        assert 0 == terminal.end()
