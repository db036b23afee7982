"""The table of pools in the web page: figures, charts, bars, orders and filters, with a simulated daemon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from browser import PATIENCE, opened, row
from fake_service import a_backend, a_pool
from page_service import Traffic, served, showcase
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from nftlb.service import Overview

pytest_plugins = ("browser_fixtures",)
expect.set_options(timeout=PATIENCE)
UNKNOWN = "\N{EN DASH}"
PLACES = "all => [...new Set(all.map(one => JSON.stringify([one.getBoundingClientRect().x, one.offsetWidth])))]"


class Busy(Traffic):
    """Traffic passes between two readings of the state."""

    async def overview(self) -> Overview:
        self.advance(2)
        return await super().overview()


def test_figures(chromium: Browser) -> None:
    """Each pool and backend has a chart and its rate; backends have shares on one scale, replies and response times."""
    service = showcase(kind=Busy)
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        expect(page.locator("#host")).to_have_text("lb1")
        ns1 = row(page, "ns1")
        expect(ns1.locator(".cell-answered")).to_have_text("99.9 %")
        expect(ns1.locator(".cell-response")).to_have_text("1.2 ms")
        expect(row(page, "ns3").locator(".cell-response")).to_have_text(UNKNOWN)
        expect(page.locator("tr.pool .spark canvas")).to_have_count(5)
        expect(page.locator("tr.backend .spark canvas")).to_have_count(12)
        expect(ns1.locator(".cell-share")).to_have_text(re.compile(r"^[23]\d\.\d / 25\.0 %$"))
        expect(row(page, "ns4").locator(".cell-share")).to_have_text(re.compile(r"^[45]\d\.\d / 50\.0 %$"))
        assert 1 == len(page.locator(".share").evaluate_all(PLACES))  # all bars stand in one line
        for name, title in (("ns1", "Packets per second"), ("dns", "Packets per second of each backend")):
            page.locator("#rows").get_by_role("button", name=name, exact=True).click()
            expect(page.locator("#details .chart canvas")).to_have_count(2)
            expect(page.locator("#details figcaption")).to_have_text([title, "Response time of checks, ms"])
            page.get_by_role("button", name="Close", exact=True).click()
        assert [] == faults


RECORD_CHARTS = """() => {
    const {uPlot} = window;
    window.drawn = [];
    window.uPlot = function (options, data, place) {
        window.drawn.push(data.map(one => one.length));
        return new uPlot(options, data, place);
    };
}"""


def test_the_charts_of_a_pool_whose_backends_change(chromium: Browser) -> None:
    """The charts of an open pool get lines for new backends, also in front, and show what is known of the others."""
    service = showcase(kind=Busy)
    with served(service) as api, opened(chromium, "about:blank") as (page, faults):
        page.clock.install()
        page.goto(api.url)
        for _ in range(5):
            with page.expect_response("**/api/v1/status"):
                page.clock.fast_forward(2500)
        page.locator("#rows").get_by_role("button", name="netflow", exact=True).click()
        lines = page.locator("#details figure").first.locator(".u-label")
        expect(lines).to_have_text(["flow1", "flow2", "flow3"])
        page.evaluate(RECORD_CHARTS)
        netflow = service.shown["netflow"]
        backends = (a_backend("flow0", address="10.0.2.9"), *netflow.backends[:2])
        service.put(netflow.model_copy(update={"backends": backends}))
        page.clock.fast_forward(2500)
        expect(lines).to_have_text(["flow0", "flow1", "flow2"])
        expect(page.locator("#details canvas")).to_have_count(2)
        (first, *_), *_ = [lengths for lengths in page.evaluate("window.drawn") if len(lengths) == 4]
        assert first >= 4
        assert [] == faults


def names(page: Page) -> list[str]:
    """The pools in the order of the table."""
    return page.locator("tr.pool .link").all_inner_texts()


def test_orders_groups_and_filters(chromium: Browser) -> None:
    """Trouble comes first; a click on a title orders by the column; states and words filter."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        expect(page.locator("tr.pool")).to_have_count(5)
        assert ["tftp", "dns", "syslog", "netflow", "radius"] == names(page)
        expect(page.locator("th[aria-sort=ascending]")).to_have_text("State")
        page.get_by_role("button", name="Name", exact=True).click()
        expect(page.locator("th[aria-sort=ascending]")).to_have_text("Name")
        assert ["dns", "netflow", "radius", "syslog", "tftp"] == names(page)
        page.get_by_label("Sort by").select_option("file")
        assert ["dns", "syslog", "netflow", "radius", "tftp"] == names(page)

        for kind, found in (("down", 2), ("out", 1), ("trouble", 3), ("good", 9), ("standby", 0), ("", 12)):
            page.locator("#filter").select_option(kind)
            expect(page.locator("tr.backend")).to_have_count(found)
        page.get_by_label("Group by").select_option("state")
        assert ["Down", "Out of service", "In service"] == page.locator("tr.group strong").all_inner_texts()
        page.get_by_label("Find a pool, backend, address or label").fill("10.0.1.12")
        expect(page.locator("tr.backend")).to_have_count(1)
        expect(row(page, "syslog/log2")).to_contain_text("drained")
        assert [] == faults


