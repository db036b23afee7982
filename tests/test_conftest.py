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
            from lab_parameters import offload_id, with_and_without_offload
            @with_and_without_offload
            def test_a(offload): pass
            @pytest.mark.parametrize(("mode", "offload"), [("nat", True), ("nat", False)], ids=offload_id)
            def test_b(mode, offload): pass
            @pytest.mark.parametrize("cell", ["x | no-offload", "x", "no-offloading"])
            def test_c(cell): pass
        """)
    )

    assert ["test_a[offload]", "test_b[nat-offload]", "test_c[x]", "test_c[no-offloading]"] == (
        collected(tmp_path, "--offload-only")
    )


def test_no_test_of_packets_without_offload_remains(tmp_path: Path) -> None:
    """An id in other words would hide that a test has no offload: here the values of the parameters count."""
    (tmp_path / "without_offload.py").write_text(
        dedent("""
            def lacks_offload(name, value):
                parts = value if isinstance(value, tuple) else (value,)
                return any(part is False for part in parts) and name in ("offload", "group_lab")

            def pytest_collection_finish(session):
                for item in session.items:
                    values = item.callspec.params if hasattr(item, "callspec") else {}
                    if any(lacks_offload(name, value) for name, value in values.items()):
                        print("WITHOUT:", item.nodeid)
        """)
    )

    def without_offload(*options: str) -> list[str]:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "without_offload",
                "--collect-only",
                "-q",
                HERE / "packets",
                *options,
            ],
            cwd=HERE.parent,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{tmp_path}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return re.findall(r"^WITHOUT: (.*)$", done.stdout, re.MULTILINE)

    assert len(without_offload()) > 100
    assert [] == without_offload("--offload-only")
