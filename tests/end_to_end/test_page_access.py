"""The web page with axe-core in all views and dialogs, on a phone, and with the keyboard alone."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from browser import PATIENCE, VIEWS, enter_token, opened, row
from fake_service import NOON, a_backend, a_check, a_collector, a_name, a_pool
from page_service import Traffic, answer, explanation, kept_changes, kept_events, notices, served, showcase
from playwright.sync_api import expect
from web_server import TOKEN

from nftlb.model import EventKind
from nftlb.service import Event, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from page_service import Served
    from playwright.sync_api import Browser, Page

    from nftlb.service import Overview

pytest_plugins = ("browser_fixtures",)
expect.set_options(timeout=PATIENCE)
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
CONTRAST = "axe.run({runOnly: ['color-contrast']})"
RULES = "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
PHONE, DESKTOP = 360, 1440
FOCUSED = "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()"
TEXTS = "#rows td, #rows th, #rows .link, #troubles .what, .chip, .event, .notice"
CUT = """texts => [...document.querySelectorAll(texts)]
    .filter(one => one.offsetParent && getComputedStyle(one).display !== 'inline')
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => one.className + ': ' + one.textContent)"""
"""The elements whose text does not fit."""


@contextmanager
def filled(chromium: Browser, width: int, *, dark: bool = False) -> Iterator[tuple[Served, Page]]:
    """Open the page of a simulated daemon that has something for each view."""
    with (
        served(showcase()) as api,
        opened(chromium, "about:blank", width=width, height=740, dark=dark) as (page, faults),
    ):
        answer(page, "api/v1/history", {"events": kept_events()})
        answer(page, "api/v1/notices", notices())
        answer(page, "api/v1/explain", explanation())
        answer(page, "api/v1/ruleset/changes", kept_changes())
        page.goto(api.url)
        expect(page.locator("tr.pool")).to_have_count(5)
        yield api, page
        assert [] == faults


def states(page: Page) -> Iterator[str]:
    """Bring each view, dialog and refusal on the screen, one after the other."""
    for view in VIEWS:
        page.evaluate(f"location.hash = '#{view}'")
        expect(page.locator(f"#view-{view}")).to_be_visible()
        if view == "explain":
            page.get_by_label("From").fill("198.51.100.7:40000")
            page.get_by_label("To", exact=True).fill("192.0.2.53:53/udp")
            page.get_by_role("button", name="Explain").click()
            expect(page.locator("#explanation table").first).to_be_visible()
        yield view
    page.evaluate("location.hash = '#pools'")
    for group in ("state", "", "pool"):
        page.get_by_label("Group by").select_option(group)
        yield f"grouped by {group or 'nothing'}"
    page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
    expect(page.locator("#details")).to_be_visible()
    yield "a pool"
    question = page.locator("#question")
    page.get_by_role("button", name="Add a backend").click()
    expect(question).to_be_visible()
    yield "the question for a token"
    page.get_by_label("Token", exact=True).fill("wrong")
    page.get_by_role("button", name="Use this token").click()
    expect(question.locator(".note")).to_be_visible()
    yield "a wrong token"
    page.get_by_label("Token", exact=True).fill(TOKEN)
    page.get_by_role("button", name="Use this token").click()
    expect(page.get_by_label("Address", exact=True)).to_be_visible()
    yield "a backend to add"
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Close", exact=True).click()
    row(page, "ns3").get_by_role("button").click()
    expect(page.locator("#details-title")).to_have_text("dns/ns3")
    yield "a backend that is down"
    page.get_by_role("button", name="Remove").click()
    expect(question).to_be_visible()
    yield "the question before a removal"
    page.get_by_role("button", name="Cancel").click()
    answer(page, "*preview=true", {"error": "the daemon is stopping"}, status=503)
    page.get_by_role("button", name="Drain").click()
    expect(question.locator(".note")).to_be_visible()
    yield "a refusal"


@pytest.mark.slow
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_accessibility(chromium: Browser, width: int) -> None:
    """axe-core finds nothing in any view, dialog or refusal, in both colour schemes, and a phone scrolls only down.

    The schemes differ in colours only, so one rule is enough for the second scheme.
    """
    with filled(chromium, width) as (_, page):
        page.evaluate(AXE)
        for state in states(page):
            assert [] == findings(page, RULES), state
            page.emulate_media(color_scheme="dark")
            assert [] == findings(page, CONTRAST), f"{state}, dark"
            page.emulate_media(color_scheme="light")
            assert width >= page.evaluate("document.documentElement.scrollWidth"), state


def findings(page: Page, rules: str) -> list[str]:
    """What axe-core finds by some rules, with the elements."""
    result = page.evaluate(rules)
    return [f"{found['id']}: {[node['html'] for node in found['nodes']]}" for found in result["violations"]]


def test_a_phone_cuts_nothing_off(chromium: Browser) -> None:
    """On a phone all text fits, and the reason of a dead backend is on the first screen."""
    with filled(chromium, PHONE) as (_, page):
        expect(page.locator("#troubles").get_by_text("no answer within 1s")).to_be_in_viewport()
        for view in ("pools", "timeline", "notices"):
            page.evaluate(f"location.hash = '#{view}'")
            expect(page.locator(f"#view-{view}")).to_be_visible()
            assert [] == page.evaluate(CUT, TEXTS), view


WORD = "x" * 4000
OVERFLOWING = "one => [one.scrollWidth, one.clientWidth]"


class Wordy(Traffic):
    """A daemon with the longest names, and with reasons and errors that have no blanks."""

    def __init__(self) -> None:
        super().__init__(faults=(Fault(what="f" * 60, message=WORD, since=NOON),))
        labels = {letter * 32: letter * 63 for letter in "nm"}
        down: dict[str, Any] = {"up": False, "in_rotation": False, "reason": WORD, "labels": labels}
        address = "2001:db8:1111:2222:3333:4444:5555:6666"
        self.put(
            a_pool(
                "p" * 48,
                a_backend("b" * 80, address=address, checks=(a_check(passed=False, reason=WORD),), **down),
                listen=(f"[{address}]:50000-60000/udp",) * 3,
                labels=labels,
                lacking=(WORD,),
                names=(a_name("n" * 48, "h" * 253, trouble=WORD, kept={"k" * 80: WORD}),),
                collectors=(a_collector("c" * 48, up=False, reason=WORD),),
            )
        )
        values = {"pool": "p" * 48, "backend": "b" * 80, "reason": WORD, "details": {"backends": WORD}}
        self.kept.add(Event(kind=EventKind.BACKEND_DOWN, at=NOON, **values))

    async def overview(self) -> Overview:
        found = await super().overview()
        refused = {"file": f"/{WORD}", "success": False, "problems": (WORD, f"/{WORD}:1:1: {WORD}")}
        failed = {"synced": False, "error": WORD}
        changed = {"config": found.config.model_copy(update=refused), "kernel": found.kernel.model_copy(update=failed)}
        return found.model_copy(update=changed)


@pytest.mark.parametrize("width", [PHONE, 768, DESKTOP])
def test_long_words(chromium: Browser, width: int) -> None:
    """No view and no dialog is wider than the screen, however long names, reasons and errors are."""
    with served(Wordy()) as api, opened(chromium, "about:blank", width=width) as (page, faults):
        finding = {"subject": WORD, "severity": "error", "message": WORD, "fix": [WORD]}
        answer(page, "api/v1/notices", {"at": None, "findings": [finding]})
        change = {"at": NOON.isoformat(), "reason": WORD, "events": [], "lines": [f"+ {WORD}"], "cut": False}
        answer(page, "api/v1/ruleset/changes", {"changes": [change]})
        page.goto(api.url)
        for view, shown in zip(VIEWS, ("tr.backend", ".event", ".swap", "#explain-form", ".notice"), strict=True):
            page.evaluate(f"location.hash = '#{view}'")
            expect(page.locator(shown)).to_be_visible()
            assert width >= page.evaluate("document.documentElement.scrollWidth"), view
        page.evaluate("location.hash = '#pools'")
        details = page.locator("#details")
        for name in ("p" * 48, "b" * 80):
            page.locator("#rows").get_by_role("button", name=name, exact=True).click()
            expect(details).to_be_visible()
            wide, seen = details.evaluate(OVERFLOWING)
            assert wide <= seen, name
            page.keyboard.press("Escape")
        assert [] == faults


@pytest.mark.parametrize("width", [DESKTOP, 768])
def test_states_have_words(chromium: Browser, width: int) -> None:
    """Each state has a sign and a word, and the reason of a backend that is down is in its row without scrolling."""
    with filled(chromium, width) as (_, page):
        chips = page.locator("#rows .chip").all_inner_texts()
        wanted = {"✓ in service", "✓ ready", "✕ down", "✕ not ready", "‖ drained", "! ready, 1 down", "‖ ready, 1 out"}
        assert wanted == set(chips)
        expect(row(page, "ns3").get_by_text("no answer within 1s, 3 times in a row")).to_be_in_viewport()


def test_the_keyboard_alone(chromium: Browser) -> None:
    """Keys find a backend, open its details, drain the backend with a token and close the details."""
    with filled(chromium, DESKTOP) as (api, page):
        page.keyboard.press("/")
        page.keyboard.type("ns2")
        expect(page.locator("tr.backend")).to_have_count(1)
        tab_to(page, "ns2")
        page.keyboard.press("Enter")
        expect(page.locator("#details-title")).to_have_text("dns/ns2")
        tab_to(page, "Drain")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Token", exact=True)).to_be_focused()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        question = page.locator("#question")
        expect(question.get_by_role("button", name="Cancel")).to_be_focused()  # a second Enter changes nothing
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(row(page, "ns2")).to_contain_text("drained")
        page.keyboard.press("Escape")
        expect(page.locator("#details")).to_be_hidden()
        assert "ns2" == page.evaluate(FOCUSED)  # the focus is where it was
        assert ["change dns/ns2 drain None"] == api.service.done


def test_the_focus_in_the_table(chromium: Browser) -> None:
    """The row with the keyboard's focus keeps the focus when rows before it go elsewhere."""
    with filled(chromium, DESKTOP) as (api, page):
        row(page, "ns1").get_by_role("button").focus()
        api.service.change_backend("dns", "ns3", up=True, in_rotation=True, reason="noerror")
        expect(row(page, "ns3")).to_contain_text("in service")
        assert "ns1" == page.evaluate(FOCUSED)


