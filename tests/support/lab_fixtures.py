"""Fixtures that a test module asks for with `pytest_plugins = ("lab_fixtures",)`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from blaster import compile_blast

if TYPE_CHECKING:
    from blaster import Blaster


@pytest.fixture(scope="session")
def blaster(tmp_path_factory: pytest.TempPathFactory) -> Blaster:
    """Compile the blaster, once a session."""
    if not shutil.which("cc"):
        pytest.fail("no C compiler: apt-get install gcc libc6-dev")
    return compile_blast(tmp_path_factory.mktemp("blast") / "blast")
