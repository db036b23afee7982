"""Messages to systemd, and the lines of the log."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from nftlb.daemon import LogFormat, configure_logging, systemd
from nftlb.daemon.journal import JournalHandler, message_id
from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(30)
        yield receiver


def wait_until_sent() -> None:
    """Wait until the messages so far are sent."""
    systemd._sender.submit(int).result(30)


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
    """Without systemd nothing is sent and nothing is logged."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    systemd.notify("READY=1")
    wait_until_sent()

    assert [] == caplog.messages


@pytest.mark.parametrize("name", ["gone", "x" * 200])
def test_a_socket_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that can't be sent is one line in the log."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / name))

    systemd.notify("WATCHDOG=1")
    wait_until_sent()

    ((_, level, message),) = caplog.record_tuples
    assert logging.WARNING == level
    assert message.startswith("can't send to systemd (WATCHDOG=1): ")
    assert "None" not in message


def test_a_deaf_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If the queue of systemd is full, a message is dropped after a moment, and later messages are sent."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setattr(systemd, "_NOTIFY_TIMEOUT", 0.01)
    with listening(path):
        for _ in range(100_000):
            systemd.notify("WATCHDOG=1")
            wait_until_sent()
            if caplog.messages:
                break

    assert ["can't send to systemd (WATCHDOG=1): timed out"] == caplog.messages


def test_a_deaf_systemd_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message returns at once, and messages are sent in order."""
    go, sent = threading.Event(), []

    def send(_path: str, lines: tuple[str, ...]) -> None:
        assert go.wait(30)
        sent.append(lines)

    monkeypatch.setenv("NOTIFY_SOCKET", "@nobody")
    monkeypatch.setattr(systemd, "_send", send)
    for number in range(3):
        systemd.notify(f"STATUS={number}")
    assert [] == sent
    go.set()
    wait_until_sent()
    assert [("STATUS=0",), ("STATUS=1",), ("STATUS=2",)] == sent


@pytest.mark.parametrize(
    ("microseconds", "expected"), [("30000000", 15.0), ("0", None), ("", None), ("-5", None), ("soon", None)]
)
def test_watchdog(microseconds: str, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchdog messages are due twice in the time of systemd's watchdog; without a watchdog, never."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)

    assert expected == systemd.watchdog_interval()


@pytest.mark.parametrize(("ours", "expected"), [(True, 1.0), (False, None)])
def test_the_watchdog_of_another_process(ours: bool, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog for another process is ignored."""
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + (not ours)))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")

    assert expected == systemd.watchdog_interval()


LOG = logging.getLogger("nftlb.daemon.test")
ENTRY = {"event": "backend_down", "pool": "dns", "backend": "ns1"}


@pytest.fixture(autouse=True)
def _logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Outside the journal; afterwards logging is as it was."""
    root, ours = logging.getLogger(), logging.getLogger("nftlb")
    before = root.handlers[:], root.level, ours.level
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    yield
    root.handlers[:], level, own_level = before
    root.setLevel(level)
    ours.setLevel(own_level)


@contextmanager
def failing() -> Iterator[None]:
    try:
        yield
    except ZeroDivisionError:
        LOG.exception("it broke")


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A line has the time in UTC, the level and the message."""
    configure_logging(LogFormat.TEXT, "info")

    LOG.warning("dns/ns1: %s", "down", extra={"fields": ENTRY})

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning dns/ns1: down\n", capsys.readouterr().err)


