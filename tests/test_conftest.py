"""The set-up of all tests in tests/conftest.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

HERE = Path(__file__).parent


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
    options = ["-c", "/dev/null", "--rootdir", ".", "-p", "conftest", "-o", "markers=slow", "--collect-only", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE / 'support'}"},
        capture_output=True,
        text=True,
        check=True,
    )

    tests = re.findall(r"^test_some\.py::(.*)$", done.stdout, re.MULTILINE)
    assert ["test_c", "test_d[x]", "test_d[y]", "test_a", "test_b"] == tests
