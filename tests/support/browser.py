"""A real browser for tests of the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from servers.programs import UNPACKED, data, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE = 20_000
"""Milliseconds to wait for what takes less than a second on a machine that has nothing else to do."""

_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
<dir>{root}/usr/share/fonts</dir>
<dir>/usr/share/fonts</dir>
<cachedir>{cache}</cachedir>
<alias><family>system-ui</family><prefer><family>Inter</family><family>DejaVu Sans</family></prefer></alias>
<alias><family>ui-monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


@contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """Run the browser, which keeps all its files in `directory`."""
    fonts = directory / "fonts.conf"
    fonts.write_text(_FONTS.format(root=UNPACKED, cache=directory / "fonts"))
    own = {"HOME": str(directory), "FONTCONFIG_FILE": str(fonts), "PATH": os.environ["PATH"]}
    servers = environment()
    private = UNPACKED.glob("usr/lib/*-linux-gnu*/pulseaudio")  # a library that only libpulse looks for
    servers["LD_LIBRARY_PATH"] = os.pathsep.join([servers["LD_LIBRARY_PATH"], *map(str, private)])
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=data("usr/lib/chromium/chromium-headless-shell"),
            env={**servers, **own},
            args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"],
        )
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(
    running: Browser, url: str, *, width: int = 1440, height: int = 900, dark: bool = False
) -> Iterator[tuple[Page, list[str]]]:
    """Open a page in a new session. Yields the page, and the list of its faults, which must stay empty.

    Faults are uncaught exceptions, and what the Content-Security-Policy refused.
    """
    context: BrowserContext = running.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", service_workers="block"
    )
    context.set_default_timeout(PATIENCE)
    page, faults = context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None
    )
    try:
        page.goto(url)
        yield page, faults
    finally:
        context.close()
