"""The costs of a packet that docs/choosing.md and docs/operations.md quote are those of docs/performance.md."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = runpy.run_path(str(ROOT / "tools/figures.py"))
MEASURED = FIGURES["measured"]((ROOT / "docs/performance.md").read_text())


@pytest.mark.parametrize("name", FIGURES["PAGES"])
def test_figures_are_those_of_the_measurement(name: str) -> None:
    """`tools/figures.py` would change nothing."""
    page = (ROOT / "docs" / name).read_text()

    assert FIGURES["PAGES"][name](page, MEASURED) == page, "run `.venv/bin/python tools/figures.py`"


@pytest.mark.parametrize("name", FIGURES["PAGES"])
def test_every_figure_is_written(name: str) -> None:
    """Each way is in the page, so another measurement changes each of the figures. IPVS is 1 in docs/choosing.md."""
    page = (ROOT / "docs" / name).read_text()
    others = {way: (cost + 1_000, "7.77") for way, (cost, _) in MEASURED.items()}

    changed = FIGURES["PAGES"][name](page, others)

    modes = [label for label in FIGURES["WAYS"] if label.startswith("`")]
    assert len(modes if name == "choosing.md" else FIGURES["WAYS"]) == sum(
        before != after for before, after in zip(page.splitlines(), changed.splitlines(), strict=True)
    )
