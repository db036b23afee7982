"""The web page in a real browser: with the real daemon and its kernel, and with a simulated daemon.

The simulated daemon has states and sizes that a lab of namespaces does not have.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from browser import PATIENCE, VIEWS, enter_token, load_time, opened, row, tcp_address
from daemon_process import PORT, TOKEN, Running, dns
from fake_service import a_backend, a_pool
from page_service import Traffic, answer, explanation, kept_changes, kept_events, many_pools, notices, served, showcase
from playwright.sync_api import expect
from pool_builders import backend, config, pool

from nftlb.kernel.surroundings import Surroundings
from nftlb.lab import VIP4, Lab
from nftlb.model import EventKind, Forward
from nftlb.requirements import backend_path, lacking, pool_lines
from nftlb.service import Event

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from page_service import Served
    from playwright.sync_api import Browser, Page

pytest_plugins = ("browser_fixtures",)
expect.set_options(timeout=PATIENCE)
COUNT_DRAWINGS = """
window.drawings = 0;
new MutationObserver(() => window.drawings++).observe(document.getElementById("events"), {childList: true});
"""
WORK = """() => {
    const loaded = [performance.getEntriesByType("navigation")[0], ...performance.getEntriesByType("resource")];
    const first = loaded.filter(one => one.responseEnd <= performance.getEntriesByName("nftlb-shown")[0].startTime);
    return {
        requests: first.length,
        states: first.filter(one => one.name.endsWith("/status")).length,
        bytes: first.reduce((sum, one) => sum + one.transferSize, 0),
        elements: document.querySelectorAll("*").length,
        rows: document.querySelectorAll("#rows tr").length,
    };
}"""
MOST = {"requests": 21, "states": 1, "bytes": 120_000, "elements": 1500, "rows": 60}
"""The limits of what the browser loads and makes before the first status is on the screen."""
HOSTILE = "<img src=x onerror=document.title='taken'>"


# --- the real daemon ------------------------------------------------------------------------------------------------


def test_a_day_of_a_balancer(chromium: Browser, tmp_path: Path) -> None:
    """A backend that dies, a drain, a refused file and a restart are on the screen without a reload of the page."""
    health = {"udp": {"send": "?", "match": "."}, "interval": "200ms", "fast_interval": "50ms", "timeout": "2s"}
    with Lab(backends=3) as lab:
        pools = dns(lab, health={**health, "rise": 1, "fall": 2})
        with (
            lab.serve(PORT, backends=lab.backends[:2]),
            ExitStack() as third,
            Running(lab.balancer, tmp_path, pools) as daemon,
            tcp_address(daemon.socket) as url,
            opened(chromium, url) as (page, faults),
        ):
            third.enter_context(lab.serve(PORT, backends=lab.backends[2:]))
            expect(row(page, "b3")).to_contain_text("in service")
            watch_a_day(page, lab, daemon, pools, third)
            assert [] == faults


def watch_a_day(page: Page, lab: Lab, daemon: Running, pools: dict[str, Any], third: ExitStack) -> None:
    page.evaluate("window.here = 'the same document'")

    third.close()  # the server of b3
    expect(row(page, "b3")).to_contain_text("down")
    expect(page.locator("#troubles")).to_contain_text("dns/b3down:")
    expect(page.locator("tr.pool")).to_contain_text("ready, 1 down")

    row(page, "b2").get_by_role("button").click()
    page.get_by_role("button", name="Drain").click()
    enter_token(page, TOKEN)
    expect(page.locator("#details .chip")).to_contain_text("drained")
    page.keyboard.press("Escape")
    expect(row(page, "b2")).to_contain_text("drained")
    assert "drain" == daemon.backend("dns", "b2")["admin"]
    with lab.client.connect((VIP4, 53), connected=False) as client:
        answers = {found.backend for found in client.exchange(12)}
    assert {"b1"} == answers  # neither the dead backend nor the drained backend

    daemon.write({"dns": {**pools["dns"], "lissen": "192.0.2.1:53/udp"}})
    page.get_by_role("link", name="Configuration").click()
    page.get_by_role("button", name="Read the file again").click()
    expect(page.locator("#problems")).to_contain_text(re.compile(r"line \d+.*lissen"))
    expect(page.locator("#ruleset")).to_contain_text("chain")
    daemon.write(pools)

    daemon.kill()
    expect(page.locator("#link")).to_contain_text("no answer")
    daemon.start()
    expect(page.locator("#link")).to_contain_text("live")
    page.get_by_role("link", name="Pools").click()
    expect(row(page, "b2")).to_contain_text("drained")
    third.enter_context(lab.serve(PORT, backends=lab.backends[2:]))
    expect(row(page, "b3")).to_contain_text("in service")
    assert "the same document" == page.evaluate("window.here")


# --- a simulated daemon ---------------------------------------------------------------------------------------------


def test_hostile_names_stay_text(chromium: Browser) -> None:
    """HTML in a reason, a name, an event or an error is shown as text and not run."""
    service = Traffic()
    down: dict[str, Any] = {"up": False, "in_rotation": False, "share": 0.0}
    service.put(a_pool(HOSTILE, a_backend(HOSTILE, reason=HOSTILE, **down), listen=(HOSTILE,)))
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        event = Event(kind=EventKind.BACKEND_DOWN, at=datetime.now(UTC), pool=HOSTILE, backend=HOSTILE, reason=HOSTILE)
        answer(
            page,
            "api/v1/notices",
            {"at": None, "findings": [{"subject": HOSTILE, "severity": "error", "message": HOSTILE, "fix": [HOSTILE]}]},
        )
        with api.reloaded():
            page.reload()
        expect(row(page, HOSTILE)).to_contain_text(HOSTILE)
        api.emit(event)
        for view in VIEWS:
            page.evaluate(f"location.hash = '#{view}'")
            expect(page.locator(f"#view-{view}")).to_be_visible()
        page.evaluate("location.hash = '#timeline'")
        expect(page.locator("#events")).to_contain_text(HOSTILE)
        page.evaluate("location.hash = '#pools'")
        row(page, HOSTILE).get_by_role("button").click()
        expect(page.locator("#details dl")).to_contain_text(HOSTILE)
        assert 0 == page.locator("img").count()
        assert page.title().endswith("nftlb")
        assert [] == faults


def test_many_pools(chromium: Browser) -> None:
    """200 pools with 10 backends load with little work, a change comes to the screen, and trouble comes first.

    The limits of counts guard the times, which depend on the machine: bench/page.py measures them.
    """
    with served(many_pools()) as api, opened(chromium, api.url) as (page, faults):
        expect(page.locator("tr.pool").first).to_be_visible()
        load_time(page)  # waits for the first status on the screen
        assert [] == [name for name, count in page.evaluate(WORK).items() if count > MOST[name]]
        page.locator("#more").scroll_into_view_if_needed()
        expect(page.locator("#rows tr")).to_have_count(120)  # more rows follow when the user scrolls
        page.evaluate("scrollTo(0, 0)")
        let_a_backend_die(api)
        expect(page.locator("#rows tr").nth(1)).to_contain_text("down")
        expect(page.locator("#troubles")).to_contain_text("pool-150/b7")
        page.get_by_label("Find a pool, backend, address or label").fill("pool-199 b3")
        expect(page.locator("#matches")).to_have_text("1 of 2,000 backends")
        expect(page.locator("tr.backend")).to_contain_text("10.199.0.4:5353")
        page.get_by_label("Find a pool, backend, address or label").fill("")
        page.get_by_label("Group by").select_option("state")
        expect(page.locator("tr.group").first).to_contain_text("1 backend")
        page.get_by_label("Show", exact=False).first.select_option("down")
        expect(page.locator("#matches")).to_have_text("1 of 2,000 backends")
        assert [] == faults


DOWN: dict[str, Any] = {"up": False, "in_rotation": False, "share": 0.0}


def put_lacking(
    service: Traffic, name: str, lacks: int, refuse: Container[int] = (), device: str | None = None
) -> None:
    """Let all backends of a pool be down, the first for a lack of this host. Others, and `refuse`, refuse packets."""
    was = service.shown[name]
    behind = tuple(backend(one.name, f"{one.address}:53", device=device) for one in was.backends[:lacks])
    wanted = pool(name, "192.0.2.53:53/udp", behind, forward=Forward.DSR if device else Forward.NAT)
    host = Surroundings((), {}, {4: True, 6: True})
    lost = {place: backend_path(wanted, one, host).trouble for place, one in enumerate(behind) if place not in refuse}
    dead = tuple(
        one.model_copy(update={**DOWN, "reason": lost.get(place, "refused")}) for place, one in enumerate(was.backends)
    )
    lines = pool_lines(lacking(config(wanted), host))
    off = {"ready": False, "healthy": 0, "mode": "fallback", "lacking": lines}
    service.put(was.model_copy(update={**off, "backends": dead}))


def test_the_trouble_of_many_backends(chromium: Browser) -> None:
    """With 2,000 backends down there is a line for each pool, some at first; its details come when they are opened."""
    service = many_pools()
    first, *others = service.shown.values()
    service.put(first.model_copy(update={"ready": False, "healthy": 0, "mode": "fallback"}))
    for other in others:
        put_lacking(service, other.name, 9)
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        lines = page.locator("#troubles > li")
        expect(lines).to_have_count(6)
        line = lines.filter(has=page.get_by_role("button", name="pool-001", exact=True))
        causes = line.get_by_role("button", name="11 causes")
        sentence = "not ready: 0 usable, the quorum is 1; 9 backends down: no route to …; 1 backend down: refused"
        expect(line.locator(".what")).to_have_text(sentence)
        expect(page.locator("#trouble-more")).to_have_text("Show all 200")
        assert 0 == page.locator("#troubles ul li").count()
        assert 230 > page.locator("#trouble").evaluate("one => one.clientHeight")
        causes.click()
        expect(line.locator("ul li")).to_have_count(11)
        expect(line.locator("ul")).to_contain_text("b3: down: no route to 10.1.0.4")
        api.service.change_backend("pool-001", "b3", reason="no answer")
        expect(line.locator("ul")).to_contain_text("b3: down: no answer")  # it stays open, and current
        causes.click()
        expect(line.locator("ul li")).to_have_count(0)
        page.locator("#trouble-more").click()
        expect(page.locator("#matches")).to_have_text("1,990 of 2,000 backends")
        assert [] == faults


QUORUM, SAME = "not ready: 0 usable, the quorum is 1; ", "; the same for {0}/b1, {0}/b2, {0}/b3 and 6 more; "
ROUTE = "not ready: there is no route to {1}, backend {0}/{2}; ip route add {1} via ROUTER"
SENTENCES: dict[str, tuple[dict[str, Any], str]] = {
    "pool-000": ({"lacks": 10}, QUORUM + "10 backends down: no route to …"),
    "pool-001": ({"lacks": 3}, QUORUM + "7 backends down: refused; 3 backends down: no route to …"),
    "pool-002": ({"lacks": 10, "device": "eth7"}, QUORUM + "10 backends down: there is no interface eth7"),
    "pool-003": (
        {"lacks": 10, "refuse": [1]},
        ROUTE.format("pool-003", "10.3.0.1", "b0")
        + SAME.format("pool-003")
        + "9 backends down: no route to …; 1 backend down: refused",
    ),
    "pool-004": (
        {"lacks": 10, "refuse": [9]},
        ROUTE.format("pool-004", "10.4.0.1", "b0")
        + SAME.format("pool-004")
        + "9 backends down: no route to …; 1 backend down: refused",
    ),
    "pool-005": (
        {"lacks": 3, "refuse": [1]},
        ROUTE.format("pool-005", "10.5.0.2", "b1") + "; 8 backends down: refused; 2 backends down: no route to …",
    ),
}
"""By pool: what the host lacks, and the line of trouble. b1 is named in the line for ten backends, b9 is not."""


def test_a_cause_is_said_once(chromium: Browser) -> None:
    """The page leaves out what the reasons of backends say, unless one of these backends is down for another reason."""
    service = many_pools(len(SENTENCES))
    for name, (lack, _) in SENTENCES.items():
        put_lacking(service, name, **lack)
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        sentences = page.locator("#troubles .what")
        expect(sentences).to_have_text([sentence for _, sentence in SENTENCES.values()])
        assert [] == faults


TUNNEL = "the tunnel to 10.0.0.11 could not be made, or was deleted"


@pytest.mark.parametrize(
    ("reason", "known"), [(TUNNEL, True), ("the tunnel to 10.0.0.11", False), ("or was deleted", False), ("::1", False)]
)
def test_a_cause_with_some_of_the_words(chromium: Browser, reason: str, known: bool) -> None:
    """What the host lacks is shown if the reason of a backend has only some of its words."""
    service, line = Traffic(), f"{TUNNEL}, for backend dns/ns1; the daemon tries again"
    service.put(a_pool("dns", a_backend("ns1", **DOWN, reason=reason), lacking=(line,)))
    cause = "not ready: 0 usable, the quorum is 1" if known else f"not ready: {line}"
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        expect(page.locator("#troubles .what")).to_have_text(f"{cause}; 1 backend down: {reason}")
        assert [] == faults


def test_the_first_causes(chromium: Browser) -> None:
    """A click shows 25 causes of a line, and the number of the others."""
    service = many_pools(1, 1100)
    put_lacking(service, "pool-000", 0)
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        causes = page.locator("#troubles").get_by_role("button", name="1,101 causes")
        expect(causes).to_have_attribute("title", "The first 25 causes of pool-000")
        causes.click()
        expect(page.locator("#troubles ul li")).to_have_count(26)
        expect(page.locator("#troubles ul li").last).to_have_text("1,076 more")
        expect(page.locator("tr.pool")).to_contain_text("0 of 1,100 in service")
        assert [] == faults


def let_a_backend_die(api: Served) -> None:
    api.service.change_backend("pool-150", "b7", up=False, in_rotation=False, share=0.0, reason="no answer within 1s")
    now = datetime.now(UTC)
    api.emit(Event(kind=EventKind.BACKEND_DOWN, at=now, pool="pool-150", backend="b7", reason="no answer"))


def test_history_and_notices(chromium: Browser) -> None:
    """Events that the daemon keeps survive a reload of the page; new events come in front; notices have their fix."""
    with served(showcase()) as api, opened(chromium, "about:blank") as (page, faults):
        answer(page, "api/v1/history", {"events": kept_events()})
        answer(page, "api/v1/notices", notices())
        answer(page, "api/v1/explain", explanation())
        answer(page, "api/v1/ruleset/changes", kept_changes())
        page.goto(f"{api.url}#timeline")
        for _ in range(2):
            with api.reloaded():
                page.reload()
            expect(page.locator("#events .event")).to_have_count(len(kept_events()))
        expect(page.locator("#events")).to_contain_text("drain · by anna (192.0.2.200)")
        api.emit(Event(kind=EventKind.BACKEND_UP, at=datetime.now(UTC), pool="dns", backend="ns3", reason="noerror"))
        expect(page.locator("#events .event").first).to_contain_text("backend up")
        page.evaluate(COUNT_DRAWINGS)
        for number in range(40):
            api.emit(Event(kind=EventKind.SWAP, at=datetime.fromtimestamp(2e9 + number, UTC), pool="dns"))
        expect(page.locator("#events .event")).to_have_count(len(kept_events()) + 41)
        assert page.evaluate("window.drawings") <= 20  # events that arrive together are drawn together
        page.locator("#timeline-kind").select_option("operated")
        expect(page.locator("#events .event")).to_have_count(1)

        page.get_by_role("link", name="Notices (1)").click()
        expect(page.locator("#notices")).to_contain_text(notices()["findings"][0]["fix"][0])
        page.get_by_role("link", name="Configuration").click()
        expect(page.locator("#changes")).to_contain_text("dns/ns3: down, was up · 1 line added, 1 deleted")
        page.get_by_role("link", name="Explain a packet").click()
        expect(page.locator("#listeners option").first).to_be_attached()
        offered = page.locator("#listeners option").evaluate_all("all => all.map(one => one.value)")
        assert "192.0.2.12:1812/udp" in offered  # the first port of a range
        assert [] == [place for place in offered if "eth0" in place or "[::]" in place or "-" in place]
        page.get_by_label("From").fill("198.51.100.7:40000")
        page.get_by_label("To", exact=True).fill("192.0.2.53:53/udp")
        page.keyboard.press("Enter")
        expect(page.locator("#explanation")).to_contain_text("Pool dns takes this packet")
        assert [] == faults
