"""Visits the pages of other sites that the documents link to: links.py. The exit status is 1 if one is missing.

Each line of the output is a page that is missing, that has no such heading, or that can't be reached, with the reason.
tests/test_links.py has the list of all these links, so a new link is noticed. `make test` needs no other site.
"""

from __future__ import annotations

import re
import sys
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bench", "deploy", "docs", "rules")
_LINK = re.compile(r"\]\((https?://[^)\s]+)\)|<(https?://[^>\s]+)>")
_PATIENCE = 30.0
_MOST = 1 << 24
"""Bytes that are read of a page."""


def documents() -> list[Path]:
    """All documents of the checkout, in the order of their paths."""
    return sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


def external_links(text: str) -> list[str]:
    """The links of a document to other sites, in their order."""
    return [there or bare for there, bare in _LINK.findall(text)]


def fault(link: str) -> str:
    """What is wrong with a link, as one line; empty if the page exists, and has the heading that the link names."""
    page, anchor = urldefrag(link)
    request = Request(page, headers={"User-Agent": "nftlb-links/1"})  # noqa: S310 - only links of the documents
    try:
        with urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310 - as above
            text = answer.read(_MOST).decode("utf-8", "replace")
    except (OSError, HTTPException) as error:
        return " ".join(str(error).split()) or type(error).__name__
    names = re.findall(r"\b(?:id|name)\s*=\s*[\"']?([^\"'\s>]+)", text) if anchor else []
    return "" if not anchor or unquote(anchor) in names else f"the page has no #{anchor}"


def main(links: Iterable[str] = ()) -> int:
    """Visit these links, or those of all documents. Return the exit status."""
    wanted = links or dict.fromkeys(link for path in documents() for link in external_links(path.read_text("utf-8")))
    faults = {link: found for link in wanted if (found := fault(link))}
    for link, found in faults.items():
        print(f"{link}: {found}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
