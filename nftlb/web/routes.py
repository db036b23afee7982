"""The table of all routes. The application takes the handlers from here, and the OpenAPI document what it describes.

A handler is found by the `operation` of its route. The refusals of a route follow from its method, path and body; only
what else it can refuse stands in the table.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from aiohttp import web

from nftlb.model import EventKind
from nftlb.service import (
    BackendStatus,
    ChangedBackend,
    Consequences,
    Event,
    History,
    Notices,
    PoolClients,
    PoolStatus,
    RulesetChanges,
    Status,
)

from .bodies import BackendChangeBody, BackendsChangeBody, NewBackend, keep_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Handler
    from pydantic import BaseModel

    from .admission import Admission, Admitted

Json: TypeAlias = dict[str, Any]
Changer: TypeAlias = "Callable[[web.Request, Admitted], Awaitable[web.StreamResponse]]"
"""A handler that changes something for an admitted client."""

POOL = "/api/v1/pools/{pool}"
BACKENDS = POOL + "/backends"
CLIENTS = POOL + "/clients"
BACKEND = BACKENDS + "/{backend}"

SHOWN: tuple[type[BaseModel], ...] = (
    Status,
    PoolStatus,
    BackendStatus,
    ChangedBackend,
    PoolClients,
    Event,
    History,
    RulesetChanges,
    Notices,
    Consequences,
)
"""The models of answers."""

_ANY = (421,)
_OF_POOL = (404,)
_OF_CHANGE = (401, 403, 409, 422, 429, 503)
_OF_BODY = (400, 408, 413, 415)


@dataclass(frozen=True, kw_only=True)
class ApiRoute:
    """A method of a path: its handler, its answers and its refusals."""

    method: str = "GET"
    path: str
    operation: str
    """The operationId: generated clients name their functions after it."""
    summary: str
    answers: Json
    """The responses of OpenAPI by status, without the refusals."""
    refuses: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    query: tuple[Json, ...] = ()
    head: bool = True
    """Whether HEAD is allowed too, for GET."""

    @property
    def changes(self) -> bool:
        """Whether the request changes something, and so needs a token."""
        return self.method != "GET"

    @property
    def refusals(self) -> list[int]:
        """The statuses of all refusals."""
        found = {*_ANY, *self.refuses}
        if "{pool}" in self.path:
            found.update(_OF_POOL)
        if self.changes:
            found.update(_OF_CHANGE)
        if self.body:
            found.update(_OF_BODY)
        return sorted(found)


def bind(readers: Mapping[str, Handler], changers: Mapping[str, Changer], admission: Admission) -> list[web.RouteDef]:
    """Make the routes of an application from handlers by operation. A changer runs only for an admitted request."""
    return [
        web.RouteDef(route.method, route.path, _guarded(changers[route.operation], admission), {})
        if route.changes
        else web.RouteDef(route.method, route.path, readers[route.operation], {"allow_head": route.head})
        for route in ROUTES
    ]


def _guarded(changer: Changer, admission: Admission) -> Handler:
    running: set[asyncio.Task[web.StreamResponse]] = set()

    async def admitted(request: web.Request, admit: Callable[[], Awaitable[Admitted]]) -> web.StreamResponse:
        return await changer(request, await admit())

    def end(task: asyncio.Task[web.StreamResponse]) -> None:
        running.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: the client may have gone, and asyncio would log the exception

    async def finished(request: web.Request) -> web.StreamResponse:
        """Finish a change even if its request is cancelled, because the client has left after it."""
        keep_body(request)
        task = asyncio.create_task(admitted(request, admission.admit(request)))
        running.add(task)
        task.add_done_callback(end)
        return await asyncio.shield(task)

    return finished


# --- the answers -----------------------------------------------------------------------------------------------------


def schema_of(name: str) -> Json:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str, example: str) -> Json:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}, "example": example}}}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_NOT_READY: Json = {
    "description": "a pool lacks its quorum, or the host lacks something that a pool needs; the text says what",
    "content": {
        "text/plain": {
            "schema": {"type": "string"},
            "example": "not ready\ndns: 0 usable, 1 needed\n",
        },
        "application/json": {"schema": schema_of("Error")},
    },
}
_EVENTS: Json = {
    "description": "server-sent events; `event` is the kind, `data` an Event as JSON, `id` the id of the event",
    "content": {"text/event-stream": {"schema": {"type": "string", "contentSchema": schema_of("Event")}}},
}
_UNCHANGED: Json = {"description": "the client has this version of the file already"}
_PREVIEWED = _json("what the change would lead to; nothing was changed", schema_of("Consequences"))
_CREATED: Json = {
    **_json(
        "the backend was added, and the kernel has it; a name was added, and its backends follow when DNS answers",
        {"anyOf": [schema_of("BackendStatus"), schema_of("NameStatus")]},
    ),
    "headers": {"Location": {"description": "the path of the backend", "required": True, "schema": {"type": "string"}}},
}


def _parameter(name: str, description: str, schema: Json, example: Any, *, needed: bool = False) -> Json:
    of = {"name": name, "in": "query", "required": needed, "description": description}
    return {**of, "schema": schema, "example": example}


_STRING: Json = {"type": "string"}
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"(?:22[0-3]|2[01][0-9]|1[0-9]{{2}}|[1-9][0-9]?)(?:\.{_OCTET}){{3}}"
_V6 = r"\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]"
_PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"


def _endpoint(end: str = "") -> Json:
    return {"type": "string", "pattern": f"^(?:{_V4}|{_V6}):{_PORT}{end}$"}


_ONE_POOL = _parameter("pool", "ask about this pool only", _STRING, "dns")

MOST_CLIENTS = 10_000
USUAL_CLIENTS = 100
_LIMIT = _parameter(
    "limit",
    "how many sources to show",
    {"type": "integer", "minimum": 1, "maximum": MOST_CLIENTS, "default": USUAL_CLIENTS},
    10,
)

MOST_EVENTS = 1000
USUAL_EVENTS = 100
MOST_ID = (1 << 53) - 1
"""The highest id of an event: the highest whole number that all programs read exactly in JSON."""
_ID: Json = {"type": "integer", "minimum": 0, "maximum": MOST_ID}
_OF_HISTORY = (
    _parameter("pool", "only events of this pool", _STRING, "dns"),
    _parameter("backend", "only events of backends and collectors of this name", _STRING, "ns1"),
    _parameter("kind", "only events of this kind", {"type": "string", "enum": list(EventKind)}, "backend_down"),
    _parameter(
        "limit",
        "how many events to show, the last ones",
        {"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": USUAL_EVENTS},
        10,
    ),
    _parameter("before", "only events with a lower id, to read further back", _ID, 1767355200000),
)
_OF_EVENTS = (
    _parameter("after", "first the kept events with a higher id; `Last-Event-ID` does the same", _ID, 1767355200000),
)
_OF_EXPLAIN = (
    _parameter("source", "the address and port of the client", _endpoint(), "198.51.100.7:40000", needed=True),
    _parameter(
        "destination", "where the packet is sent to", _endpoint("/(?:udp|tcp|sctp)"), "192.0.2.53:53/udp", needed=True
    ),
    _parameter(
        "payload",
        "the payload in hexadecimal, for pools whose `key` is in the payload",
        {"type": "string", "pattern": "^(?:[0-9A-Fa-f]{2})*$"},
        "40c0ffee",
    ),
)
_PREVIEW = _parameter(
    "preview", "true: answer what the change would lead to, and change nothing", {"type": "boolean"}, True
)
VERSION_HEADER = "Nftlb-Version"
"""The header of `/healthz` with the version of the daemon."""

ROUTES: tuple[ApiRoute, ...] = (
    ApiRoute(
        path="/healthz",
        operation="health",
        summary="Whether the process works",
        answers={
            "200": {
                **_text("the process works", "ok\n"),
                "headers": {VERSION_HEADER: {"description": "the version of the daemon", "schema": _STRING}},
            }
        },
    ),
    ApiRoute(
        path="/readyz",
        operation="readiness",
        summary="Whether every pool, or one pool, has its quorum",
        answers={"200": _text("all asked pools are ready", "ready\n"), "503": _NOT_READY},
        refuses=(400, 404),
        query=(_ONE_POOL,),
    ),
    ApiRoute(
        path="/metrics",
        operation="metrics",
        summary="Metrics for Prometheus",
        answers={"200": _text("text format 0.0.4", "nftlb_ready 1\n")},
        refuses=(503,),
    ),
    ApiRoute(
        path="/",
        operation="page",
        summary="The web page",
        answers={"200": {"description": "HTML", "content": {"text/html": {}}}, "304": _UNCHANGED},
    ),
    ApiRoute(
        path="/page/{file}",
        operation="pageFile",
        summary="A script or style of the web page",
        answers={
            "200": {"description": "the file", "content": {"text/javascript": {}, "text/css": {}, "text/html": {}}},
            "304": _UNCHANGED,
        },
        refuses=(404,),
    ),
    ApiRoute(
        path="/api/v1/status",
        operation="status",
        summary="The state of everything",
        answers={"200": _json("the state", schema_of("Status"))},
        refuses=(503,),
    ),
    ApiRoute(
        path="/api/v1/pools",
        operation="pools",
        summary="All pools",
        answers={"200": _json("in the order of the file", {"type": "array", "items": schema_of("PoolStatus")})},
        refuses=(503,),
    ),
    ApiRoute(
        path=POOL,
        operation="pool",
        summary="One pool",
        answers={"200": _json("the state of the pool", schema_of("PoolStatus"))},
        refuses=(503,),
    ),
    ApiRoute(
        path=CLIENTS,
        operation="clients",
        summary="The sources of a pool with the most packets, if its guard counts clients",
        answers={"200": _json("the source with the most packets first", schema_of("PoolClients"))},
        refuses=(400, 409, 503),
        query=(_LIMIT,),
    ),
    ApiRoute(
        path="/api/v1/ruleset",
        operation="ruleset",
        summary="The ruleset last applied",
        answers={"200": _text("nft's text", "table ip nftlb {\n}\n")},
        refuses=(503,),
    ),
    ApiRoute(
        path="/api/v1/events",
        operation="events",
        summary="Events from now on, or continued after an event",
        answers={"200": _EVENTS},
        refuses=(400, 503),
        query=_OF_EVENTS,
        head=False,
    ),
    ApiRoute(
        path="/api/v1/history",
        operation="history",
        summary="The last events: 1,000 are kept, also over a restart",
        answers={"200": _json("the newest event first", schema_of("History"))},
        refuses=(400, 503),
        query=_OF_HISTORY,
    ),
    ApiRoute(
        path="/api/v1/ruleset/changes",
        operation="rulesetChanges",
        summary="The last 20 changes of the rules, as differences",
        answers={"200": _json("the newest change first", schema_of("RulesetChanges"))},
        refuses=(400, 503),
    ),
    ApiRoute(
        path="/api/v1/explain",
        operation="explain",
        summary="What happens to a packet now, and why",
        answers={"200": _json("as `nftlb explain --json`", {"type": "object"})},
        refuses=(400, 422, 503),
        query=_OF_EXPLAIN,
    ),
    ApiRoute(
        path="/api/v1/notices",
        operation="notices",
        summary="What keeps packets from their way on this host, and how to fix that, as `nftlb doctor` finds it",
        answers={"200": _json("at most 30 s old", schema_of("Notices"))},
        refuses=(400, 503),
    ),
    ApiRoute(
        path="/api/v1/openapi.json",
        operation="openapi",
        summary="This document",
        answers={"200": _json("OpenAPI 3.1", {"type": "object"})},
    ),
    ApiRoute(
        method="POST",
        path=BACKENDS,
        operation="addBackend",
        summary="Add a backend; it survives restarts",
        answers={"200": _PREVIEWED, "201": _CREATED},
        body=NewBackend,
        query=(_PREVIEW,),
        refuses=(400,),
    ),
    ApiRoute(
        method="PATCH",
        path=BACKEND,
        operation="changeBackend",
        summary="Set the admin state, the weight or the priority of a backend; the change survives restarts",
        answers={
            "200": _json(
                "the new state, and the kernel has it; of an address that DNS does not have now, the name, with what "
                "is kept until the address returns; or what the change would lead to",
                {"anyOf": [schema_of("BackendStatus"), schema_of("NameStatus"), schema_of("Consequences")]},
            )
        },
        body=BackendChangeBody,
        query=(_PREVIEW,),
        refuses=(400,),
    ),
    ApiRoute(
        method="PATCH",
        path="/api/v1/backends",
        operation="changeBackends",
        summary="`changeBackend` for several backends, in one change of the rules; if one is unknown, none is changed",
        answers={
            "200": _json(
                "the new states, in the order of the request, without those that their pools do not have now; or what "
                "the change would lead to",
                {"anyOf": [{"type": "array", "items": schema_of("ChangedBackend")}, schema_of("Consequences")]},
            )
        },
        body=BackendsChangeBody,
        query=(_PREVIEW,),
        refuses=(400, 404),
    ),
    ApiRoute(
        method="DELETE",
        path=BACKEND,
        operation="removeBackend",
        summary="Remove a backend; a backend of the file returns with the next reload",
        answers={"200": _PREVIEWED, "204": {"description": "the backend is removed"}},
        query=(_PREVIEW,),
        refuses=(400,),
    ),
    ApiRoute(
        method="POST",
        path="/api/v1/reload",
        operation="reload",
        summary="Read the file again; if the file is bad, the configuration in use stays",
        answers={
            "200": _json(
                "the file is in use; or what its use would lead to",
                {"anyOf": [schema_of("Reloaded"), schema_of("Consequences")]},
            )
        },
        query=(_PREVIEW,),
        refuses=(400,),
    ),
)


# --- the refusals ----------------------------------------------------------------------------------------------------

_REFUSALS = {
    400: (
        "the request or its body can't be read",
        "the body is not JSON: Expecting value: line 1 column 1 (char 0)",
    ),
    401: ("the bearer token is missing or wrong", "no bearer token; needed: Authorization: Bearer TOKEN"),
    403: (
        "the API is read-only, because no token_file is configured; or the request comes from a page of another site",
        "this API allows no changes without a token, and no token_file is set under api in the file",
    ),
    404: ("the pool or backend does not exist", "no pool is named dns9; there are: dns, syslog"),
    408: ("the body did not arrive in time", "the body is incomplete after 10 s; allowed: less time"),
    409: (
        "the request conflicts with the present state",
        "dns has a backend ns1 already; remove it first, or take another name",
    ),
    413: ("the body is larger than 64 KiB, or of `changeBackends` 2 MiB", "the body is too large; allowed: 64 KiB"),
    415: ("the body is not application/json", "the content type is text/plain; allowed: application/json"),
    421: (
        "the name in `Host` is not a name of this API",
        "example.com is not a name of this API; allowed: an address, localhost, lb1, and the names in hosts under api",
    ),
    422: ("a value is not allowed", "the body is not valid"),
    429: (
        "too many wrong tokens came from this client",
        "too many wrong tokens came from 192.0.2.1; allowed: one in 6 s",
    ),
    503: (
        "the kernel or the system refused for now; or too many requests wait for this answer",
        "the kernel refused: No buffer space available; it is tried again",
    ),
}
_PROBLEMS = ["weight: 300 is not a weight; allowed: 0 to 256"]
_HEADERS: dict[int, Json] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    HTTPStatus.TOO_MANY_REQUESTS: {
        "Retry-After": {"required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}
    },
}


def refusal_response(status: int) -> Json:
    """Describe a refusal as a response of OpenAPI."""
    description, error = _REFUSALS[status]
    problems = {"problems": _PROBLEMS} if status == HTTPStatus.UNPROCESSABLE_ENTITY else {}
    example: Json = {"error": error, **problems}
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    content = {"application/json": {"schema": schema_of("Error"), "example": example}}
    return {"description": description, "content": content, **headers}
