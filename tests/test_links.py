"""Links of documents: those to other sites are known, and `make links` finds pages and headings that are missing."""

from __future__ import annotations

import runpy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LINKS = runpy.run_path(str(Path(__file__).parents[1] / "tools/links.py"))
KNOWN = {
    "https://datatracker.ietf.org/doc/draft-ietf-quic-load-balancers/",
    "https://dnsdist.org/guides/serverselection.html",
    "https://github.com/google/re2/wiki/Syntax",
    "https://manpages.ubuntu.com/manpages/jammy/man8/ipvsadm.8.html",
    "https://nginx.org/en/docs/stream/ngx_stream_proxy_module.html#proxy_requests",
    "https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/udp_filters/udp_proxy",
    "https://www.haproxy.com/documentation/haproxy-configuration-tutorials/protocol-support/syslog/",
}
"""The links to other sites. Run `make links` before you add a link."""


class _Site(BaseHTTPRequestHandler):
    """A site with one page, which has one heading; another address leads to the page."""

    def do_GET(self) -> None:
        self.send_response({"/page": 200, "/moved": 301}.get(self.path, 404))
        self.send_header("Location", "/page")
        self.end_headers()
        self.wfile.write(b'<h2 id="there">A heading</h2>')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the library
        """Write no log."""


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_links_to_other_sites_are_known() -> None:
    """The documents have the links of the list above and no others; all use TLS."""
    found = {link for path in LINKS["documents"]() for link in LINKS["external_links"](path.read_text())}

    assert found == KNOWN
    assert [] == [link for link in KNOWN if urlsplit(link).scheme != "https" or "." not in urlsplit(link).netloc]


def test_links_are_found() -> None:
    """Links of both forms are found; code and links to files are not."""
    text = "[a](https://a.example/x#y), <http://b.example>, `http://c.example`, [d](d.md), [e](#e)\n"

    assert ["https://a.example/x#y", "http://b.example"] == LINKS["external_links"](text)


def test_pages_are_visited(site: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A page that exists is good, also behind a redirection; a page or a heading that is missing is a fault."""
    assert 0 == LINKS["main"]([f"{site}/page", f"{site}/page#there", f"{site}/moved#there"])
    assert 1 == LINKS["main"]([f"{site}/page#here", f"{site}/gone", "http://127.0.0.1:1/"])

    faults = capsys.readouterr().out.splitlines()
    assert f"{site}/page#here: the page has no #here" == faults[0]
    assert f"{site}/gone: HTTP Error 404: Not Found" == faults[1]
    assert faults[2].startswith("http://127.0.0.1:1/: ")
