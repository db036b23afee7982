"""Names of the product: no public class or function has the name of another."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1] / "nftlb"
ALLOWED: dict[str, str] = {}
"""Names that several modules may define, each with the reason. At most five."""


def definitions() -> dict[str, list[str]]:
    """The modules that define each public class and function at the top level, by name."""
    found = defaultdict(list)
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                found[node.name].append(str(file.relative_to(ROOT)))
    return found


def test_names_have_one_meaning() -> None:
    """A reader, or a search, finds one definition for each name."""
    repeated = {name: modules for name, modules in definitions().items() if len(modules) > 1}
    assert {} == {name: modules for name, modules in repeated.items() if name not in ALLOWED}
    assert [] == [name for name in ALLOWED if name not in repeated], "no longer needed in ALLOWED"


def test_few_exceptions() -> None:
    """More than five allowed names would be a habit."""
    assert len(ALLOWED) <= 5
