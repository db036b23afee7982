"""The package for a Debian release, built once in a test run: in its own version, and as the next version.

A test module asks for it with `pytest_plugins = ("packages",)`.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Packages = Callable[[str], tuple[Path, Path]]

ROOT = Path(__file__).parents[2]
NEXT = "9.9.9"
"""A version that is later than any other."""


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Packages:
    """A function that returns the .deb of this tree for a release, and a .deb that differs only in its version, NEXT.

    Processes that test side by side share the packages: the first process that needs a release builds for all of them.
    """
    base = tmp_path_factory.getbasetemp()
    directory = base if worker_id == "master" else base.parent

    def of(release: str) -> tuple[Path, Path]:
        place = directory / f"packages-{release}"
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                _build(release, place.with_suffix(".new"))
                place.with_suffix(".new").rename(place)
        (next_one,) = place.glob(f"*_{NEXT}~*.deb")
        (this,) = set(place.glob("*.deb")) - {next_one}
        return this, next_one

    return of


def _build(release: str, directory: Path) -> None:
    builds = [
        subprocess.Popen(
            [ROOT / "tools/deb-for.sh", release, Path(sys.prefix), version, directory],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in ("", NEXT)
    ]
    for build in builds:
        _, error = build.communicate()
        assert 0 == build.returncode, error
