"""`GET /api/v1/openapi.json`: all of this in OpenAPI 3.1, made of the models."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from nftlb.model.fields import BACKEND_NAME, POOL_NAME
from nftlb.service import BackendStatus, Event, PoolStatus, Status

from .api import BACKEND, BACKENDS, POOL
from .bodies import BackendChange, NewBackend
from .large import Large

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .shared import Shared

    Json = dict[str, Any]

_PREFIX = "#/components/schemas/"
_ERROR: Json = {
    "type": "object",
    "description": "why not",
    "properties": {
        "error": {"type": "string", "description": "in one line"},
        "problems": {
            "type": "array",
            "items": {"type": "string"},
            "description": "each fault, where there are several",
        },
    },
    "required": ["error"],
    "additionalProperties": False,
}
_RELOADED: Json = {
    "type": "object",
    "properties": {"reloaded": {"const": True}},
    "required": ["reloaded"],
    "additionalProperties": False,
}
_REFUSALS = {
    400: ("the request, or its body, can't be read", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    401: ("a bearer token is missing, or is none of ours", "a bearer token is needed"),
    403: (
        "the API only reads: no token_file is configured; or a page of another site asks",
        "this API only reads: the file names no token_file under api",
    ),
    404: ("there is no such pool or backend", "no pool is named dns9; there are: dns, syslog"),
    408: ("the body did not come in time", "the body did not come within 10 s"),
    409: ("it goes against what is there", "ns1 is there already"),
    413: ("the body is larger than 64 KiB", "the body is larger than 64 KiB"),
    415: ("the body is not application/json", "the content type is not application/json"),
    421: (
        "`Host` has a name that this API is not asked by",
        "example.com is no name of this API; allowed: an address, localhost, lb1, and the names in hosts under api",
    ),
    422: ("a value is not what its place allows", "the body is bad"),
    429: ("too many wrong tokens came from there", "too many wrong tokens came from 192.0.2.1; allowed: one in 6 s"),
    503: (
        "the kernel or the system refused for now; or too many requests wait for this answer",
        "the kernel refused: No buffer space available; it is tried again",
    ),
}
_PROBLEMS = ["weight: 300 is not a weight; allowed: 0 to 256"]


class Description:
    """The document is made once, when it is first asked for."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._document = b""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/openapi.json", self.document)]

    async def document(self, _: web.Request) -> web.Response:
        if not self._document:
            self._document = await self._shared.get("openapi", _document)
        return web.Response(body=Large(self._document, "application/json; charset=utf-8"))


async def _document() -> bytes:
    """Make the document in a thread: that takes some tenths of a second, in which checks have to begin."""
    return await asyncio.to_thread(_written)


def _written() -> bytes:
    return f"{json.dumps(openapi())}\n".encode()


def openapi() -> Json:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nftlb",
            "version": "1",
            "summary": "A UDP-first load balancer for Linux: its state, and changes of it",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "paths": {**_probes(), **_reads(), **_changes()},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a line of the file that api.token_file names",
                }
            },
        },
    }


def _probes() -> Json:
    pool = {
        "name": "pool",
        "in": "query",
        "required": False,
        "description": "ask about this pool only",
        "schema": {"type": "string"},
        "example": "dns",
    }
    not_ready = {
        "description": "a pool lacks its quorum, or this host something: the text says what; or no state can be read",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "not ready\ndns: 0 of 1 backends that make its quorum are healthy\n",
            },
            "application/json": {"schema": _of("Error")},
        },
    }
    return {
        "/healthz": {"get": _operation("health", "Whether the process works", {"200": _text("it works", "ok\n")})},
        "/readyz": {
            "get": {
                **_operation(
                    "readiness",
                    "Whether every pool, or one, has its quorum",
                    {"200": _text("it has", "ready\n"), "503": not_ready},
                    (400, 404),
                ),
                "parameters": [pool],
            }
        },
        "/metrics": {
            "get": _operation(
                "metrics", "Figures for Prometheus", {"200": _text("text format 0.0.4", "nftlb_ready 1\n")}, (503,)
            )
        },
        "/": {
            "get": _operation("page", "The web page", {"200": {"description": "HTML", "content": {"text/html": {}}}})
        },
    }


