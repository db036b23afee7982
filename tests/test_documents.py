"""The documents: their configurations are valid, and their links and file names exist."""

from __future__ import annotations

import re
import runpy
import textwrap
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from nftlb.cli.importing import FROM
from nftlb.compiler import Compiled
from nftlb.config import parse_config, resolve
from nftlb.model import Membership
from nftlb.ruleset import file_pieces

ROOT = Path(__file__).parents[1]
LINKS = runpy.run_path(str(ROOT / "tools/links.py"))
DOCUMENTS = LINKS["documents"]()
_BLOCK = re.compile(r"(?m)(?:^(?: {4}.*)?\n)+")
_POOLS = re.compile(r"(?m)^( *)pools:\n(?:\1 +.*\n|\n)+")
_ANY_POOL = 'pools: {any: {listen: "192.0.2.53:53/udp", backends: {b1: "10.0.0.11:53"}}}\n'
_POOL = re.compile(r"\A[A-Za-z][\w.-]*:\n +listen:")


def configurations(text: str) -> list[str]:
    """The configurations in a text: indented blocks that are a pool, or have `pools:` or begin with `api:`."""
    found = []
    for match in _BLOCK.finditer(f"{text}\n"):
        block = textwrap.dedent(match[0]).strip("\n") + "\n"
        pools = list(_POOLS.finditer(block))
        found += [textwrap.dedent(pool[0]) for pool in pools]
        if block.startswith("api:"):
            found.append(block + _ANY_POOL)
        elif not pools and _POOL.match(block):
            found.append(f"pools:\n{textwrap.indent(block, '  ')}")
    return found


EXAMPLES = {
    f"{path.relative_to(ROOT)} {number}": text
    for path in DOCUMENTS
    for number, text in enumerate(configurations(path.read_text()), 1)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_can_be_used(name: str) -> None:
    """Each configuration in the documents is valid for `nftlb check`, and compiles to rules that name its pools."""
    config = resolve(parse_config(EXAMPLES[name], name), {}, {}).config

    rules = "".join(file_pieces(Compiled(config).ruleset(Membership())))

    assert config.pools
    assert [] == [pool.name for pool in config.pools if f"/{pool.name}" not in rules]


def test_examples_are_found() -> None:
    """All configurations of a document are found: no other line begins with `listen:`."""
    for path in DOCUMENTS:
        listed = len(re.findall(r"(?m)^ {4,}listen:", path.read_text()))
        found = "".join(text for name, text in EXAMPLES.items() if name.startswith(f"{path.relative_to(ROOT)} "))
        assert listed == len(re.findall(r"(?m)^ +listen:", found)), path
    assert len([name for name in EXAMPLES if name.startswith("docs/migrating.md")]) == 8


@pytest.mark.parametrize("software", FROM)
def test_pairs_are_results_of_the_import(software: str) -> None:
    """The configuration of another program in docs/migrating.md becomes that below it; the page has its remarks."""
    text = (ROOT / "docs/migrating.md").read_text()
    section = text.split(f"\n## {software}\n")[1].split("\n## ")[0]
    source, result = (
        textwrap.dedent(match[0]).strip("\n") + "\n" for match in _BLOCK.finditer(section) if match[0].strip()
    )

    imported = FROM[software](source, "file")

    assert [] == [remark for remark in imported.remarks if remark.message not in section]
    assert parse_config(result, "document") == parse_config(imported.text, "document")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Each link leads to an existing file, and to a heading of this file."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()):
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", there.read_text())
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], anchor


def test_changes_are_listed_once() -> None:
    """No two entries of CHANGELOG.md begin with the same words, as after a merge that kept both sides."""
    begins = re.findall(r"(?m)^- .{40}", (ROOT / "CHANGELOG.md").read_text())

    assert [] == [begin for begin, number in Counter(begins).items() if number > 1]


TEXTS = sorted(
    [
        *DOCUMENTS,
        ROOT / "Makefile",
        *(path for folder in ("nftlb", "tests", "tools", "bench") for path in (ROOT / folder).rglob("*.py")),
        *(ROOT / "tools").glob("*.sh"),
    ]
)
_FILE = re.compile(
    r"(?<![\w./~{*-])(?:nftlb|tests|docs|tools|bench|rules)/[\w/-]+\.(?:py|sh|md|yaml|nft|c|html)\b(?![{*])"
)


def test_named_files_exist() -> None:
    """A document, a docstring or a comment that names a file of the repository names an existing file."""
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in TEXTS
        for name in _FILE.findall(path.read_text())
        if not (ROOT / name).exists()
    }
    assert set() == missing


@pytest.mark.parametrize("path", sorted((ROOT / "docs/images").glob("*.svg")), ids=lambda path: path.name)
def test_drawings_are_accessible(path: Path) -> None:
    """A drawing has a title and a description for readers of screens, and colours for light and dark pages."""
    drawing = ET.parse(path).getroot()  # noqa: S314 - the file is ours
    text = path.read_text()

    assert drawing.get("role") == "img"
    parts = {part.get("id"): part.text for part in drawing if part.tag.endswith(("}title", "}desc"))}
    assert [True] * 2 == [bool(parts.get(name)) for name in (drawing.get("aria-labelledby") or "").split()]
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
