"""Files on a file system that may never answer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from nftlb import file_systems
from nftlb.file_systems import WatchedFile, answer_about, wait_for_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNANSWERED = "its file system has not answered within 0.05 s, or this host is overloaded"


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A look at a file that ends with the block, and is waited for only briefly."""
    go = threading.Event()

    def look() -> int:
        assert go.wait(60)
        return 7

    with monkeypatch.context() as patch:
        patch.setattr(file_systems, "ANSWER_SECONDS", 0.05)
        try:
            yield look
        finally:
            go.set()


def test_a_file_system_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """TimeoutError; other directories answer; this one answers later."""
    with hanging(monkeypatch) as look:
        with pytest.raises(TimeoutError, match=UNANSWERED):
            asyncio.run(answer_about("/dead/a", look))
        with pytest.raises(TimeoutError, match=UNANSWERED):
            wait_for_answer("/dead/b", look)
        assert 8 == asyncio.run(answer_about("/other/a", lambda: 8))
    assert 9 == wait_for_answer("/dead/a", lambda: 9)


def test_a_dead_directory_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a look hangs, the next looks at its directory fail at once, and are not done later."""
    done: list[int] = []
    with hanging(monkeypatch) as look:
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
    """All who ask within a second share a look. A failed look is repeated."""
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
