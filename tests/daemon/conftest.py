"""The fixture `world`, for the tests of the checker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checker_world import World

from nftlb.daemon import checker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(checker, "run_probe", made.probe)
    monkeypatch.setattr(checker, "probe_for", lambda check: check)
    yield made
    assert [] == made.running
