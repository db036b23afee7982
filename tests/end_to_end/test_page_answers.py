"""Answers of the daemon that come late, in another order, cut, or not at all, and how the web page shows them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from browser import PATIENCE, enter_token, opened, row
from fake_service import NOON
from page_service import Traffic, answer, explanation, served, showcase
from playwright.sync_api import expect
from web_server import TOKEN

from nftlb.model import EventKind
from nftlb.service import Event, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from page_service import Served
    from playwright.sync_api import APIResponse, Browser, Page, Route

    from nftlb.service import Overview

pytest_plugins = ("browser_fixtures",)
expect.set_options(timeout=PATIENCE)
STATUS, HISTORY, EVENTS = "api/v1/status", "api/v1/history?limit=200", "api/v1/events"


@dataclass
class Held:
    """The requests of a page for a path. The daemon answers at once; the page gets its answers at `release`."""

    page: Page
    path: str
    answers: list[tuple[Route, APIResponse]] = field(default_factory=list)
    released: bool = False

    def __post_init__(self) -> None:
        self.page.route(f"**/{self.path}", self._hold)

    def _hold(self, route: Route) -> None:
        if self.released:
            route.continue_()
        else:
            self.answers.append((route, route.fetch()))

    def wait(self, number: int = 1) -> None:
        """Wait until the daemon has answered so many requests."""
        await_requests(self.page, self.answers, number)

    def release(self) -> None:
        """Let the page have the answers, and all later answers at once."""
        self.released = True
        for route, response in self.answers:
            route.fulfill(response=response)


def await_requests(page: Page, found: Sized, number: int = 1) -> None:
    """Wait until the handlers of requests have found so many. The event of a request comes before its handler runs."""
    ends = time.monotonic() + PATIENCE / 1000
    while len(found) < number:
        assert time.monotonic() < ends, f"{len(found)} requests instead of {number}"
        page.wait_for_timeout(5)  # runs the handlers


def down(pool: str, backend: str, reason: str) -> Event:
    return Event(kind=EventKind.BACKEND_DOWN, at=NOON, pool=pool, backend=backend, reason=reason)


def die(api: Served, pool: str, backend: str, reason: str) -> None:
    """Let a backend be down for a reason. There is no event."""
    api.service.change_backend(pool, backend, up=False, in_rotation=False, share=0.0, reason=reason)


def later_answer(api: Served, page: Page) -> None:
    """Wait until the page shows the answer to a request that begins now."""
    die(api, "syslog", "log1", "a later answer")
    api.emit(down("syslog", "log1", "a later answer"))
    expect(row(page, "log1")).to_contain_text("a later answer")


def start(page: Page, url: str) -> None:
    """Open the page, and wait for its stream of events."""
    with page.expect_response("**/" + EVENTS):
        page.goto(url)
    expect(page.locator("#link")).to_contain_text("live")


# --- the state of pools ---------------------------------------------------------------------------------------------


def test_a_status_from_before_an_event(chromium: Browser) -> None:
    """A status that was made before an event does not hide what the event has brought."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        status = Held(page, STATUS)
        status.wait()
        die(api, "dns", "ns1", "refused")
        api.emit(down("dns", "ns1", "refused"))
        expect(row(page, "ns1")).to_contain_text("refused")
        status.release()
        Held(page, STATUS)  # no later status repairs the page
        later_answer(api, page)
        assert "refused" in row(page, "ns1").inner_text()
        assert [] == faults


def test_the_answer_about_a_pool_from_before_a_status(chromium: Browser) -> None:
    """An answer about one pool does not hide what a later status has brought."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        pool = Held(page, "api/v1/pools/dns")
        api.emit(down("dns", "ns1", ""))
        pool.wait()
        die(api, "dns", "ns1", "refused")
        expect(row(page, "ns1")).to_contain_text("refused")
        Held(page, STATUS)  # no later status repairs the page
        pool.release()
        later_answer(api, page)
        assert "refused" in row(page, "ns1").inner_text()
        assert [] == faults


def test_two_events_of_a_pool(chromium: Browser) -> None:
    """The page reads a pool again after an event that comes while the daemon answers: the last answer is shown."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        Held(page, STATUS)
        pool = Held(page, "api/v1/pools/dns")
        die(api, "dns", "ns1", "the first reason")
        api.emit(down("dns", "ns1", ""))
        pool.wait()
        die(api, "dns", "ns1", "the second reason")
        for _ in range(50):
            api.emit(down("dns", "ns1", ""))
        expect_events(page, 51)
        assert 1 == len(pool.answers)  # one request at a time, however many events come
        pool.release()
        later_answer(api, page)
        assert "the second reason" in row(page, "ns1").inner_text()
        assert [] == faults


