"""Every way to say no: one shape of answer, `{"error": ..., "problems": [...]}`, for all of them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from nftlb.errors import ConfigError, NftlbError
from nftlb.model.reading import show
from nftlb.service import Conflict, UnknownBackend, UnknownPool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[NftlbError], int], ...] = (
    (UnknownPool, 404),
    (UnknownBackend, 404),
    (Conflict, 409),
    (ConfigError, 422),
    (NftlbError, 503),  # Unapplied, KernelError, SystemFault: the world, not the request
)


class Refused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """The request gets no more than this answer; `problems` are its faults, one line each."""

    def __init__(
        self, status: int, message: str, problems: Sequence[str] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.problems = problems
        self.headers = headers


def answer(
    status: int, message: str, problems: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    body: dict[str, object] = {"error": message}
    if problems:
        body["problems"] = list(problems)
    text = json.dumps(body) + "\n"
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into an answer. Only what is a fault of ours comes out as 500, and in the log."""
    try:
        return await handler(request)
    except Refused as refused:
        return answer(refused.status, refused.message, refused.problems, refused.headers)
    except NftlbError as error:
        return _answer_known(error)
    except web.HTTPException as error:
        return _answer_http(request, error)
    except web.RequestPayloadError:
        return answer(400, "the body is not what its headers say")
    except Exception:
        if request.transport is None:
            raise  # nobody is left to answer
        log.exception("a fault of nftlb itself: %s %s", request.method, show(request.path))
        return answer(500, "a fault of nftlb itself; its log says more")


def _answer_known(error: NftlbError) -> web.Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if isinstance(error, ConfigError):
        return answer(status, "the configuration is bad", [str(problem) for problem in error.problems])
    return answer(status, str(error))


def _answer_http(request: web.Request, error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPNotFound():
            return answer(404, "there is no such page; /api/v1/openapi.json lists them")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return answer(405, f"{request.method} can't be done here; allowed: {allowed}", headers={"Allow": allowed})
    return answer(error.status, error.reason)
