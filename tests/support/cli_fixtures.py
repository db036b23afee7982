"""Fixtures for tests of commands, for a test module with `pytest_plugins = ("cli_fixtures",)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_api import TOKEN, Api, fake_api
from installed_command import BAD, GOOD, outcome

from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def good(tmp_path: Path) -> str:
    """The path of a valid configuration."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """The path of a configuration with three errors."""
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return str(path)


@pytest.fixture
def inside() -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`outcome`, in a separate network namespace."""
    with Namespace("cli") as namespace:
        yield lambda *arguments, **options: namespace.call(outcome, *arguments, **options)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The API of a simulated daemon, whose address is in the environment."""
    monkeypatch.delenv("NFTLB_TOKEN_FILE", raising=False)
    with fake_api() as served:
        monkeypatch.setenv("NFTLB_URL", served.where)
        yield served


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    """A file with the token that the simulated daemon accepts."""
    path = tmp_path / "token"
    path.write_text(f"# ours\n\n{TOKEN}\nanother\n")
    path.chmod(0o600)
    return str(path)
