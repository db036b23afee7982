"""The package for a Debian, built once a session: as it is, and as the next version."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEXT = "9.9.9"
"""A version that is later than any."""


@cache
def packages(release: str) -> tuple[Path, Path]:
    """The .deb of this tree for a release, and one that is the same but for its version, NEXT."""
    directory = tempfile.mkdtemp(prefix="nftlb-packages-")
    atexit.register(shutil.rmtree, directory)
    builds = [
        subprocess.Popen(
            [ROOT / "tools/deb-for.sh", release, Path(sys.prefix), version, directory],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in ("", NEXT)
    ]
    built = []
    for build in builds:
        output, error = build.communicate()
        assert 0 == build.returncode, error
        built.append(Path(output.strip()))
    return built[0], built[1]
