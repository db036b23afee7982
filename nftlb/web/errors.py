"""Error responses, of the form `{"error": ..., "problems": [...], "faults": [...]}`, and headers of all responses."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from aiohttp import web

from nftlb.errors import ConfigError, NftlbError, Problem
from nftlb.printable import show
from nftlb.service import Conflict, UnknownBackend, UnknownPool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATUS: tuple[tuple[type[NftlbError], int], ...] = (
    (UnknownPool, 404),
    (UnknownBackend, 404),
    (Conflict, 409),
    (ConfigError, 422),
    (NftlbError, 503),  # Unapplied, KernelError, SystemFault: caused by the host, not by the request
)


class RequestError(Exception):
    """Ends a request with an error response; `problems` are the faults of the request, one line each.

    `field` is the parameter of the query that is wrong, if one is.
    """

    def __init__(
        self,
        status: int,
        message: str,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.problems = problems
        self.headers = headers
        self.faults = (Problem("", 0, 0, field, message),) if field else ()


def error_response(
    status: int,
    message: str,
    problems: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    faults: Iterable[Problem] = (),
) -> web.Response:
    """Make an error response. `faults` are the places of the problems, for programs."""
    body: dict[str, object] = {"error": message}
    if problems:
        body["problems"] = list(problems)
    if found := [asdict(fault) for fault in faults]:
        body["faults"] = found
    text = json.dumps(body) + "\n"
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn exceptions of a handler into error responses. Only a bug of nftlb gives status 500, and a log entry."""
    try:
        return await handler(request)
    except RequestError as refused:
        return error_response(refused.status, refused.message, refused.problems, refused.headers, refused.faults)
    except NftlbError as error:
        return _known_error_response(error)
    except web.HTTPException as error:
        return _http_error_response(request, error)
    except web.RequestPayloadError:
        return error_response(400, "the body does not match the headers that describe it")
    except Exception:
        if request.transport is None:
            raise  # the client has left
        log.exception("a fault of nftlb itself: %s %s", request.method, show(request.path))
        return error_response(500, "a fault of nftlb itself; its log says more")


def _known_error_response(error: NftlbError) -> web.Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if isinstance(error, ConfigError):
        lines = [str(problem) for problem in error.problems]
        return error_response(status, "the configuration is bad", lines, faults=error.problems)
    return error_response(status, str(error))


def _http_error_response(request: web.Request, error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPNotFound():
            return error_response(404, "no such path; /api/v1/openapi.json lists all paths")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return error_response(
                405, f"{request.method} can't be done here; allowed: {allowed}", headers={"Allow": allowed}
            )
    return error_response(error.status, error.reason)


def add_headers(response: web.StreamResponse) -> None:
    """Add the headers of every response: no use by other sites, no caching, no guessing of content types."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "nftlb"  # without versions, which would tell an attacker which bugs to try
