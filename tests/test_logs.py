"""The log: a line an entry for people, objects for machines, priorities for the journal."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from nftlb.daemon import LogFormat, configure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    """Time in UTC, level, message."""
    configure(LogFormat.TEXT, "info")

    LOG.warning("dns/ns1: %s", "down", extra={"fields": ENTRY})

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning dns/ns1: down\n", capsys.readouterr().err)


def test_every_line_of_text_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    """A message of several lines, or a traceback, can be told apart from other entries line by line."""
    configure(LogFormat.TEXT, "info")

    LOG.error("one\ntwo\rthree")
    with failing():
        _ = 1 / 0

    lines = capsys.readouterr().err.split("\n")
    assert "" == lines.pop()
    assert all(re.match(r"\S+Z error   ", line) for line in lines)
    assert [" one", " two", " three", " it broke"] == [line[32:] for line in lines[:4]]
    assert lines[-1].endswith(" ZeroDivisionError: division by zero")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, with what the entry is about beside its message."""
    configure(LogFormat.JSON, "info")

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


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_the_journal_gets_priorities(
    level: str, priority: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where standard error leads to the journal, each line begins with syslog's number and has no time."""
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", journal)
        configure(LogFormat.TEXT, "debug")

        getattr(LOG, level)("one\ntwo")

        journal.seek(0)
        assert f"<{priority}>one\n<{priority}>two\n" == journal.read()


def test_standard_error_that_is_not_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose standard error was led elsewhere writes times: nobody would read the numbers."""
    with (tmp_path / "file").open("w+") as file:
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        monkeypatch.setattr(sys, "stderr", file)
        configure(LogFormat.TEXT, "info")

        LOG.info("hello")

        file.seek(0)
        assert re.fullmatch(r"\S+Z info    hello\n", file.read())


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """The level is nftlb's own; of libraries only warnings are heard."""
    configure(LogFormat.TEXT, "warning")

    LOG.info("no")
    LOG.warning("yes")
    logging.getLogger("aiohttp.access").info("no")
    logging.getLogger("asyncio").warning("slow")

    assert ["yes", "slow"] == [line.rsplit(None, 1)[1] for line in capsys.readouterr().err.splitlines()]