SITES = {"dns/ns1": "fra", "dns/ns2": "ams", "sip/gw1": "fra", "sip/gw2": ""}


def labelled() -> Traffic:
    """Two pools with backends at two sites, and a backend without a site."""
    service = Traffic()
    for pool in ("dns", "sip"):
        names = [key.partition("/")[2] for key in SITES if key.startswith(pool)]
        sites = {name: {"site": site} if (site := SITES[f"{pool}/{name}"]) else {} for name in names}
        of = {"tier": "gold"} if pool == "dns" else {}
        service.put(a_pool(pool, *(a_backend(name, labels={**of, **sites[name]}) for name in names), labels=of))
    return service


def test_labels(chromium: Browser) -> None:
    """Labels filter by the search and by a list, and group the backends; the list follows the labels that exist."""
    service = labelled()
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        search, backends = page.get_by_label("Find a pool, backend, address or label"), page.locator("tr.backend")
        for words, found in (("site=FRA", 2), ("site=fr", 0), ("site=", 3), ("tier=gold site=fra", 1), ("gold", 2)):
            search.fill(words)
            expect(backends).to_have_count(found)
        search.fill("")
        chosen = page.locator("#label")
        assert ["any", "site=ams", "site=fra", "tier=gold"] == chosen.locator("option").all_inner_texts()
        chosen.select_option("site=fra")
        expect(backends).to_have_count(2)
        page.get_by_role("button", name="Select all found").click()
        expect(page.locator("#selected")).to_have_text("2 backends selected")
        chosen.select_option("")

        page.get_by_label("Group by").select_option("label site")
        assert ["site=ams", "site=fra", "without site"] == page.locator("tr.group strong").all_inner_texts()
        assert ["dns/ns2", "dns/ns1", "sip/gw1", "sip/gw2"] == page.locator("tr.backend .link").all_inner_texts()
        service.change_backend("dns", "ns1", in_rotation=False, share=0.0)
        expect(page.locator("tr.group").nth(1)).to_contain_text("1 of 2 backends in service")
        page.get_by_role("button", name="dns/ns1", exact=True).click()
        expect(page.locator("#details dl")).to_contain_text("tier=gold, site=fra")
        page.get_by_role("button", name="Close", exact=True).click()

        for pool in service.shown.values():
            bare = tuple(backend.model_copy(update={"labels": {}}) for backend in pool.backends)
            service.put(pool.model_copy(update={"backends": bare, "labels": {}}))
        expect(page.locator("#by-label")).to_be_hidden()
        expect(page.locator("tr.group strong")).to_have_text(["without site"])
        assert [] == faults


def test_labels_are_ordered_when_they_change(chromium: Browser) -> None:
    """The order of many labels takes long: a status with the labels of the status before needs none."""
    service = labelled()
    with served(service) as api, opened(chromium, api.url) as (page, faults):
        expect(page.locator("#label option")).to_have_count(4)
        page.evaluate("""() => {
            window.orders = 0;
            const {Collator} = Intl;
            Intl.Collator = function (...all) { window.orders++; return new Collator(...all); };
        }""")
        service.change_backend("dns", "ns1", up=False, in_rotation=False, reason="refused")
        expect(page.locator("#troubles")).to_contain_text("refused")
        assert 0 == page.evaluate("window.orders")
        service.change_backend("dns", "ns1", labels={"site": "muc"})
        expect(page.locator("#label option")).to_have_text(["any", "site=ams", "site=fra", "site=muc", "tier=gold"])
        assert 1 == page.evaluate("window.orders")
        assert [] == faults


def test_no_labels(chromium: Browser) -> None:
    """Without labels, the page has no list for them."""
    with served(showcase()) as api, opened(chromium, api.url) as (page, faults):
        expect(page.locator("tr.pool")).to_have_count(5)
        expect(page.locator("#by-label")).to_be_hidden()
        assert ["pool", "state", "nothing"] == page.locator("#group option").all_inner_texts()
        assert [] == faults
