"""Files on a file system that may never answer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from nftlb import file_systems
from nftlb.file_systems import WatchedFile, answer_about, wait_for_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

UNANSWERED = "its file system has not answered within 0.05 s, or this host is overloaded"


@dataclass
class Look:
    """A look at a file that hangs."""

    began: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> int:
        self.began.set()
        assert self.go.wait(60)
        return 7


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """A look that ends with the block. Looks are waited for only briefly in the block, and patiently after it."""
    look = Look()
    monkeypatch.setattr(file_systems, "ANSWER_SECONDS", 0.05)
    try:
        yield look
    finally:
        monkeypatch.setattr(file_systems, "ANSWER_SECONDS", 60)
        look.go.set()


def test_a_file_system_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """TimeoutError; other directories answer; this one answers later."""
    with hanging(monkeypatch) as look:
        with pytest.raises(TimeoutError, match=UNANSWERED):
            asyncio.run(answer_about("/dead/a", look))
        with pytest.raises(TimeoutError, match=UNANSWERED):
            wait_for_answer("/dead/b", look)
        monkeypatch.setattr(file_systems, "ANSWER_SECONDS", 60)
        assert 8 == asyncio.run(answer_about("/other/a", lambda: 8))
    assert 9 == wait_for_answer("/dead/a", lambda: 9)


def test_a_dead_directory_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a look hangs, the next looks at its directory fail at once, and are not done later."""
    done: list[int] = []
    with hanging(monkeypatch) as look:
        while not look.began.is_set():  # on a busy machine, the time can be over before the look begins
            with pytest.raises(TimeoutError):
                wait_for_answer("/dead/a", look)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                wait_for_answer("/dead/a", lambda: done.append(1))
            with pytest.raises(TimeoutError):
                asyncio.run(answer_about("/dead/a", lambda: done.append(1)))
    assert 9 == wait_for_answer("/dead/a", lambda: 9)
    assert [] == done


def test_a_watched_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """All who ask within a time share a look. A failed look is repeated."""
    monkeypatch.setattr(file_systems, "FRESH", 60)
    monkeypatch.setattr(file_systems, "ANSWER_SECONDS", 60)
    looks = iter(["first", "second", "third"])

    def look() -> str:
        found = next(looks)
        if found == "second":
            raise FileNotFoundError
        return found

    async def test() -> list[str]:
        watched = WatchedFile("/file", look)
        found = [await watched.now(), await watched.now()]
        monkeypatch.setattr(file_systems, "FRESH", 0.0)
        with pytest.raises(FileNotFoundError):
            await watched.now()
        return [*found, await watched.now()]

    assert ["first", "first", "third"] == asyncio.run(test())
