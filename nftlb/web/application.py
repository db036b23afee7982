"""The web application: routes, middlewares, headers, and the status page, one file that loads nothing else."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

from .admission import Admission, check_hosts, no_operators, no_tokens, only_own_hosts
from .api import ApiRoutes, MonitoringRoutes
from .connection import Limits, request_started
from .errors import add_headers, answer_errors
from .events import EventStreams
from .insight import InsightRoutes
from .openapi import Description
from .routes import bind
from .shared import SharedResponses

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from nftlb.metrics import Metrics
    from nftlb.service import Service

    from .admission import Allowed, Operators, Tokens


class StatusPage:
    """The route of the status page."""

    def __init__(self) -> None:
        self._html = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        self._headers = {"Content-Security-Policy": content_security_policy(self._html), "Cache-Control": "no-cache"}

    def handlers(self) -> dict[str, Handler]:
        return {"page": self.page}

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html", headers=self._headers)


def content_security_policy(html: str) -> str:
    """A policy that allows only the scripts and styles of this page, by digest, and requests to its own origin."""
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


# --- the application --------------------------------------------------------------------------------------------------

DEFAULT_LIMITS = Limits()


def application(
    service: Service,
    metrics: Metrics,
    tokens: Tokens = no_tokens,
    limits: Limits = DEFAULT_LIMITS,
    allowed: Allowed = only_own_hosts,
    operators: Operators = no_operators,
    shared: SharedResponses | None = None,
) -> web.Application:
    """Return an application for one `HttpServer` with the same limits.

    Applications with the same `shared` share its limits, so that two servers take no more of the loop's time than one.
    """
    app = web.Application(
        middlewares=[request_started, answer_errors, check_hosts(allowed)], client_max_size=limits.body
    )
    events, shared = EventStreams(service, limits), shared or SharedResponses(limits.readers)
    api = ApiRoutes(service, limits, shared)
    parts = (
        MonitoringRoutes(service, metrics, shared),
        api,
        InsightRoutes(service, shared),
        events,
        Description(shared),
        StatusPage(),
    )
    readers = {operation: handler for part in parts for operation, handler in part.handlers().items()}
    app.add_routes(bind(readers, api.changers(), Admission(tokens, operators)))
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(events.stop)
    return app


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    add_headers(response)
