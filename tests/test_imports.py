"""Imports point one way: the core knows nothing of the shell, and no I/O."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "nftlb"

# The parts of nftlb that each part may import. `TYPE_CHECKING` imports count too, because they are dependencies.
MAY = {
    "printable": set(),
    "name_list": set(),
    "errors": {"printable"},
    "files": set(),
    "sockets": set(),
    "model": {"errors"},
    "config": {"errors", "files", "model", "printable"},
    "importer": {"errors", "config", "model", "printable"},
    "ruleset": set(),
    "compiler": {"errors", "model", "ruleset"},
    "explain": {"errors", "model", "ruleset", "compiler"},
    "kernel": {"errors", "model", "ruleset", "compiler", "sockets"},
    "swap": {"errors", "model", "ruleset", "compiler", "kernel"},
    "doctor": {"errors", "model", "ruleset", "compiler", "kernel", "requirements", "name_list"},
    "requirements": {
        "model",
        "compiler",
        "kernel",
        "name_list",
    },  # only the values of the kernel, and the names of tunnels
    "health": {"model", "name_list"},
    "own_thread": set(),
    "file_systems": {"own_thread"},
    "programs": {"model", "own_thread"},
    "probes": {"errors", "files", "file_systems", "model", "health", "printable", "programs"},
    "service": {"errors", "model"},
    "resolver": {"errors", "files", "model", "printable"},
    "client": {"errors", "model", "printable", "service", "sockets"},
    "metrics": {"errors", "model", "service"},
    "web": {"errors", "config", "model", "printable", "service", "metrics", "files", "file_systems", "own_thread"},
    "daemon": {
        "errors",
        "files",
        "file_systems",
        "printable",
        "model",
        "name_list",
        "config",
        "compiler",
        "doctor",
        "explain",
        "ruleset",
        "kernel",
        "swap",
        "requirements",
        "health",
        "probes",
        "own_thread",
        "programs",
        "resolver",
        "service",
        "sockets",
        "metrics",
        "web",
    },
    "lab": {"errors", "kernel"},
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
    return {name for file in files for name in imported_by(file)}


def imported_by(file: Path) -> set[str]:
    """The full names of all modules that a file imports, anywhere. Relative imports count too."""
    package = ("nftlb", *file.relative_to(ROOT).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *filter(None, [node.module])))
            # `from package import module` imports the module.
            names |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("part", MAY)
def test_only_downwards(part: str) -> None:
    """A part imports only parts below it."""
    ours = {name.split(".")[1] for name in imported(part) if name.startswith("nftlb.")}
    assert set() == ours - MAY[part] - {part}


@pytest.mark.parametrize("part", SILENT)
def test_the_core_does_no_input_or_output(part: str) -> None:
    """The core imports no module that does I/O."""
    assert set() == NOISY & {name.split(".")[0] for name in imported(part)}


def test_no_circles() -> None:
    """The parts have an order in which each part imports only those before it; relative imports count."""
    parts = {part: {name.split(".")[1] for name in imported(part) if name.startswith("nftlb.")} for part in MAY}
    order = TopologicalSorter({part: needs & set(MAY) - {part} for part, needs in parts.items()})
    assert set(MAY) == set(order.static_order())  # CycleError names a circle


def test_packages_have_no_circles_inside() -> None:
    """The modules of a package import each other in one direction only; imports for type checking count too."""
    files = {module_of(file): file for file in ROOT.rglob("*.py")}
    graph = {name: {needed for needed in imported_by(file) if needed in files} - {name} for name, file in files.items()}
    # A package's __init__ imports its modules, so every module of the package is below it.
    modules = {name: needs for name, needs in graph.items() if files[name].name != "__init__.py"}
    order = TopologicalSorter({name: {need for need in needs if need in modules} for name, needs in modules.items()})
    assert set(modules) <= set(order.static_order())


def module_of(file: Path) -> str:
    """The full name of the module in a file."""
    parts = ("nftlb", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_part_is_listed() -> None:
    """Every part of nftlb is in the table."""
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(MAY) == parts - {"__init__", "__main__", "cli"}
