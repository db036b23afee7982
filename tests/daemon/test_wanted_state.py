"""Errors for unknown names, and for files that can't be read."""

from __future__ import annotations

import errno
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

import pytest

from nftlb.daemon import wanted_state as module
from nftlb.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


def test_an_unknown_name_is_compared_with_few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, which any client may send, is compared with few of ten thousand; a similar name is found."""
    compared = []

    def matches(name: str, known: Iterable[str], **options: int) -> list[str]:
        compared.append(list(known))
        return get_close_matches(name, compared[-1], **options)

    monkeypatch.setattr(module, "get_close_matches", matches)
    names = [f"pool{number}" for number in range(10_000)]
    for name in ("pool10000", "dns", "p" * 8000, "\u00e9"):
        module._similar(name, names)
    assert [50, 0, 0, 0] == [len(known) for known in compared]
    assert "; did you mean dns7?" == module._similar("dsn7", [*(f"x{name}" for name in names), "dns7"])


def test_a_file_without_a_thread_to_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lack of threads is a fault of the file, as if its file system did not answer."""

    def refuse(*_: object) -> bytes:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(module, "wait_for_answer", refuse)
    with pytest.raises(ConfigError, match=r"nftlb\.yaml.*temporarily unavailable"):
        module._read("/etc/nftlb/nftlb.yaml")
