"""The files that name what is installed: every file by its hash, complete, and in step with what asks for it."""

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
    "deploy/ansible/requirements.txt": "deploy/ansible/constraints.txt",
    "deploy/ansible/requirements-bookworm.txt": "deploy/ansible/constraints-bookworm.txt",
}
MEND = "run `make lock`"


def locked(file: str) -> dict[NormalizedName, Requirement]:
    """The packages of a file, by name; each has a version and hashes, and there is nothing else in the file."""
    found: dict[NormalizedName, Requirement] = {}
    text = (ROOT / file).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        named, *hashes = line.split(" --hash=")
        requirement = Requirement(named)
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), line
        assert canonicalize_name(requirement.name) not in found, line
        found[canonicalize_name(requirement.name)] = requirement
    return found


def version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


def asked(*parts: str) -> list[Requirement]:
    """What pyproject.toml asks for."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = {
        "run": said["project"]["dependencies"],
        "dev": said["project"]["optional-dependencies"]["dev"],
        "build": said["build-system"]["requires"],
    }
    return [Requirement(line) for part in parts for line in lines[part]]


def needed(names: list[Requirement], seen: set[NormalizedName] | None = None) -> set[NormalizedName]:
    """What these need on this machine, and what that needs."""
    found: set[NormalizedName] = set() if seen is None else seen
    for one in names:
        name = canonicalize_name(one.name)
        if name in found or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            below = requires(one.name) or []
        except PackageNotFoundError:
            continue
        needed([Requirement(line) for line in below], found)
    return found


@pytest.mark.parametrize("file", LOCKS)
def test_every_file_has_its_hash(file: str) -> None:
    """Each package has one version, and hashes; no server is named."""
    assert locked(file)
    assert "://" not in (ROOT / file).read_text()


@pytest.mark.parametrize(("file", "constraints"), LOCKS.items())
def test_versions_are_the_constraints(file: str, constraints: str) -> None:
    """Where constraints.txt names a version, it is that."""
    wanted = {
        canonicalize_name(one.name): version(one)
        for one in map(Requirement, (ROOT / constraints).read_text().splitlines()[1:])
    }
    differing = {
        name: version(one) for name, one in locked(file).items() if wanted.get(name, version(one)) != version(one)
    }
    assert {} == differing, MEND
    if file in {"requirements/dev.txt", "deploy/ansible/requirements.txt", "deploy/ansible/requirements-bookworm.txt"}:
        assert set() == wanted.keys() - locked(file).keys(), MEND


@pytest.mark.parametrize(
    ("file", "parts"), [("requirements/run.txt", ("run",)), ("requirements/dev.txt", ("run", "dev", "build"))]
)
def test_nothing_is_missing(file: str, parts: tuple[str, ...]) -> None:
    """What pyproject.toml asks for is there in a version that it takes, and all that this needs in turn."""
    there = locked(file)

    for one in asked(*parts):
        assert one.specifier.contains(version(there[canonicalize_name(one.name)])), MEND
    assert set() == needed(asked(*parts)) - there.keys(), MEND


def test_what_runs_is_what_was_tested() -> None:
    """A package for users has the versions that the tests run with."""
    used, tested = locked("requirements/run.txt"), locked("requirements/dev.txt")

    assert [] == [name for name, one in used.items() if version(tested[name]) != version(one)]


SCRIPTS = ["Makefile", *sorted(str(one.relative_to(ROOT)) for one in (ROOT / "tools").glob("*.sh"))]


@pytest.mark.parametrize("file", SCRIPTS)
def test_nothing_else_is_installed(file: str) -> None:
    """Whatever calls pip demands hashes, or takes what is there."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / file).read_text())

    for call in re.findall(r"-m pip\b.* (?:install|wheel|download)\b.*", text):
        nothing_new = "--no-deps" in call and ("--no-build-isolation" in call or "--no-index" in call)
        assert "--require-hashes" in call or nothing_new, call
