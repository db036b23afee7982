"""The web application: its parts, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from .api import Api
from .connection import begin
from .errors import answer_errors
from .events import Events
from .headers import add_headers
from .hosts import guard, no_further_names
from .limits import Limits
from .openapi import Description
from .page import Page
from .probes import Probes
from .shared import Shared
from .tokens import no_tokens

if TYPE_CHECKING:
    from nftlb.metrics import Metrics
    from nftlb.service import Service

    from .hosts import Allowed
    from .tokens import Tokens

DEFAULT_LIMITS = Limits()


def application(
    service: Service,
    metrics: Metrics,
    tokens: Tokens = no_tokens,
    limits: Limits = DEFAULT_LIMITS,
    allowed: Allowed = no_further_names,
) -> web.Application:
    """Make an application, for one `Server` that has the same limits."""
    app = web.Application(middlewares=[begin, answer_errors, guard(allowed)], client_max_size=limits.body)
    events, shared = Events(service, limits), Shared(limits.readers)
    parts = (
        Probes(service, metrics, shared),
        Api(service, tokens, limits, shared),
        events,
        Description(shared),
        Page(),
    )
    for part in parts:
        app.add_routes(part.routes())
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(events.stop)
    return app


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    add_headers(response)
