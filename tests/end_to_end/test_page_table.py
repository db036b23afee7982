"""The table of pools in the web page: figures, charts, bars, orders and filters, with a simulated daemon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from browser import PATIENCE, opened, row
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
        page.get_by_label("Find a pool, backend or address").fill("10.0.1.12")
        expect(page.locator("tr.backend")).to_have_count(1)
        expect(row(page, "syslog/log2")).to_contain_text("drained")
        assert [] == faults
