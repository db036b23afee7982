"""The status page: one file with minimal permissions in the browser."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from web_server import Answer, run, serving

from nftlb.model import EventKind
from nftlb.web.application import content_security_policy

HTML = files("nftlb.web").joinpath("page.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """The tags and attributes of a page, and their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.lasttag:
            self.texts.setdefault(self.lasttag, []).append(data)


@pytest.fixture(scope="module")
def page() -> Reader:
    reader = Reader()
    reader.feed(HTML)
    return reader


def served() -> Answer:
    answers = []

    async def test() -> None:
        async with serving() as api:
            answers.append(await api.get("/"))

    run(test())
    return answers[0]


def test_the_document_is_served() -> None:
    """The file of the package, not cached: it belongs to this version of the API."""
    answer = served()

    assert (200, "text/html; charset=utf-8") == (answer.status, answer.headers["content-type"])
    assert answer.headers["cache-control"] == "no-cache"
    assert HTML == answer.body.decode()


def test_only_its_own_script_runs(page: Reader) -> None:
    """The policy allows only the script and the style of the page, by digest."""
    policy_ = dict(part.split(" ", 1) for part in served().headers["content-security-policy"].split("; "))

    for tag in ("script", "style"):
        (text,) = [text for text in page.texts[tag] if text.strip()]
        digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" == policy_[f"{tag}-src"]
    assert ("'none'", "'self'") == (policy_["default-src"], policy_["connect-src"])
    assert {"'none'"} == {policy_[name] for name in ("base-uri", "form-action", "frame-ancestors")}
    assert "unsafe" not in str(policy_)


def test_policies_differ() -> None:
    """Another script has another digest."""
    policy = content_security_policy("<style>a{}</style><script>1</script>")

    assert policy != content_security_policy("<style>a{}</style><script>2</script>")
    assert policy == content_security_policy("<style>a{}</style><p></p><script>1</script>")


def test_no_attribute_loads_external_content(page: Reader) -> None:
    """No attribute has a URL, a script or a style, which the policy would refuse."""
    places = [value for _, name, value in page.attributes if name in {"src", "href", "action", "data", "srcset"}]
    assert {"data:,", "api/v1/status"} == set(places)
    assert [] == [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"""://|["'`(]//""", "".join(page.texts["script"] + page.texts["style"]))
    assert not re.search(r"url\(|@import", "".join(page.texts["style"]))


def test_nothing_becomes_html(page: Reader) -> None:
    """Texts of the daemon, also replies of backends, are inserted as text, not as HTML."""
    script = "".join(page.texts["script"])

    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|\.cssText"
    assert re.findall(sinks, script) == []
    assert script.count("textContent") >= 2


def test_the_page_sends_no_changes(page: Reader) -> None:
    """The page only reads: it has no form, no button, and no method but GET."""
    script = "".join(page.texts["script"])

    assert {"api/v1/status", "api/v1/events"} == set(re.findall(r'"(api/[^"]*)"', script))
    assert "method" not in script
    assert not {"form", "button", "iframe", "object", "embed"} & set(page.tags)


def test_the_page_handles_all_events(page: Reader) -> None:
    """The page listens for every kind of event."""
    script = "".join(page.texts["script"])

    (kinds,) = re.findall(r"const kinds = \[(.*?)\]", script)
    assert set(EventKind) == set(re.findall(r'"(\w+)"', kinds))


def test_the_page_is_accessible(page: Reader) -> None:
    """A language, a title, names of fields, states for screen readers, and both colour schemes."""
    assert ("html", "lang", "en") in page.attributes
    assert "title" in page.tags
    assert ("input", "aria-label", "Find a pool, backend or address") in page.attributes
    assert {"status", "alert"} == {value for _, name, value in page.attributes if name == "role"}
    assert "noscript" in page.tags
    assert "prefers-color-scheme: dark" in "".join(page.texts["style"])
    script = "".join(page.texts["script"])
    assert all(
        sign in script for sign in ("✓ up", "✕ down", "✓ ready", "✕ not ready")
    )  # states must not differ by colour only
