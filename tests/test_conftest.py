"""The set-up of all tests in tests/conftest.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

HERE = Path(__file__).parent


def collected(folder: Path, *options: str) -> list[str]:
    """The names of the tests that run, in their order."""
    options = ("-c", "/dev/null", "--rootdir", ".", "-p", "conftest", "-o", "markers=slow", *options)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--collect-only", "-q", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE / 'support'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return re.findall(r"^test_some\.py::(.*)$", done.stdout, re.MULTILINE)


def test_slow_tests_start_first(tmp_path: Path) -> None:
    """The tests with the mark come first, and all others stay in their order."""
    (tmp_path / "test_some.py").write_text(
        dedent("""
            import pytest
            def test_a(): pass
            def test_b(): pass
            @pytest.mark.slow
            def test_c(): pass
            @pytest.mark.slow
            @pytest.mark.parametrize("of", "xy")
            def test_d(of): pass
        """)
    )
    assert ["test_c", "test_d[x]", "test_d[y]", "test_a", "test_b"] == collected(tmp_path)


def test_tests_without_offload_are_left_out(tmp_path: Path) -> None:
    """With the option, each test with offload remains; a word that only begins like an id is no reason."""
    (tmp_path / "test_some.py").write_text(
        dedent("""
            import pytest
            @pytest.mark.parametrize("offload", ["wire", "offload", "wireguard"])
            def test_a(offload): pass
            @pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
            def test_b(offload): pass
            @pytest.mark.parametrize("cell", ["x | no checksum offload", "x"])
            def test_c(cell): pass
            @pytest.mark.parametrize("offload", ["no-offload", "offload"])
            def test_d(offload): pass
        """)
    )

    assert ["test_a[offload]", "test_a[wireguard]", "test_b[offload-on]", "test_c[x]", "test_d[offload]"] == (
        collected(tmp_path, "--offload-only")
    )
