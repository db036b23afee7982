"""What systemd hears."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from nftlb.daemon import systemd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield receiver


def test_assignments_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines of a call come as one datagram at the socket that systemd named."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with listening(path) as receiver:
        systemd.notify("READY=1", "STATUS=fine")

        assert b"READY=1\nSTATUS=fine" == receiver.recv(4096)


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ is an abstract one."""
    name = f"nftlb-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with listening(f"\0{name}") as receiver:
        systemd.notify("WATCHDOG=1")

        assert b"WATCHDOG=1" == receiver.recv(4096)


def test_a_reload_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With RELOADING goes the monotonic clock in microseconds, as Type=notify-reload asks for."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with listening(path) as receiver:
        before = time.monotonic_ns() // 1000
        systemd.reloading()
        after = time.monotonic_ns() // 1000
        first, second = receiver.recv(4096).decode().splitlines()

    assert "RELOADING=1" == first
    name, _, microseconds = second.partition("=")
    assert "MONOTONIC_USEC" == name
    assert before <= int(microseconds) <= after


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told, and nothing is said about it."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    systemd.notify("READY=1")

    assert [] == caplog.messages


@pytest.mark.parametrize("name", ["gone", "x" * 200])
def test_a_socket_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a line in the log, and no more."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / name))

    systemd.notify("WATCHDOG=1")

    ((_, level, message),) = caplog.record_tuples
    assert logging.WARNING == level
    assert message.startswith("systemd can't be told (WATCHDOG=1): ")
    assert "None" not in message


def test_a_deaf_systemd_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once its queue is full, a message is given up after a moment: the checks go on."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setattr(systemd, "_PATIENCE", 0.01)
    with listening(path):
        for _ in range(100_000):
            systemd.notify("WATCHDOG=1")
            if caplog.messages:
                break

    assert ["systemd can't be told (WATCHDOG=1): timed out"] == caplog.messages


@pytest.mark.parametrize(
    ("microseconds", "expected"), [("30000000", 15.0), ("0", None), ("", None), ("-5", None), ("soon", None)]
)
def test_watchdog(microseconds: str, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life go out twice in the time that systemd waits; without a time, none do."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)

    assert expected == systemd.watchdog_interval()


@pytest.mark.parametrize(("ours", "expected"), [(True, 1.0), (False, None)])
def test_the_watchdog_of_another_process(ours: bool, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd waits for from another process is none of ours."""
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + (not ours)))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")

    assert expected == systemd.watchdog_interval()
