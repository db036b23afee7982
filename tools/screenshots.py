"""Takes the pictures of the web page that the documents show: `make screenshots`.

A simulated daemon gives the same states and about the same traffic each time. `tools/screenshots.py DIRECTORY` writes
all views in both colour schemes and three widths into another directory, to look at.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from browser import browser, opened
from page_service import Served, answer, explanation, kept_changes, kept_events, notices, served, showcase

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

ROOT = Path(__file__).resolve().parents[1]
HOST = "lb1.example.net"
MOMENTS, SECONDS = 75, 2
"""The charts show this number of readings, with so many seconds between two readings."""


class Picture(NamedTuple):
    """A picture: its file name, its size in pixels, its colours, and what is on the screen."""

    name: str
    width: int
    height: int
    dark: bool
    view: str


DOCUMENTS = (
    Picture("page", 1280, 700, dark=False, view="pools"),
    Picture("page-backend", 1280, 800, dark=True, view="backend"),
    Picture("page-phone", 390, 844, dark=False, view="pools"),
)
VIEWS = ("pools", "backend", "pool", "timeline", "configuration", "explain", "notices")
SIZES = ((1440, 900), (768, 1024), (390, 844))


def main() -> None:
    if len(sys.argv) > 1:
        directory = Path(sys.argv[1])
        schemes = ((False, "light"), (True, "dark"))
        pictures = [
            Picture(f"{width}-{scheme}-{view}", width, height, dark, view)
            for width, height in SIZES
            for dark, scheme in schemes
            for view in VIEWS
        ]
    else:
        directory, pictures = ROOT / "docs" / "images", list(DOCUMENTS)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as running:
        for picture in pictures:
            with served(showcase(datetime.now(UTC))) as api:
                take(running, api, picture, directory / f"{picture.name}.png")


def take(running: Browser, api: Served, picture: Picture, file: Path) -> None:
    """Let some minutes pass, open the view, and write the picture."""
    with opened(running, "about:blank", width=picture.width, height=picture.height, dark=picture.dark) as (
        page,
        faults,
    ):
        page.route("**/api/v1/status", name_the_host)
        answer(page, "api/v1/history", {"events": kept_events(datetime.now(UTC))})
        answer(page, "api/v1/notices", notices())
        answer(page, "api/v1/explain", explanation())
        answer(page, "api/v1/ruleset/changes", kept_changes(datetime.now(UTC)))
        page.clock.install()
        page.goto(api.url)
        page.locator("tr.pool").first.wait_for()
        for _ in range(MOMENTS):
            api.service.advance(SECONDS)
            with page.expect_response("**/api/v1/status"):
                page.clock.run_for(1000 * SECONDS)
        show(page, api, picture.view)
        api.service.advance(SECONDS)
        page.clock.run_for(1000 * SECONDS)
        time.sleep(0.3)
        page.screenshot(path=file)
        if faults:
            raise SystemExit("\n".join(faults))


def name_the_host(route: Route) -> None:
    """Give the simulated daemon the name of a host."""
    response = route.fetch()
    route.fulfill(response=response, json={**response.json(), "host": HOST})


def show(page: Page, api: Served, view: str) -> None:
    if view == "backend":
        page.locator("tr.backend").get_by_role("button", name="ns4", exact=True).click()
    elif view == "pool":
        page.locator("tr.pool").get_by_role("button", name="dns", exact=True).click()
    else:
        page.goto(f"{api.url}#{view}")
    if view == "explain":
        page.get_by_label("From").fill("198.51.100.7:40000")
        page.get_by_label("To", exact=True).fill("192.0.2.53:53/udp")
        page.get_by_role("button", name="Explain").click()


if __name__ == "__main__":
    main()
