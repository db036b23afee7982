"""The files with the packages to install: complete, with hashes, and in accord with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {
    "requirements/dev.txt": "constraints.txt",
    "requirements/run.txt": "constraints.txt",
    "requirements/lock.txt": "constraints.txt",
    "requirements/bench.txt": "constraints.txt",
    "requirements/docs.txt": "constraints.txt",
    "deploy/ansible/requirements.txt": "deploy/ansible/constraints.txt",
    "deploy/ansible/requirements-bookworm.txt": "deploy/ansible/constraints-bookworm.txt",
}
FIX = "run `make lock`"


def locked(file: str) -> dict[NormalizedName, Requirement]:
    """The packages of a file by name. Each has a version and hashes, and the file has nothing else."""
    found: dict[NormalizedName, Requirement] = {}
    text = (ROOT / file).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        named, *hashes = line.split(" --hash=")
        requirement = Requirement(named)
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes), line
        assert canonicalize_name(requirement.name) not in found, line
        found[canonicalize_name(requirement.name)] = requirement
    return found


def version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


def asked(*parts: str) -> list[Requirement]:
    """The requirements in pyproject.toml."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = {
        "run": said["project"]["dependencies"],
        "dev": said["project"]["optional-dependencies"]["dev"],
        "build": said["build-system"]["requires"],
    }
    return [Requirement(line) for part in parts for line in lines[part]]


def needed(names: list[Requirement], seen: set[NormalizedName] | None = None) -> set[NormalizedName]:
    """All direct and indirect requirements on this machine."""
    found: set[NormalizedName] = set() if seen is None else seen
    for package in names:
        name = canonicalize_name(package.name)
        if name in found or (package.marker is not None and not package.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            below = requires(package.name) or []
        except PackageNotFoundError:
            continue
        needed([Requirement(line) for line in below], found)
    return found


@pytest.mark.parametrize("file", LOCKS)
def test_every_file_has_its_hash(file: str) -> None:
    """Each package has one version and hashes; no file names a server."""
    assert locked(file)
    assert "://" not in (ROOT / file).read_text()


@pytest.mark.parametrize(("file", "constraints"), LOCKS.items())
def test_versions_are_the_constraints(file: str, constraints: str) -> None:
    """A version in constraints.txt is the locked version."""
    wanted = {
        canonicalize_name(requirement.name): version(requirement)
        for requirement in map(Requirement, (ROOT / constraints).read_text().splitlines()[1:])
    }
    differing = {
        name: version(line) for name, line in locked(file).items() if wanted.get(name, version(line)) != version(line)
    }
    assert {} == differing, FIX
    if file in {"requirements/dev.txt", "deploy/ansible/requirements.txt", "deploy/ansible/requirements-bookworm.txt"}:
        assert set() == wanted.keys() - locked(file).keys(), FIX


@pytest.mark.parametrize(
    ("file", "parts"), [("requirements/run.txt", ("run",)), ("requirements/dev.txt", ("run", "dev", "build"))]
)
def test_all_requirements_are_locked(file: str, parts: tuple[str, ...]) -> None:
    """All direct and indirect requirements of pyproject.toml are there, in versions that it accepts."""
    there = locked(file)

    for requirement in asked(*parts):
        assert requirement.specifier.contains(version(there[canonicalize_name(requirement.name)])), FIX
    assert set() == needed(asked(*parts)) - there.keys(), FIX


def test_packages_have_the_tested_versions() -> None:
    """A package for users has the versions that the tests run with."""
    used, tested = locked("requirements/run.txt"), locked("requirements/dev.txt")

    assert [] == [name for name, line in used.items() if version(tested[name]) != version(line)]


SCRIPTS = ["Makefile", *sorted(str(script.relative_to(ROOT)) for script in (ROOT / "tools").glob("*.sh"))]


@pytest.mark.parametrize("file", SCRIPTS)
def test_pip_installs_locked_files_only(file: str) -> None:
    """Every call of pip demands hashes, or installs nothing from elsewhere."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / file).read_text())

    for call in re.findall(r"-m pip\b.* (?:install|wheel|download)\b.*", text):
        nothing_new = "--no-deps" in call and ("--no-build-isolation" in call or "--no-index" in call)
        assert "--require-hashes" in call or nothing_new, call