def expect_events(page: Page, number: int) -> None:
    """Wait until the page has got so many events, and return to the pools."""
    page.evaluate("location.hash = '#timeline'")
    expect(page.locator("#events .event")).to_have_count(number)
    page.evaluate("location.hash = '#pools'")


# --- events ---------------------------------------------------------------------------------------------------------


def keep(service: Traffic, number: int, milliseconds: int = 0) -> None:
    """Let the daemon have kept so many events, the last one at noon and some milliseconds."""
    last = NOON + timedelta(milliseconds=milliseconds)
    for place in reversed(range(number)):
        at = last - timedelta(seconds=place)
        service.kept.add(Event(kind=EventKind.BACKEND_UP, at=at, pool="dns", backend="ns1", reason=f"kept {place}."))


def reasons(page: Page) -> list[str]:
    """The reasons of the events of the time line, the first on top."""
    return page.locator("#events .what").all_inner_texts()


@pytest.mark.parametrize("fractions", [(0, 500), (500, 1000), (0, 0)], ids=str)
@pytest.mark.parametrize("kept", [0, 1])
def test_an_event_before_the_history(chromium: Browser, kept: int, fractions: tuple[int, int]) -> None:
    """An event that arrives while the page waits for the kept events is shown before them."""
    service = showcase()
    before, after = fractions
    keep(service, kept, before)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        history = Held(page, HISTORY)
        start(page, api.url + "#timeline")
        history.wait(2)
        new = down("dns", "ns1", "while the page waits")
        api.emit(new.model_copy(update={"at": NOON + timedelta(milliseconds=after)}))
        expect(page.locator("#events")).to_contain_text("while the page waits")
        history.release()
        api.emit(down("dns", "ns1", "a later event"))
        expect(page.locator("#events .event")).to_have_count(2 + kept)
        assert ["a later event", "while the page waits", *["kept 0."] * kept] == reasons(page)
        assert [] == faults


def test_an_event_between_the_history_and_the_stream(chromium: Browser) -> None:
    """An event that comes after the answer with the kept events and before the stream is shown."""
    service = showcase()
    keep(service, 1)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        streams: list[Route] = []
        page.route("**/" + EVENTS, lambda route: streams.append(route))  # noqa: PLW0108 - needs a function
        page.goto(api.url + "#timeline")
        expect(page.locator("#events .event")).to_have_count(1)
        await_requests(page, streams)
        api.emit(down("dns", "ns1", "before the stream"))
        streams[0].continue_()
        expect(page.locator("#events")).to_contain_text("before the stream")
        assert [] == faults


