"""tools/manual.py and tools/documents.py: the manual pages and the documents of the package."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from nftlb.cli.group import COMMANDS

ROOT = Path(__file__).parents[1]
MANUAL = runpy.run_path(str(ROOT / "tools/manual.py"))
DOCUMENTS = runpy.run_path(str(ROOT / "tools/documents.py"))
PAGES: dict[str, str] = MANUAL["pages"]()


def plain(roff: str) -> str:
    """The text of a page without fonts and escapes."""
    return re.sub(r"\\f.|\\&", "", roff).replace(r"\-", "-").replace(r"\e", "\\")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_every_option_and_its_examples(name: str) -> None:
    """The page of a command has its arguments, each option with its help, and the lines of its examples."""
    page = plain(PAGES[f"nftlb-{name}.8"])
    context: Any = MANUAL["command_context"](name)
    words = " ".join(page.split())

    assert f"nftlb {name} {' '.join(context.command.collect_usage_pieces(context))}" in page
    for option, text in MANUAL["options"](context):
        assert f".TP\n{option}\n" in page
        assert " ".join(text.replace("`", "").split()) in words
    for line in re.findall(r"(?m)^ +(nftlb .*)$", context.command.epilog or ""):
        assert line in page


def test_the_first_page_names_the_others() -> None:
    """nftlb.8 has each command with its line, the variables of the commands, files and exit statuses."""
    page = plain(PAGES["nftlb.8"])

    for name, line in COMMANDS.items():
        assert f".TP\nnftlb-{name}(8)\n{line.replace('`', '')}\n" in page
    for name in ("NFTLB_URL", "NFTLB_TOKEN_FILE", "/etc/nftlb/nftlb.yaml", "nftlb.service", *"01234"):
        assert f".TP\n{name}\n" in page


def test_the_page_of_the_file_is_the_document() -> None:
    """nftlb.yaml.5 has each heading, each key of the tables, and each line of the examples of docs/configuration.md."""
    text = (ROOT / "docs/configuration.md").read_text()
    page = plain(PAGES["nftlb.yaml.5"])
    names = set(re.findall(r"(?m)^\.TP\n(.*)$", page))

    for heading in re.findall(r"(?m)^##+ (.*)$", text):
        assert f"\n{heading.replace('`', '')}\n" in page
    for cell in re.findall(r"(?m)^\| ((?:`[a-z]\w*`(?:, )?)+) \|", text):
        assert any(name.startswith(cell.replace("`", "")) for name in names), cell
    for line in re.findall(r"(?m)^ {4}(.*)$", text):
        assert line.rstrip() in page
    assert "|---" not in page
    assert "](" not in page


def test_text_is_no_request() -> None:
    """A line that begins with a full stop, an apostrophe or a backslash is text. Paragraphs keep their order."""
    page = MANUAL["_MARKDOWN"].parse("a\n.b `c-\\d`\n\n- **e *f* g**\n  'h\n\n      .i\n")
    blocks = list(MANUAL["_blocks"](MANUAL["SyntaxTreeNode"](page)))

    item = "\\fBe \\fIf\\fB g\\fR\n\\&'h"
    code = [".PP", ".RS 4", ".nf", r"\&.i", ".fi", ".RE"]
    assert [".PP", "a\n\\&.b \\fBc\\-\\ed\\fR", r".IP \(bu 4", item, *code] == blocks


def test_the_documents_of_the_package_are_complete() -> None:
    """Each link of a copied document leads to a copied file, and the documents that README.md lists are copied."""
    paths = DOCUMENTS["documents"]()

    assert {ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")} <= set(paths)
    for path in paths:
        if path.suffix == ".md":
            for link in DOCUMENTS["links"](path.read_text()):
                target = (path.parent / link).resolve()
                assert (target / "README.md" if target.is_dir() else target) in paths, f"{path}: {link}"
