"""Copies the documents for the package: documents.py DIRECTORY.

DIRECTORY gets README.md, CHANGELOG.md and all files that their links lead to, directly or through other documents, at
the same places as in the repository. So no link of a copied document is dead.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("README.md", "CHANGELOG.md")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)\s]+)?\)")


def links(text: str) -> Iterator[str]:
    """The files that the links and images of a document lead to, as the document has them."""
    yield from _LINK.findall(text)


def documents() -> list[Path]:
    """The files to copy, in the order of their paths."""
    found: set[Path] = set()
    ahead = [ROOT / name for name in FIRST]
    while ahead:
        path = ahead.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".md":
            targets = [(path.parent / link).resolve() for link in links(path.read_text(encoding="utf-8"))]
            ahead += [target / "README.md" if target.is_dir() else target for target in targets]
    return sorted(found)


def main(directory: str) -> None:
    """Copy all documents into a directory, which is made if it does not exist."""
    for path in documents():
        copy = Path(directory) / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