def test_a_stream_that_was_refused(chromium: Browser) -> None:
    """After too many listeners, the page asks again for the stream and the kept events, and misses none."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        page.clock.install()
        answer(page, EVENTS, {"error": "16 clients receive events already"}, status=503)
        with page.expect_response("**/" + EVENTS):
            page.goto(api.url + "#timeline")
        expect(page.locator("#timeline-note")).to_have_text("No events")
        api.emit(down("dns", "ns1", "still without a stream"))
        with page.expect_response("**/" + EVENTS):
            page.clock.fast_forward("00:11")
        expect(page.locator("#events")).to_contain_text("still without a stream")
        api.emit(down("dns", "ns1", "without a stream"))
        page.unroute(f"**/{EVENTS}*")
        with page.expect_response("**/" + EVENTS):
            page.clock.fast_forward("00:11")
        expect(page.locator("#events .event")).to_have_count(2)
        assert ["without a stream", "still without a stream"] == reasons(page)
        assert [] == faults


def test_events_that_the_daemon_repeats(chromium: Browser) -> None:
    """After a lost connection the daemon repeats events: each is shown once, in its place."""
    service = showcase()
    keep(service, 300)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url + "#timeline")
        expect(page.locator("#events .event")).to_have_count(200)
        for event in service.kept.kept()[20:]:
            api.loop.call_soon_threadsafe(service.emit, event)
        api.emit(down("dns", "ns1", "kept -1."))
        expect(page.locator("#events .event")).to_have_count(281)
        assert [f"kept {place}." for place in range(-1, 280)] == reasons(page)
        assert [] == faults


def test_older_events(chromium: Browser) -> None:
    """Older events are added once, also after a double click; a failure is shown, and a click tries again."""
    service = showcase()
    keep(service, 500)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url + "#timeline")
        events, older = page.locator("#events .event"), page.locator("#older")
        expect(events).to_have_count(200)
        answer(page, "api/v1/history*before", {"error": "the daemon is stopping"}, status=503)
        older.click()
        expect(page.locator("#timeline-note")).to_have_text("The kept events can't be read: the daemon is stopping")
        page.unroute("**/api/v1/history*before*")
        page.get_by_role("button", name="Try again").click()
        expect(older).to_have_text("Show older events")
        expect(page.locator("#timeline-note")).to_be_empty()
        older.evaluate("button => { button.click(); button.click(); }")
        expect(events).to_have_count(400)
        older.click()
        expect(events).to_have_count(500)
        expect(older).to_be_hidden()
        assert [f"kept {place}." for place in range(500)] == reasons(page)
        assert [] == faults


# --- answers that can't be read -------------------------------------------------------------------------------------

PAGE_OF_A_PROXY = "<html>Who are you?</html>"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"body": PAGE_OF_A_PROXY}, "the answer does not come from nftlb"),
        ({"body": PAGE_OF_A_PROXY, "status": 401}, "HTTP status 401"),
        ({"json": {"error": "the daemon is stopping"}, "status": 503}, "the daemon is stopping"),
        ({"json": None, "status": 500}, "HTTP status 500"),
        (None, "the daemon can't be reached"),
    ],
    ids=["a page of HTML", "a proxy", "a refusal", "null", "no answer"],
)
def test_no_status_at_the_start(chromium: Browser, given: dict[str, Any] | None, shown: str) -> None:
    """The page says why it has no status, goes on asking, and also shows events and notices."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        page.route("**/" + STATUS, lambda route: route.fulfill(**given) if given else route.abort())
        with page.expect_response("**/" + EVENTS), page.expect_response("**/api/v1/notices"):
            page.goto(api.url)
        expect(page.locator("#link")).to_have_text(f"✕ no answer: {shown}")
        page.unroute("**/" + STATUS)
        expect(page.locator("#link")).to_have_text("✓ live")
        die(api, "dns", "ns1", "refused")
        api.emit(down("dns", "ns1", "refused"))
        expect(row(page, "ns1")).to_contain_text("refused")
        assert [] == faults


def test_an_answer_that_is_cut(chromium: Browser) -> None:
    """The connection ends in the middle of an answer: the page says that, and asks again."""
    with cut_answers() as url, served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        page.route("**/" + STATUS, lambda route: route.continue_(url=url))
        page.goto(api.url)
        expect(page.locator("#link")).to_have_text("✕ no answer: the daemon can't be reached")
        page.unroute("**/" + STATUS)
        expect(page.locator("#link")).to_have_text("✓ live")
        assert [] == faults


