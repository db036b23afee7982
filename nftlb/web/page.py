"""`GET /`: the page, one file without anything from elsewhere."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from importlib.resources import files

from aiohttp import web


class Page:
    def __init__(self) -> None:
        self._html = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        self._headers = {"Content-Security-Policy": policy(self._html), "Cache-Control": "no-cache"}

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self.page)]

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html", headers=self._headers)


def policy(html: str) -> str:
    """Allow the scripts and styles of this page, by their digests, and questions to its own origin; nothing else."""
    allowed = {tag: " ".join(_digests(html, tag)) for tag in ("script", "style")}
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {allowed['script']}",
            f"style-src {allowed['style']}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _digests(html: str, tag: str) -> list[str]:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]