def test_the_focus_in_the_troubles(chromium: Browser) -> None:
    """A line of trouble keeps the focus when its text changes."""
    with filled(chromium, DESKTOP) as (api, page):
        page.locator("#troubles").get_by_role("button", name="dns/ns3").focus()
        api.service.change_backend("dns", "ns3", reason="no answer, 4 times in a row")
        expect(page.locator("#troubles")).to_contain_text("4 times")
        assert "dns/ns3" == page.evaluate(FOCUSED)


def test_the_focus_in_the_notices(chromium: Browser) -> None:
    """A fix that the user scrolls with the keyboard keeps the focus when the page reads the notices again."""
    with filled(chromium, DESKTOP) as (_, page):
        page.clock.install()
        found = notices()
        found["findings"][:0] = [{"subject": "first", "severity": "error", "message": "", "fix": []}]
        answer(page, "api/v1/notices", found)
        page.goto(page.url.partition("#")[0] + "?again#notices")
        expect(page.locator(".notice")).to_have_count(3)
        page.locator(".notice pre").focus()
        del found["findings"][0]
        answer(page, "api/v1/notices", found)
        page.clock.fast_forward("00:31")
        expect(page.locator(".notice")).to_have_count(2)
        assert "How to fix this" == page.evaluate(FOCUSED)


