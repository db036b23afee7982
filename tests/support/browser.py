"""A real browser for tests of the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import socket
from contextlib import closing, contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from servers.programs import UNPACKED, data, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Locator, Page

PATIENCE = 60_000
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
            timeout=PATIENCE,
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


# --- parts of the page ----------------------------------------------------------------------------------------------

VIEWS = ("pools", "timeline", "configuration", "explain", "notices")


def row(page: Page, name: str) -> Locator:
    """The row of a backend of an open pool."""
    return page.locator("tr.backend", has=page.get_by_role("button", name=name, exact=True))


def enter_token(page: Page, token: str) -> None:
    """Fill in the dialog that asks for the token."""
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("button", name="Use this token").click()


# --- times ----------------------------------------------------------------------------------------------------------


def load_time(page: Page) -> float:
    """Milliseconds from the start of the navigation to the moment when the first status was on the page."""
    return float(
        page.evaluate(
            """() => new Promise(done => {
                const look = () => {
                    const [first] = performance.getEntriesByName('nftlb-shown');
                    if (first) done(first.startTime); else setTimeout(look, 5);
                };
                look();
            })"""
        )
    )


def watch_for(page: Page, state: str) -> None:
    """Begin to watch for a state in the rows of backends; `seen_at` has the result."""
    page.evaluate(
        """state => {
            const rows = document.getElementById('rows');
            const chips = () => [...rows.querySelectorAll('.backend .chip')];
            const seen = () => chips().some(one => one.textContent.includes(state));
            window.seen = new Promise((done, fail) => {
                setTimeout(() => fail(new Error(`${state} did not appear within 20 s`)), 20000);
                const watch = new MutationObserver(() => {
                    if (!seen()) return;
                    watch.disconnect();
                    requestAnimationFrame(() => done(Date.now()));
                });
                watch.observe(rows, {subtree: true, childList: true, characterData: true});
            });
        }""",
        state,
    )


def seen_at(page: Page) -> float:
    """When the state was on the screen, in milliseconds since 1970."""
    return float(page.evaluate("window.seen"))


# --- a daemon in a namespace ----------------------------------------------------------------------------------------


@contextmanager
def tcp_address(path: Path) -> Iterator[str]:
    """A URL on this host's loopback interface for the Unix socket of a daemon in a namespace."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def accept() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    Thread(target=join, args=(server.accept()[0],), daemon=True).start()

        def join(client: socket.socket) -> None:
            daemon = socket.socket(socket.AF_UNIX)
            with client, daemon, suppress(OSError):  # the daemon is stopped, or one of both left
                daemon.connect(str(path))
                back = Thread(target=copy, args=(daemon, client), daemon=True)
                back.start()
                copy(client, daemon)
                back.join()

        Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
