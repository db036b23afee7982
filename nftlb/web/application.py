"""The web application: routes, middlewares, headers, and the files of the status page."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING

from aiohttp import web

from nftlb.printable import show

from .admission import Admission, check_hosts, no_tokens, only_own_hosts
from .api import ApiRoutes, MonitoringRoutes
from .compression import COMPRESSED, PLAIN, SMALL, accepts_gzip, compress
from .connection import Limits, request_started
from .errors import RequestError, add_headers, answer_errors
from .events import EventStreams
from .insight import InsightRoutes
from .openapi import Description
from .routes import bind
from .shared import SharedResponses

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from aiohttp.typedefs import Handler

    from nftlb.metrics import Metrics
    from nftlb.service import Service

    from .admission import Allowed, Operators, Tokens


class StatusPage:
    """The routes of the status page: the document, and the scripts and styles that the document names."""

    def __init__(self) -> None:
        folder = files(__package__).joinpath("page")
        self._files = {file.name: PageFile(file) for file in folder.iterdir() if file.name.endswith(tuple(_TYPES))}

    def handlers(self) -> dict[str, Handler]:
        return {"page": self.page, "pageFile": self.file}

    async def page(self, request: web.Request) -> web.Response:
        return self._files["index.html"].response(request)

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in self._files:
            raise RequestError(404, f"the page has no file {show(name)}")
        return self._files[name].response(request)


_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows scripts and styles that are files of this server, and requests to this server; nothing inline."""


class PageFile:
    """A file of the page. A browser asks each time, and downloads the file again only if nftlb was upgraded."""

    def __init__(self, file: Traversable) -> None:
        self._content = file.read_bytes()
        self._type = _TYPES[PurePath(file.name).suffix]
        self._digest = hashlib.sha256(self._content).hexdigest()

    def response(self, request: web.Request) -> web.Response:
        """The file, or 304 if the browser has the file."""
        gzip = accepts_gzip(request)
        headers = {
            "ETag": f'"{self._digest}{"-gzip" if gzip else ""}"',
            "Cache-Control": "no-cache",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            **(COMPRESSED if gzip else PLAIN),
        }
        if headers["ETag"] in request.headers.get("If-None-Match", "").split(", "):
            return web.Response(status=304, headers=headers)
        body = self._compressed if gzip else self._content
        return web.Response(body=body, content_type=self._type, charset="utf-8", headers=headers)

    @cached_property
    def _compressed(self) -> bytes:
        return compress(self._content, SMALL)


# --- the application --------------------------------------------------------------------------------------------------

DEFAULT_LIMITS = Limits()


def application(
    service: Service,
    metrics: Metrics,
    tokens: Tokens = no_tokens,
    limits: Limits = DEFAULT_LIMITS,
    allowed: Allowed = only_own_hosts,
    operators: Operators | None = None,
    shared: SharedResponses | None = None,
) -> web.Application:
    """Return an application for one `HttpServer` with the same limits.

    `operators` is only for the daemon's own socket: with this argument, trusted users of the host need no token.
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
