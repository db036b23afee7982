"""The documents: what they show as a configuration of ours is one."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from nftlb.config import parse

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "rules").glob("*.md")])
_BLOCK = re.compile(r"(?m)(?:^(?: {4}.*)?\n)+")
_POOLS = re.compile(r"(?m)^( *)pools:\n(?:\1 +.*\n|\n)+")
_ANY_POOL = 'pools: {any: {listen: "192.0.2.53:53/udp", backends: {b1: "10.0.0.11:53"}}}\n'
_POOL = re.compile(r"\A[A-Za-z][\w.-]*:\n +listen:")


def configurations(text: str) -> list[str]:
    """Each indented block with `pools:`, without what stands around that; or that is a pool, or begins with `api:`."""
    found = []
    for match in _BLOCK.finditer(f"{text}\n"):
        block = textwrap.dedent(match[0]).strip("\n") + "\n"
        pools = list(_POOLS.finditer(block))
        found += [textwrap.dedent(one[0]) for one in pools]
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
def test_examples_are_valid(name: str) -> None:
    """As `nftlb check` has it."""
    assert parse(EXAMPLES[name], name).pools


def test_examples_are_found() -> None:
    """In every document that has some: no other words begin a line with `listen:`."""
    for path in DOCUMENTS:
        listed = len(re.findall(r"(?m)^ {4,}listen:", path.read_text()))
        found = "".join(text for name, text in EXAMPLES.items() if name.startswith(f"{path.relative_to(ROOT)} "))
        assert listed == len(re.findall(r"(?m)^ +listen:", found)), path
    assert len([name for name in EXAMPLES if name.startswith("docs/migrating.md")]) == 4


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """To a file that is there, and to a heading of that file."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()):
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", there.read_text())
            assert anchor in [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings], anchor
