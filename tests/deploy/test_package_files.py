"""The files of the package: lintian, the same bytes from any place, manual pages, completion, documents, materials."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine import RELEASES

from nftlb.cli.group import COMMANDS

if TYPE_CHECKING:
    from packages import Packages

pytest_plugins = ("packages",)
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
COMPLETIONS = {
    "bash": "bash-completion/completions/nftlb",
    "zsh": "zsh/vendor-completions/_nftlb",
    "fish": "fish/vendor_completions.d/nftlb.fish",
}
FAKETIME = Path(sys.prefix) / "daemons/usr/lib"
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)\s]+)?\)")


@pytest.fixture(scope="module")
def share(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/usr/share of the package for the oldest release, unpacked."""
    place = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["dpkg-deb", "-x", packages(RELEASES[0])[0], place], check=True)
    return place / "usr/share"


@pytest.mark.parametrize("release", RELEASES)
def test_lintian_finds_nothing(release: str, packages: Packages) -> None:
    """The lintian of the release has neither an error nor a warning, also about the manual pages."""
    done = subprocess.run(
        [ROOT / "tools/lintian.sh", release, packages(release)[0]], capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stdout), done.stderr


def test_two_builds_have_the_same_bytes(packages: Packages, tmp_path: Path) -> None:
    """A build from another directory, a month later, with another umask and time zone, gives the same package."""
    release = RELEASES[0]
    first = packages(release)[0]
    copy = tmp_path / "a place with blanks"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    script = f"""
        umask 077
        mkdir "$1" && tar -C '{ROOT}' --null --ignore-failed-read -T - -c | tar -C "$1" --no-same-permissions -x
        cd "$1" && exec tools/deb-for.sh {release} '{sys.prefix}' "" built
    """
    (library,) = FAKETIME.glob("*/faketime/libfaketime.so.1")
    moment = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        "TZ": "Pacific/Kiritimati",
        "LD_PRELOAD": str(library),
        "FAKETIME": "+40d",
        "SOURCE_DATE_EPOCH": moment,
    }
    done = subprocess.run(
        ["sh", "-c", script, "sh", copy],
        input=listed.stdout,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )

    assert 0 == done.returncode, done.stderr.decode()
    (second,) = (copy / "built").glob("*.deb")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_checksums(packages: Packages, tmp_path: Path) -> None:
    """`make checksums` writes hashes that `sha256sum --check` accepts, and a changed package is found."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "dist").mkdir()
    copy = Path(shutil.copy(packages(RELEASES[0])[0], tmp_path / "dist"))
    subprocess.run(["make", "-C", tmp_path, "checksums"], check=True, capture_output=True)
    check = ["sha256sum", "--check", "--ignore-missing", "SHA256SUMS"]

    assert f"{copy.name}: OK\n" == subprocess.check_output(check, cwd=copy.parent, text=True)
    with copy.open("ab") as file:
        file.write(b"\0")
    assert 1 == subprocess.run(check, cwd=copy.parent, capture_output=True, check=False).returncode


def test_every_command_has_a_manual_page(share: Path) -> None:
    """`man nftlb-check`, `man nftlb` and `man nftlb.yaml` have a page, and no other page is there."""
    pages = {path.name for path in (share / "man").rglob("*.gz")}

    assert {f"nftlb-{name}.8.gz" for name in COMMANDS} | {"nftlb.8.gz", "nftlb.yaml.5.gz"} == pages


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_completion_is_that_of_the_command(share: Path, shell: str) -> None:
    """Shells find the script of `nftlb completion` where they look for scripts of packages."""
    printed = subprocess.run(
        [Path(sys.prefix) / "bin/nftlb", "completion", shell], capture_output=True, text=True, check=True
    )

    assert printed.stdout == (share / COMPLETIONS[shell]).read_text()


def test_documents_have_no_dead_links(share: Path) -> None:
    """Each link of a document in the package leads to a file in the package."""
    documents = share / "doc/nftlb-daemon"
    pages = list(documents.rglob("*.md"))

    assert documents / "docs/configuration.md" in pages
    links = {(page, link) for page in pages for link in _LINK.findall(page.read_text())}
    assert [] == [f"{page.relative_to(documents)}: {link}" for page, link in links if not (page.parent / link).exists()]


def test_materials_are_those_of_the_lock_file(share: Path) -> None:
    """The bill of materials has each Python package in the version, and with a hash, of requirements/run.txt."""
    bill = json.loads((share / "doc/nftlb-daemon/sbom.cdx.json").read_text())
    locked = (ROOT / "requirements/run.txt").read_text()
    installed = {
        path.name.removesuffix(".dist-info").lower().replace("_", "-").replace(".", "-")
        for path in share.parent.glob("lib/nftlb/lib/python3*/site-packages/*.dist-info")
    }

    components = bill["components"]
    assert "CycloneDX" == bill["bomFormat"]
    named = {f"{one['name']}-{one['version']}".replace(".", "-") for one in components}
    assert named == {name for name in installed if not name.startswith("nftlb-")}
    assert [] == [one["name"] for one in components if f"{one['name']}=={one['version']}" not in locked]
    assert [] == [one["name"] for one in components if one["hashes"][0]["content"] not in locked]
    assert [] == [one["name"] for one in components if not one["licenses"]]
