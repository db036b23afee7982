"""`GET /api/v1/openapi.json`: the API in OpenAPI 3.1, made from the table of routes and the models."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from nftlb.config.fields import reads
from nftlb.model.constraints import PoolName, ShownBackendName

from .routes import ROUTES, SHOWN, refusal_response, schema_of
from .shared import large_response

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler

    from .routes import ApiRoute, Json
    from .shared import SharedResponses

_ERROR: Json = {
    "type": "object",
    "description": "the reason of a refusal",
    "properties": {
        "error": {"type": "string", "description": "the reason in one line"},
        "problems": {
            "type": "array",
            "items": {"type": "string"},
            "description": "all faults, if there are several",
        },
        "faults": {
            "type": "array",
            "description": "the places of faults: in the configuration file, or the parameter of the query as `path`",
            "items": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "description": "empty for a fault of the request"},
                    "line": {"type": "integer", "minimum": 0, "description": "from 1; 0: the whole file"},
                    "column": {"type": "integer", "minimum": 0, "description": "from 1; 0: the whole file"},
                    "path": {"type": "string", "description": "such as pools.dns.backends.ns2.port"},
                    "message": {"type": "string"},
                },
                "required": ["file", "line", "column", "path", "message"],
                "additionalProperties": False,
            },
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


class Description:
    """Serves the document, which is made once, at the first request."""

    def __init__(self, shared: SharedResponses) -> None:
        self._shared = shared
        self._document = b""

    def handlers(self) -> dict[str, Handler]:
        return {"openapi": self.document}

    async def document(self, _: web.Request) -> web.Response:
        if not self._document:
            self._document = await self._shared.get("openapi", _document)
        return large_response(self._document)


async def _document() -> bytes:
    """Make the document in a thread: that takes some tenths of a second, in which checks have to begin."""
    return await asyncio.to_thread(_written)


def _written() -> bytes:
    return f"{json.dumps(openapi())}\n".encode()


def openapi() -> Json:
    """The document as data for JSON."""
    paths: Json = {}
    for route in ROUTES:
        path = paths.setdefault(route.path, {})
        if parameters := [_PARAMETERS[name] for name in re.findall(r"{(\w+)}", route.path)]:
            path["parameters"] = parameters
        path[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nftlb",
            "version": "1",
            "summary": "A UDP-first load balancer for Linux: its state, and changes to it",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a line of the file that api.token_file names: TOKEN, or NAME TOKEN. At the "
                    "daemon's own socket in /run/nftlb, root, the daemon's user and members of api.operators need none",
                }
            },
        },
    }


def _operation(route: ApiRoute) -> Json:
    refusals = {str(status): refusal_response(status) for status in route.refusals}
    operation: Json = {
        "operationId": route.operation,
        "summary": route.summary,
        "responses": {**refusals, **route.answers},
    }
    if route.query:
        operation["parameters"] = list(route.query)
    if route.changes:
        operation["security"] = [{"token": []}]
    if route.body:
        content = {"application/json": {"schema": schema_of(route.body.__name__)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path(name: str, annotation: Any, example: str) -> Json:
    schema = {"type": "string", "pattern": reads(annotation).written["pattern"]}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


_PARAMETERS = {
    "pool": _path("pool", PoolName, "dns"),
    "backend": _path("backend", ShownBackendName, "ns1"),
    "file": {
        "name": "file",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": r"^[A-Za-z.]+$"},
        "example": "main.js",
    },
}


class _Generator(GenerateJsonSchema):
    """Leaves out titles: the name of a schema, or of a field, is title enough."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _schemas() -> Json:
    bodies = [route.body for route in ROUTES if route.body]
    _, document = models_json_schema(
        [*((model, "serialization") for model in SHOWN), *((model, "validation") for model in bodies)],
        ref_template=schema_of("{model}")["$ref"],
        schema_generator=_Generator,
    )
    return {**document["$defs"], "Error": _ERROR, "Reloaded": _RELOADED}
