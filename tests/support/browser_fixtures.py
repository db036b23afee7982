"""The browser of a module, for modules that ask with `pytest_plugins = ("browser_fixtures",)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from browser import browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The browser of a module. Its event loop runs in this thread, so it must end before tests that use asyncio."""
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running
