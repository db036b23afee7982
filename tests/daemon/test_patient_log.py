"""The log on standard error: the daemon does not wait for its reader."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING

import pytest

from nftlb.daemon import patient_log
from nftlb.daemon.patient_log import MOST_BYTES, PatientHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE = "x" * 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            assert end == reader  # closed by the test


def log(handler: PatientHandler, text: str, *arguments: object) -> None:
    handler.handle(logging.LogRecord("nftlb", logging.INFO, "", 0, text, arguments, None))


def read_until(reader: int, end: str) -> list[str]:
    """Read whole lines until the end of a line."""
    text = b""
    while not text.endswith(f"{end}\n".encode()):
        text += os.read(reader, 1 << 16)
    return text.decode().splitlines()


def test_a_reader_that_reads_gets_lines_at_once(pipe: tuple[int, int]) -> None:
    """Without a wait there is no thread, so the order with other output stays."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    log(handler, "one %s", "line")
    assert not handler._kept
    assert b"one line\n" == os.read(reader, 100)


def test_an_entry_that_is_too_large_to_be_kept(pipe: tuple[int, int]) -> None:
    """The entry is lost and counted, and the next entry says so."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    log(handler, "y" * (2 * MOST_BYTES))
    assert not handler._kept
    while select.select([reader], [], [], 0)[0]:
        os.read(reader, 1 << 16)
    log(handler, "the end")
    assert ["the end"] == [line for line in read_until(reader, "the end") if "missing" not in line]
    assert not handler._lost


def test_lines_for_a_slow_reader_are_kept(pipe: tuple[int, int]) -> None:
    """More than a pipe holds: no call waits, and all lines arrive whole and in their order."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    lines = [f"{number} {LINE}" for number in range(500)]
    for line in lines:
        log(handler, line)
    log(handler, "end")
    assert [*lines, "end"] == read_until(reader, "end")
    handler.flush()
    log(handler, "later")  # the thread has ended, and the next line is written at once
    assert b"later\n" == os.read(reader, 100)


def test_what_is_kept_has_a_limit(pipe: tuple[int, int]) -> None:
    """Entries above the limit are lost, and the log says how many."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    count = 2 * MOST_BYTES // len(LINE)
    for number in range(count):
        log(handler, f"{number} {LINE}")
    *lines, last = read_until(reader, "missing here")
    assert len(lines) * len(LINE) > MOST_BYTES / 2
    assert [f"{number} {LINE}" for number in range(len(lines))] == lines
    assert f"nobody read this log for some time: {count - len(lines)} entries are missing here" == last


def test_a_slow_reader_learns_soon_what_is_missing(pipe: tuple[int, int]) -> None:
    """The line about lost entries is in its place, before later entries, although further lines are kept."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    for number in range(2 * MOST_BYTES // len(LINE)):
        log(handler, f"{number} {LINE}")
    text, deadline = b"", time.monotonic() + 30
    while handler._lost:
        assert time.monotonic() < deadline
        assert select.select([reader], [], [], 30)[0]
        text += os.read(reader, len(LINE))
    log(handler, "later")
    assert handler._kept
    assert b"missing here" not in text
    *_, about, last = read_until(reader, "later")
    assert about.endswith("entries are missing here")
    assert "later" == last
    handler.flush()


class WatchedCondition(threading.Condition):
    """Calls `watch` after each release."""

    def __init__(self, watch: Callable[[], None]) -> None:
        super().__init__()
        self._watch = watch

    def __exit__(self, *_: object) -> None:
        self.release()
        self._watch()


def test_an_entry_at_the_end_of_the_thread(pipe: tuple[int, int]) -> None:
    """An entry that comes right after the thread has written the last line starts a thread; the old thread ends."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    writers: list[threading.Thread] = []
    empty, go_on = threading.Event(), threading.Event()

    def watch() -> None:
        thread = threading.current_thread()
        if thread.name == "log" and not handler._kept and not writers:
            writers.append(thread)
            empty.set()
            go_on.wait(30)

    handler._changed = WatchedCondition(watch)
    for _ in range(100):
        log(handler, LINE)
    log(handler, "end")
    read_until(reader, "end")
    assert empty.wait(30)
    for _ in range(100):
        log(handler, LINE)
    log(handler, "last")
    go_on.set()
    writers[0].join(30)
    assert not writers[0].is_alive()
    assert [LINE] * 100 + ["last"] == read_until(reader, "last")
    handler.flush()


def test_the_end_does_not_wait_long(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """`flush`, which Python calls at the end, gives up."""
    monkeypatch.setattr(patient_log, "LAST_SECONDS", 0.01)
    handler = PatientHandler(pipe[1])
    for _ in range(100):
        log(handler, LINE)
    log(handler, "end")
    handler.flush()
    monkeypatch.setattr(patient_log, "LAST_SECONDS", 30)
    read_until(pipe[0], "end")
    handler.flush()
    assert not handler._kept


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    """Lines for nobody are dropped, also those that were kept."""
    reader, writer = pipe
    handler = PatientHandler(writer)
    for _ in range(100):
        log(handler, LINE)
    os.close(reader)
    handler.flush()
    log(handler, "for nobody")
    assert not handler._kept


def test_no_further_thread(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, lines that the reader does not take are lost, and nothing fails."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reader, writer = pipe
    handler = PatientHandler(writer)
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        for _ in range(100):
            log(handler, LINE)
    whole = os.read(reader, 1 << 20).count(b"\n")
    log(handler, "next")
    about = f"nobody read this log for some time: {100 - whole} entries are missing here"
    assert f"{about}\nnext\n".encode() == os.read(reader, 1 << 20)


def test_an_entry_with_wrong_arguments(pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    """Python reports the entry, and the program goes on."""
    log(PatientHandler(pipe[1]), "%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has no reader, but write(2) may wait: no call waits, and all lines arrive in their order."""
    file, go, write = tmp_path / "log", threading.Event(), os.write

    def hang(descriptor: int, text: bytes) -> int:
        assert go.wait(30)
        return write(descriptor, text)

    with file.open("wb") as opened:
        handler = PatientHandler(opened.fileno())
        monkeypatch.setattr(os, "write", hang)
        for number in range(10):
            log(handler, "line %d", number)
        assert b"" == file.read_bytes()
        monkeypatch.setattr(patient_log, "LAST_SECONDS", 30)
        go.set()
        handler.flush()
    assert [f"line {number}" for number in range(10)] == file.read_text().splitlines()
