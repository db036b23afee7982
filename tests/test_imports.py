"""Imports point one way: the core knows nothing of the shell, and no I/O."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "nftlb"

# What each part of nftlb may import of the others. `TYPE_CHECKING` imports count too: they are dependencies as well.
MAY = {
    "printable": set(),
    "errors": {"printable"},
    "files": set(),
    "model": {"errors"},
    "config": {"errors", "files", "model"},
    "importer": {"errors", "model", "printable"},
    "ruleset": set(),
    "compiler": {"errors", "model", "ruleset"},
    "explain": {"errors", "model", "ruleset", "compiler"},
    "swap": {"errors", "ruleset", "kernel"},  # the swapper is handed its kernel: a Protocol
    "kernel": {"errors", "model", "ruleset", "compiler", "swap"},
    "doctor": {"errors", "model", "ruleset", "compiler", "kernel", "requirements"},
    "requirements": {"model", "kernel"},  # of the kernel only values
    "difference": {"errors", "model", "ruleset", "compiler", "kernel", "swap"},
    "apply": {"errors", "model", "ruleset", "compiler", "kernel", "swap", "difference"},
    "health": {"model", "compiler", "service"},
    "programs": {"model"},
    "probes": {"errors", "files", "model", "health", "printable", "programs"},
    "service": {"errors", "model"},
    "client": {"errors", "model", "printable", "service"},
    "metrics": {"errors", "model", "service"},
    "permissions": set(),
    "web": {"errors", "model", "service", "metrics", "permissions"},
    "daemon": {
        "errors",
        "files",
        "printable",
        "model",
        "config",
        "compiler",
        "ruleset",
        "kernel",
        "swap",
        "preload",
        "requirements",
        "apply",
        "health",
        "probes",
        "programs",
        "service",
        "metrics",
        "web",
    },
    "preload": {"kernel"},
    "lab": {"errors"},
    "demo": {"errors", "lab"},
}
SILENT = (
    "model",
    "ruleset",
    "compiler",
    "requirements",
    "explain",
    "importer",
    "health",
    "service",
)  # no sockets, files, clock, environment or log
NOISY = {"asyncio", "logging", "os", "pathlib", "random", "subprocess", "threading", "time"}


def imported(part: str) -> set[str]:
    """The full names of all modules that a part imports, anywhere."""
    path = ROOT / part
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return names


@pytest.mark.parametrize("part", MAY)
def test_only_downwards(part: str) -> None:
    """A part imports only those below it."""
    ours = {name.split(".")[1] for name in imported(part) if name.startswith("nftlb.")}
    assert set() == ours - MAY[part] - {part}


@pytest.mark.parametrize("part", SILENT)
def test_core_is_silent(part: str) -> None:
    """The core imports nothing that reads or changes the world."""
    assert set() == NOISY & {name.split(".")[0] for name in imported(part)}


def test_every_part_is_listed() -> None:
    """A new part has to find its place; only the command may use everything."""
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(MAY) == parts - {"__init__", "__main__", "cli"}