def test_the_focus_after_an_answer(chromium: Browser) -> None:
    """A button that waited for the daemon has the focus again: after a refusal in its question, and after a reload."""
    with filled(chromium, DESKTOP) as (_, page):
        page.get_by_role("button", name="Enter token").click()
        enter_token(page, TOKEN)
        row(page, "ns1").get_by_role("button").click()
        page.get_by_role("button", name="Remove").click()
        question = page.locator("#question")
        remove = question.get_by_role("button", name="Remove")
        expect(remove).to_be_visible()
        answer(page, "api/v1/pools/dns/backends/ns1", {"error": "another change came first"}, status=409)
        remove.press("Enter")
        expect(question).to_contain_text("another change came first")
        expect(remove).to_be_focused()
        page.goto(page.url.partition("#")[0] + "?again#configuration")
        reload = page.get_by_role("button", name="Read the file again")
        reload.press("Enter")
        expect(page.locator("#news")).to_have_text("The file is in use")
        expect(reload).to_be_focused()


def test_news_that_repeat(chromium: Browser) -> None:
    """A screen reader tells a second equal event too."""
    with filled(chromium, DESKTOP) as (api, page):
        event = Event(kind=EventKind.BACKEND_DOWN, at=NOON, pool="dns", backend="ns1", reason="refused")
        with api.reloaded():
            page.reload()
        page.evaluate("""() => {
            window.told = [];
            new MutationObserver(() => window.told.push(document.getElementById("news").textContent)).observe(
                document.getElementById("news"), {childList: true, characterData: true, subtree: true});
        }""")
        for number in (1, 2):
            api.emit(event)
            page.wait_for_function("number => window.told.length === number", arg=number)
        assert ["dns/ns1 backend down: refused"] * 2 == page.evaluate("window.told")


def tab_to(page: Page, name: str) -> None:
    """Press the tab key until an element of this name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if name == page.evaluate(FOCUSED):
            return
    pytest.fail(f"the tab key does not reach {name}")