@contextmanager
def cut_answers() -> Iterator[str]:
    """A server that sends the first bytes of an answer, and closes the connection."""

    class Cut(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"pools": [')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_that_slept(chromium: Browser) -> None:
    """A browser slows the timers of a hidden page down: that is no silence of the daemon."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        page.clock.install()
        start(page, api.url)
        page.evaluate("""() => {
            window.titles = [];
            new MutationObserver(() => window.titles.push(document.title)).observe(
                document.head, {subtree: true, childList: true});
        }""")
        with page.expect_response("**/" + STATUS):
            page.clock.fast_forward("01:00")
        die(api, "dns", "ns1", "refused")
        expect(row(page, "ns1")).to_contain_text("refused")
        assert [] == [title for title in page.evaluate("window.titles") if "no answer" in title]
        assert [] == faults


def test_a_page_that_stays_open(chromium: Browser) -> None:
    """The page marks one moment for measurements: the browser keeps all marks for as long as the page is open."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        for name in ("ns1", "ns2"):
            api.service.change_backend("dns", name, reason=f"a status with {name}")
            expect(row(page, name)).to_contain_text(f"a status with {name}")
        later_answer(api, page)
        assert ["nftlb-shown"] == page.evaluate("performance.getEntriesByType('mark').map(one => one.name)")
        assert [] == faults


def test_another_clock(chromium: Browser) -> None:
    """Times are those of the daemon, also if the clock of the browser is years behind."""
    service = showcase()
    service.started = datetime.now(UTC) - timedelta(hours=2, minutes=30)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        page.clock.install(time=NOON - timedelta(days=2000))
        start(page, api.url)
        expect(page.locator("#version")).to_contain_text("up for 2 h")
        assert [] == faults


# --- the other views ------------------------------------------------------------------------------------------------


def test_two_questions_about_packets(chromium: Browser) -> None:
    """The explanation of the packet that was asked about last is shown, also if an earlier answer comes later."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url + "#explain")
        page.get_by_label("To", exact=True).fill("192.0.2.53:53/udp")
        first: list[Route] = []
        page.route("**/api/v1/explain*", lambda route: first.append(route))  # noqa: PLW0108 - needs a function
        page.get_by_label("From").fill("198.51.100.1:40000")
        page.keyboard.press("Enter")
        await_requests(page, first)
        answer(page, "api/v1/explain", {**explanation(), "listener": "the second answer"})
        page.keyboard.press("Enter")
        expect(page.locator("#explanation")).to_contain_text("the second answer")
        first[0].fulfill(json={**explanation(), "listener": "the first answer"})
        answer(page, "api/v1/explain", {**explanation(), "pool": None, "reason": "the third answer"})
        page.evaluate("fetch('api/v1/explain').then(found => found.text())")  # comes after the first answer
        expect(page.locator("#explanation")).to_contain_text("the second answer")
        page.keyboard.press("Enter")
        expect(page.locator("#explanation")).to_contain_text("the third answer")
        assert [] == faults


@pytest.mark.parametrize("lost", [{"slots": []}, {"slots": [], "verdict": "drop"}], ids=["denied", "no backend"])
def test_a_packet_that_is_lost(chromium: Browser, lost: dict[str, Any]) -> None:
    """The explanation of a packet that no backend gets does not look as if all is well."""
    with served(showcase()) as api, opened(chromium, api.url + "#explain") as (page, faults):
        page.get_by_label("From").fill("198.51.100.1:40000")
        page.get_by_label("To", exact=True).fill("192.0.2.53:53/udp")
        good = page.locator("#explanation .good")
        for changes, notes in (({}, 1), (lost, 0)):
            answer(page, "api/v1/explain", {**explanation(), **changes, "decided_by": f"{notes} notes"})
            page.get_by_role("button", name="Explain", exact=True).click()
            expect(page.locator("#explanation")).to_contain_text(f"{notes} notes")
            expect(good).to_have_count(notes)
        assert [] == faults


def test_listeners_that_change(chromium: Browser) -> None:
    """The listeners that the page offers follow the file, also if their number stays."""
    service = showcase()
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        service.put(service.shown["netflow"].model_copy(update={"listen": ("192.0.2.99:2055/udp",)}))
        expect(page.locator("#listeners option[value='192.0.2.99:2055/udp']")).to_have_count(1)
        assert [] == faults


@dataclass
class Filed(Traffic):
    """A daemon whose file and rules change."""

    config: dict[str, Any] = field(default_factory=dict)
    kernel: dict[str, Any] = field(default_factory=dict)

    async def overview(self) -> Overview:
        found = await super().overview()
        values = {name: getattr(found, name).model_copy(update=getattr(self, name)) for name in ("config", "kernel")}
        return found.model_copy(update=values)

    async def ruleset(self) -> str:
        return f"the rules after {self.kernel.get('swaps', 0)} changes\n"


def test_a_refused_file_that_is_mended(chromium: Browser) -> None:
    """The errors of a file vanish when the file has been read again by another way."""
    service = showcase(kind=Filed)
    assert isinstance(service, Filed)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url + "#configuration")
        answer(page, "api/v1/reload*", {"error": "the configuration is bad", "problems": ["f:3:1: lissen"]}, 422)
        page.get_by_role("button", name="Read the file again").click()
        problems = page.locator("#problems")
        expect(problems).to_contain_text("line 3, column 1 lissen")
        service.faults = (Fault(what="hooks", message="a later status", since=NOON),)
        expect(page.locator("#troubles")).to_contain_text("a later status")
        expect(problems).to_contain_text("line 3, column 1 lissen")
        service.config = {"attempted": NOON + timedelta(seconds=1), "loaded": NOON + timedelta(seconds=1)}
        expect(problems).to_be_empty()
        assert [] == faults


def test_errors_that_stay(chromium: Browser) -> None:
    """The errors of a file are not drawn again while they do not change: what the user has selected stays selected."""
    service = showcase(kind=Filed)
    assert isinstance(service, Filed)
    service.config = {"success": False, "problems": ("f:3:1: lissen",)}
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url + "#configuration")
        expect(page.locator("#problems li")).to_have_text("line 3, column 1 lissen")
        page.evaluate("window.before = document.querySelector('#problems li')")
        die(api, "dns", "ns1", "refused")
        expect(page.locator("#troubles")).to_contain_text("refused")
        assert page.evaluate("window.before.isConnected")
        service.config = {"success": False, "problems": ("f:4:1: lissen",)}
        expect(page.locator("#problems li")).to_have_text("line 4, column 1 lissen")
        assert [] == faults


def test_rules_that_change_while_they_are_read(chromium: Browser) -> None:
    """The page reads the rules again if they have changed before their answer arrives."""
    service = showcase(kind=Filed)
    assert isinstance(service, Filed)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        rules = Held(page, "api/v1/ruleset")
        start(page, api.url + "#configuration")
        rules.wait()
        service.kernel = {"swaps": 8}
        expect(page.locator("#kernel-state")).to_contain_text("8 changes")
        Held(page, STATUS)  # no later status repairs the page
        rules.release()
        expect(page.locator("#ruleset")).to_contain_text("the rules after 8 changes")
        assert [] == faults


def test_changes_of_rules_that_are_refused(chromium: Browser) -> None:
    """The page does not say that there is no change if it can't read the changes, and reads them again."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        answer(page, "api/v1/ruleset/changes", {"error": "too many requests wait"}, status=503)
        start(page, api.url + "#configuration")
        expect(page.locator("#changes")).to_have_text("too many requests wait")
        page.unroute("**/api/v1/ruleset/changes*")
        expect(page.locator("#changes")).to_contain_text("dns/ns1: down, was up: timeout")
        assert [] == faults


def test_numbers_that_change(chromium: Browser) -> None:
    """The weight in the open details follows the daemon, but what the user types stays."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        row(page, "ns1").get_by_role("button").click()
        weight, priority = page.get_by_label("Weight", exact=True), page.get_by_label("Priority", exact=True)
        expect(weight).to_have_value("1")
        priority.fill("7")
        page.evaluate("window.before = document.querySelector('#details .checks li')")
        api.service.change_backend("dns", "ns1", weight=5, priority=3)
        expect(weight).to_have_value("5")
        expect(priority).to_have_value("7")
        assert page.evaluate("window.before.isConnected")  # what the user selects there stays selected
        assert [] == faults


# --- changes --------------------------------------------------------------------------------------------------------


def begin_operating(page: Page, url: str) -> None:
    """Open the page, and enter the token."""
    start(page, url)
    page.get_by_role("button", name="Enter token").click()
    enter_token(page, TOKEN)
    expect(page.get_by_role("button", name="Forget token")).to_be_visible()


def test_a_change_that_ends_after_its_question_was_closed(chromium: Browser) -> None:
    """Its answer closes no other question, and a refusal is shown after that question."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        begin_operating(page, api.url)
        changes: list[Route] = []
        page.route("**/api/v1/backends", lambda route: changes.append(route))  # noqa: PLW0108 - needs a function
        row(page, "ns1").get_by_role("button").click()
        details, question = page.locator("#details"), page.locator("#question")
        for place, name in enumerate(("Drain", "Maintenance")):
            details.get_by_role("button", name=name).click()
            question.get_by_role("button", name="anyway").click()
            await_requests(page, changes, 1 + place)
            question.get_by_role("button", name="Cancel").click()
            expect(question).to_be_hidden()
        details.get_by_role("button", name="Remove").click()
        expect(question).to_contain_text("Remove dns/ns1?")
        changes[0].continue_()
        expect(page.locator("#news")).to_have_text("Drain dns/ns1: done")
        changes[1].fulfill(status=409, json={"error": "another change came first"})
        expect(details.locator(".chip")).to_contain_text("drained")
        expect(question).to_contain_text("Remove dns/ns1?")
        question.get_by_role("button", name="Cancel").click()
        expect(question).to_contain_text("another change came first")
        question.get_by_role("button", name="Close").click()
        assert ["change dns/ns1 drain None"] == api.service.done
        assert [] == faults


def test_a_refusal_from_before_the_token(chromium: Browser) -> None:
    """A request without a token is refused after the user has entered a token: the page keeps the token."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        start(page, api.url)
        row(page, "ns1").get_by_role("button").click()
        refusal = Held(page, "api/v1/backends?preview=true")
        page.get_by_role("button", name="Drain").click()
        refusal.wait()
        page.get_by_role("button", name="Remove").click()
        enter_token(page, TOKEN)
        question = page.locator("#question")
        expect(question).to_contain_text("Remove dns/ns1?")
        refusal.release()
        question.get_by_role("button", name="Cancel").click()
        expect(question).to_contain_text("Drain dns/ns1?")
        expect(page.locator("#token")).to_have_text("Forget token")
        assert [] == faults
