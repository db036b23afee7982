"""The files of the status page: how they are served, and what they must not contain.

`tests/end_to_end/test_page*.py` test the page in a browser.
"""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from web_server import Answer, run, serving

from nftlb.model import EventKind

PAGE = files("nftlb.web").joinpath("page")
HTML = PAGE.joinpath("index.html").read_text(encoding="utf-8")
OWN = {
    file.name: file.read_text(encoding="utf-8")
    for file in PAGE.iterdir()
    if file.name.endswith(".js") and not file.name.startswith("uPlot")
}
"""The modules of the page, without the library."""
PUBLISHED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""The SHA-256 of the library's files in the package uplot 1.6.32 of npm."""


class Reader(HTMLParser):
    """The tags and attributes of a page, and the texts of its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.lasttag in {"script", "style"}:
            self.inline += data.strip()


@pytest.fixture(scope="module")
def page() -> Reader:
    reader = Reader()
    reader.feed(HTML)
    return reader


def asked(path: str, **headers: str) -> Answer:
    answers = []

    async def test() -> None:
        async with serving() as api:
            answers.append(await api.ask("GET", path, headers={"Authorization": "", **headers}))

    run(test())
    return answers[0]


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html"),
        ("/page/main.js", "main.js", "text/javascript"),
        ("/page/style.css", "style.css", "text/css"),
    ],
)
def test_files_are_served(path: str, name: str, kind: str) -> None:
    """The bytes of the package; a browser asks each time, and gets 304 while the file is the same."""
    answer = asked(path)

    assert (200, f"{kind}; charset=utf-8") == (answer.status, answer.headers["content-type"])
    assert PAGE.joinpath(name).read_bytes() == answer.body
    assert "no-cache" == answer.headers["cache-control"]

    again = asked(path, **{"If-None-Match": answer.headers["etag"]})
    assert (304, b"") == (again.status, again.body)
    assert 200 == asked(path, **{"If-None-Match": '"another"'}).status
    compressed = {"Accept-Encoding": "gzip"}
    assert 200 == asked(path, **compressed, **{"If-None-Match": answer.headers["etag"]}).status  # another variant
    tag = asked(path, **compressed).headers["etag"]
    assert 304 == asked(path, **compressed, **{"If-None-Match": tag}).status


@pytest.mark.parametrize("name", ["none.js", "uPlot.LICENSE.txt", "..%2Fapi.py", "%2Fetc%2Fpasswd", "__init__.py"])
def test_only_files_of_the_page_are_served(name: str) -> None:
    """Other names and paths are not found."""
    assert 404 == asked(f"/page/{name}").status


def test_only_files_of_the_page_run() -> None:
    """The policy allows no inline script, no inline style, no other host and no frame."""
    for path in ("/", "/page/main.js"):
        policy = dict(part.split(" ", 1) for part in asked(path).headers["content-security-policy"].split("; "))

        assert {"'self'"} == {policy[name] for name in ("script-src", "style-src", "connect-src")}
        assert {"'none'"} == {policy[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")}
        assert "data:" == policy["img-src"]


def test_nothing_is_inline_or_external(page: Reader) -> None:
    """The document has no script, style or handler inside, and names only files that exist and its views."""
    assert "" == page.inline
    assert [] == [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    places = {value for _, name, value in page.attributes if name in {"src", "href", "action", "data", "srcset"}}
    loaded = {place for place in places if place.startswith("page/")}
    assert {"data:,", "api/v1/status"} == {place for place in places - loaded if not place.startswith("#")}
    own = {f"page/{name}" for name in [*OWN, "style.css", "uPlot.min.css", "uPlot.iife.min.js"]}
    assert own == loaded  # each module is named in the head, so the browser does not discover them one after the other


def test_modules_import_only_modules_of_the_page() -> None:
    """No module is loaded from another place, and no URL of another host is in the code or the style."""
    imported = {name for text in OWN.values() for name in re.findall(r'from "([^"]*)"', text)}

    assert imported <= {f"./{name}" for name in OWN}
    for text in [*OWN.values(), PAGE.joinpath("style.css").read_text(encoding="utf-8")]:
        assert not re.search(r"""[a-z]://|url\(|@import|import\(""", text)


def test_nothing_becomes_html() -> None:
    """Texts of the daemon, also replies of backends, are inserted as text, not as HTML."""
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|cssText"

    assert {} == {name: found for name, text in OWN.items() if (found := re.findall(sinks, text))}


def test_the_token_stays_in_the_tab() -> None:
    """The token is kept for the tab, and sent only in a header by one module."""
    assert [] == [name for name, text in OWN.items() if re.search(r"localStorage|document\.cookie", text)]
    assert ["api.js"] == [name for name, text in OWN.items() if "sessionStorage" in text]


def test_all_events_have_words() -> None:
    """The page listens for every kind of event, and has words for each."""
    (kinds,) = re.findall(r"KINDS = \{(.*?)\n\}", OWN["timeline.js"], re.DOTALL)

    assert set(EventKind) <= set(re.findall(r"^  (\w+):", kinds, re.MULTILINE))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_library_is_the_published_one(name: str) -> None:
    """The files of uPlot have the hashes of the published files; CONTRIBUTING.md says how to update them."""
    assert PUBLISHED[name] == hashlib.sha256(PAGE.joinpath(name).read_bytes()).hexdigest()


def test_the_page_has_names_for_screen_readers(page: Reader) -> None:
    """A language, a title, both colour schemes, and a place that tells a screen reader what happened."""
    assert ("html", "lang", "en") in page.attributes
    assert "title" in page.tags
    assert ("div", "role", "status") in page.attributes
    assert "noscript" in page.tags
    assert "prefers-color-scheme: dark" in PAGE.joinpath("style.css").read_text(encoding="utf-8")
