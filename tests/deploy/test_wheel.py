"""The wheel in a separate environment, outside of this tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENT = """
from importlib.resources import files
for name in ("web/page/index.html", "cli/demo.yaml", "py.typed"):
    assert (files("nftlb") / name).stat().st_size >= 0, name
assert "/site-packages/" in str(files("nftlb"))
"""


@pytest.mark.timeout(600)
def test_the_wheel_installs_and_runs(tmp_path: Path) -> None:
    """The wheel of `make wheel` works in a clean environment, with the command and its data files."""

    def pip(python: Path | str, *words: str | Path) -> None:
        done = subprocess.run(
            [python, "-m", "pip", "-q", "--disable-pip-version-check", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr

    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".")
    (wheel,) = tmp_path.glob("nftlb-*-py3-none-any.whl")
    environment = tmp_path / "environment"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", environment], check=True)
    pip(environment / "bin/python", "install", "--require-hashes", "-r", "requirements/run.txt")
    pip(environment / "bin/python", "install", "--no-deps", wheel)

    def run(*words: str | Path) -> str:
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert wheel.name.split("-")[1] == run(environment / "bin/nftlb", "--version").split()[1]
    run(environment / "bin/python", "-I", "-c", CONTENT)
    assert (
        "nothing is prepared"
        in subprocess.run(
            [environment / "bin/nftlb-preload", "/etc/nftlb/nftlb.yaml", tmp_path],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    )
    assert "table ip nftlb" in run(environment / "bin/nftlb", "compile", ROOT / "rules/dns.yaml")