def _reads() -> Json:
    events = {
        "description": "server-sent events; `event` is the kind, `data` an Event as JSON, `id` when it happened",
        "content": {"text/event-stream": {"schema": {"type": "string", "contentSchema": _of("Event")}}},
    }
    pools = {"type": "array", "items": _of("PoolStatus")}
    return {
        "/api/v1/status": {
            "get": _operation("status", "Everything", {"200": _json("the state", _of("Status"))}, (503,))
        },
        "/api/v1/pools": {
            "get": _operation("pools", "All pools", {"200": _json("in the file's order", pools)}, (503,))
        },
        POOL: {
            "parameters": [_POOL],
            "get": _operation("pool", "One pool", {"200": _json("its state", _of("PoolStatus"))}, (404, 503)),
        },
        "/api/v1/ruleset": {
            "get": _operation(
                "ruleset", "The ruleset last applied", {"200": _text("nft's text", "table ip nftlb {\n}\n")}, (503,)
            )
        },
        "/api/v1/events": {"get": _operation("events", "What happens from now on", {"200": events}, (503,))},
        "/api/v1/openapi.json": {
            "get": _operation("openapi", "This document", {"200": _json("OpenAPI 3.1", {"type": "object"})})
        },
    }


def _changes() -> Json:
    created = _json("it is there; the kernel has it", _of("BackendStatus"))
    created["headers"] = {"Location": {"description": "its place", "required": True, "schema": {"type": "string"}}}
    change = _operation(
        "changeBackend",
        "Set a backend's admin state, or its weight; survives restarts",
        {"200": _json("its state now; the kernel follows it", _of("BackendStatus"))},
        (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
    )
    add = _operation(
        "addBackend",
        "Add a backend; survives restarts",
        {"201": created},
        (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
    )
    remove = _operation(
        "removeBackend",
        "Take a backend out; one of the file until the next reload",
        {"204": {"description": "it is gone"}},
        (401, 403, 404, 409, 422, 429, 503),
    )
    reload = _operation(
        "reload",
        "Read the file again; if it is bad, what is in use stays",
        {"200": _json("it is in use", _of("Reloaded"))},
        (401, 403, 409, 422, 429, 503),
    )
    return {
        BACKENDS: {"parameters": [_POOL], "post": {**add, **_guarded("NewBackend")}},
        BACKEND: {
            "parameters": [_POOL, _BACKEND],
            "patch": {**change, **_guarded("BackendChange")},
            "delete": {**remove, **_guarded()},
        },
        "/api/v1/reload": {"post": {**reload, **_guarded()}},
    }


def _path(name: str, pattern: str, example: str) -> Json:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


_POOL = _path("pool", POOL_NAME.written["pattern"], "dns")
_BACKEND = _path("backend", BACKEND_NAME.written["pattern"], "ns1")


def _operation(identity: str, summary: str, answers: Json, refusals: tuple[int, ...] = ()) -> Json:
    return {
        "operationId": identity,
        "summary": summary,
        "responses": {**answers, **{str(status): _refusal(status) for status in (*refusals, 421)}},
    }


def _guarded(body: str = "") -> Json:
    if not body:
        return {"security": [{"token": []}]}
    content = {"application/json": {"schema": _of(body)}}
    return {"security": [{"token": []}], "requestBody": {"required": True, "content": content}}


def _refusal(status: int) -> Json:
    description, error = _REFUSALS[status]
    example: Json = {"error": error, **({"problems": _PROBLEMS} if status == 422 else {})}  # noqa: PLR2004
    refusal: Json = {
        "description": description,
        "content": {"application/json": {"schema": _of("Error"), "example": example}},
    }
    if status == 429:  # noqa: PLR2004
        refusal["headers"] = {"Retry-After": {"required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    if status == 401:  # noqa: PLR2004
        refusal["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return refusal


def _text(description: str, example: str) -> Json:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}, "example": example}}}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _of(name: str) -> Json:
    return {"$ref": _PREFIX + name}


class _Generator(GenerateJsonSchema):
    """Leaves out titles: the name of a schema, or of a field, is title enough."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _schemas() -> Json:
    shown: list[type[BaseModel]] = [Status, PoolStatus, BackendStatus, Event]
    told: list[type[BaseModel]] = [BackendChange, NewBackend]
    _, document = models_json_schema(
        [*((model, "serialization") for model in shown), *((model, "validation") for model in told)],
        ref_template=_PREFIX + "{model}",
        schema_generator=_Generator,
    )
    return {**document["$defs"], "Error": _ERROR, "Reloaded": _RELOADED}