def test_every_line_of_text_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    """A message of several lines, or a traceback, differs from other entries in each line."""
    configure_logging(LogFormat.TEXT, "info")

    LOG.error("one\ntwo\rthree")
    with failing():
        _ = 1 / 0

    lines = capsys.readouterr().err.split("\n")
    assert "" == lines.pop()
    assert all(re.match(r"\S+Z error   ", line) for line in lines)
    assert [" one", " two", " three", " it broke"] == [line[32:] for line in lines[:4]]
    assert lines[-1].endswith(" ZeroDivisionError: division by zero")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is one JSON object with the message and the fields of the entry."""
    configure_logging(LogFormat.JSON, "info")

    LOG.info("dns/ns1: down", extra={"fields": ENTRY})
    LOG.error("two\nlines, \u20ac")
    with failing():
        _ = 1 / 0

    transition, lines, broken = objects(capsys.readouterr().err)
    assert {"level": "info", "message": "dns/ns1: down", **ENTRY} == {
        key: value for key, value in transition.items() if key != "time"
    }
    assert ("error", "two\nlines, \u20ac") == (lines["level"], lines["message"])
    assert broken["message"].startswith("it broke\nTraceback (most recent call last):\n")
    assert broken["message"].endswith("\nZeroDivisionError: division by zero")


@contextmanager
def piped_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """A pipe, whose end for writing is standard error."""
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "w") as opened:
            monkeypatch.setattr(sys, "stderr", opened)
            yield reader, opened
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_the_journal_gets_priorities(level: str, priority: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the journal, each line begins with syslog's number and has no time."""
    with piped_log(monkeypatch) as (reader, writer):
        found = os.fstat(writer.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        configure_logging(LogFormat.TEXT, "debug")

        getattr(LOG, level)("one\ntwo")

        assert f"<{priority}>one\n<{priority}>two\n".encode() == os.read(reader, 4096)


def test_standard_error_that_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose standard error is not the journal writes times."""
    with piped_log(monkeypatch) as (reader, _):
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        configure_logging(LogFormat.TEXT, "info")

        LOG.info("hello")

        assert re.fullmatch(rb"\S+Z info    hello\n", os.read(reader, 4096))


def test_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that was started with standard error closed works, without a log."""
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging(LogFormat.TEXT, "info")

    LOG.error("for nobody")


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """The level applies to nftlb; libraries log warnings only."""
    configure_logging(LogFormat.TEXT, "warning")

    LOG.info("no")
    LOG.warning("yes")
    logging.getLogger("aiohttp.access").info("no")
    logging.getLogger("asyncio").warning("slow")

    assert ["yes", "slow"] == [line.rsplit(None, 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_entries_about_events_have_fields(tmp_path: Path) -> None:
    """An entry with fields goes to journald, in its native protocol; all other entries go to the other handler."""
    other = BufferingHandler(100)
    handler = JournalHandler(other, str(tmp_path / "journal"))
    plain = logging.LogRecord("nftlb", logging.INFO, "", 0, "plain", (), None)
    event = logging.LogRecord("nftlb", logging.ERROR, "", 0, "two\nlines", (), None)
    event.fields = {"event": "backend_down", "pool": "dns", "backend": "ns1"}

    handler.handle(event)  # no journald yet
    with listening(str(tmp_path / "journal")) as receiver:
        handler.handle(plain)
        handler.handle(event)
        received = receiver.recv(4096)

    assert [event, plain] == other.buffer
    assert (
        b"MESSAGE\n" + struct.pack("<Q", 9) + b"two\nlines\nPRIORITY=3\nSYSLOG_IDENTIFIER=nftlb\n"
        b"MESSAGE_ID=" + message_id("backend_down").encode() + b"\n"
        b"NFTLB_EVENT=backend_down\nNFTLB_POOL=dns\nNFTLB_BACKEND=ns1\n"
    ) == received


JOURNALD = """
mount -t tmpfs run /run && mkdir -p /run/systemd/journal /run/log/journal
echo 0123456789abcdef0123456789abcdef >/run/id && { [ ! -e /etc/machine-id ] || mount --bind /run/id /etc/machine-id; }
[ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup /sys/fs/cgroup
/lib/systemd/systemd-journald &
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
"$1" -c "$2" && journalctl --sync && journalctl --directory /run/log/journal --output json $3
"""
PROGRAM = """
import logging
from nftlb.daemon.journal import JournalHandler

record = logging.LogRecord("nftlb", logging.ERROR, "", 0, "down:\\nno answer", (), None)
record.fields = {"event": "backend_down", "pool": "dns", "backend": "ns1"}
JournalHandler(logging.NullHandler()).handle(record)
"""


def test_journald_stores_the_fields() -> None:
    """The real journald finds an entry by its fields and its MESSAGE_ID, and has the message with its line break."""
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    alone += [] if userns.permitted() else ["--user", "--map-root-user"]
    wanted = f"NFTLB_POOL=dns NFTLB_BACKEND=ns1 MESSAGE_ID={message_id('backend_down')}"
    done = subprocess.run(
        [*alone, "sh", "-c", JOURNALD, "sh", sys.executable, PROGRAM, wanted],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    entry = json.loads(done.stdout)
    assert ("down:\nno answer", "3", "nftlb") == tuple(
        entry[key] for key in ("MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER")
    )
