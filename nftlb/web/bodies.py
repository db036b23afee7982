"""The bodies of requests: their fields, which come from `nftlb.model.Backend`, and how a body is read."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import MISSING
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from nftlb.config.fields import Reads, options, reads, without_none, written_form
from nftlb.config.reading import Unfit, read_address, read_server
from nftlb.config.written import ONE_KIND_OF_SERVER, backend_fault, make_backend
from nftlb.model import Backend, BackendChange, BackendKey, NamedBackend
from nftlb.model.constraints import POOL_NAME, SERVER_NAME, SHOWN_BACKEND_NAME, TextPattern
from nftlb.printable import encodable, show

from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from pydantic_core import ErrorDetails

    from .connection import Limits


def _read_string(form: Reads, found: object) -> object:
    """Read a value that must be a string. In YAML a number without quotes is also text; in JSON it is a number."""
    if isinstance(found, str):
        return form.read(found)
    raise Unfit(found, "not a string", "a string, in quotes")


def _string(annotation: Any) -> Any:
    form = reads(annotation)
    return Annotated[Any, Reads(partial(_read_string, form), {**form.written, "type": "string"})]


# JSON Schema can't describe unicast addresses exactly. This schema excludes unspecified, broadcast, multicast and
# IPv4-mapped addresses.
_UNICAST = {
    "anyOf": [
        {
            "type": "string",
            "format": "ipv4",
            "not": {"pattern": r"^(?:0\.0\.0\.0|255\.255\.255\.255|(?:22[4-9]|23[0-9])\..*)$"},
        },
        {"type": "string", "format": "ipv6", "not": {"pattern": "^(?:[fF]{2}|[0:]*$|[0:]*:[fF]{4}:|.*%)"}},
    ]
}
_SERVER = {"anyOf": [*_UNICAST["anyOf"], {"type": "string", "pattern": f"^{SERVER_NAME.pattern.pattern}$"}]}
_FORMS = {
    "address": Annotated[Any, Reads(read_server, _SERVER)],
    "via": Annotated[Any, Reads(read_address, _UNICAST)],
}


def _without_default(schema: dict[str, Any]) -> None:
    """Leave the default out of the schema: it is None, and null is not allowed."""
    schema.pop("default", None)


# Where both kinds of backends have an option, that of a host name says more about the address, and needs none.
_OPTIONS = {option.name: option for kind in (Backend, NamedBackend) for option in options(kind)}


def _body(
    name: str, doc: str, only: Iterable[str], more: Mapping[str, Any] | None = None, **schema: Any
) -> type[BaseModel]:
    """Make the model of a body from options of backends and `more` fields. An option that is not given stays unset."""
    made: dict[str, Any] = dict(more or {})
    for option in map(_OPTIONS.__getitem__, only):
        annotation = without_none(option.type)
        form = _FORMS.get(option.name) or (_string(annotation) if _is_text(annotation) else written_form(annotation))
        field = Field(description=option.description)
        if option.default is not MISSING:
            field = Field(None, description=option.description, json_schema_extra=_without_default)
        made[option.name] = (form, field)
    config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=schema)
    return cast("type[BaseModel]", create_model(name, __doc__=doc, __config__=config, **made))


def _is_text(annotation: Any) -> bool:
    return any(isinstance(arm, TextPattern) for arm in get_args(annotation))


BackendChangeBody = _body(
    "BackendChange",
    "What to change of a backend: at least one value.",
    ("admin", "weight", "priority"),
    minProperties=1,
    examples=[{"admin": "drain"}, {"admin": "enabled", "weight": 3}],
)
_KEY = rf"{POOL_NAME.pattern.pattern}/(?:{SHOWN_BACKEND_NAME.pattern.pattern}|\*)"


def _read_keys(found: object) -> tuple[BackendKey, ...]:
    """Read a list of POOL/BACKEND, or POOL/* for all of a pool. The size of the body limits the number.

    A name that occurs twice counts once.
    """
    allowed = "one name or several, such as dns/ns1 or dns/*"
    if not isinstance(found, list):
        raise Unfit(found, "not a list of backends", allowed)
    if not found:
        raise Unfit(found, "without names", allowed)
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(_KEY, name):
            raise Unfit(name, "not POOL/BACKEND", "two names, such as dns/ns1, or dns/* for all of a pool")
    return tuple(map(BackendKey.parse, dict.fromkeys(found)))


_KEYS = Reads(
    _read_keys,
    {"type": "array", "items": {"type": "string", "pattern": f"^{_KEY}$"}, "minItems": 1},
)
BackendsChangeBody = _body(
    "BackendsChange",
    "What to change of several backends, which may belong to several pools: at least one value.",
    ("admin", "weight", "priority"),
    {
        "backends": (
            Annotated[Any, _KEYS],
            Field(description="each as POOL/BACKEND; POOL/* stands for all of a pool"),
        )
    },
    minProperties=2,
    examples=[{"backends": ["dns/ns1", "dns/ns2"], "admin": "maintenance"}, {"backends": ["dns/*"], "admin": "drain"}],
)
NewBackend = _body(
    "NewBackend",
    "A backend to add: its name, and the options that a file has for a backend.",
    _OPTIONS,
    oneOf=ONE_KIND_OF_SERVER,
    dependentSchemas={"via": {"properties": {"address": _UNICAST}}},
    examples=[
        {"name": "ns9", "address": "10.0.0.19", "port": 5353, "weight": 2},
        {"name": "ns", "address": "ns.example.com", "port": 53},
    ],
)


def change_of_backends(given: dict[str, Any]) -> tuple[tuple[BackendKey, ...], BackendChange]:
    """Take a body of BackendsChange apart. RequestError 422 if it changes nothing."""
    values = {name: value for name, value in given.items() if name != "backends"}
    if not values:
        fault = f"nothing is to be changed; allowed: {', '.join(BackendChange._fields)}"
        raise RequestError(422, "the body is not valid", [fault])
    return given["backends"], BackendChange(**values)


def new_backend(given: dict[str, Any]) -> Backend | NamedBackend:
    """Make a backend from a body of NewBackend. RequestError 422 if its options exclude each other."""
    if fault := backend_fault(given):
        raise RequestError(422, "the body is not valid", [fault])
    return make_backend(given)


async def read_body(
    request: web.Request, model: type[BaseModel], limits: Limits, *, names: bool = False
) -> dict[str, Any]:
    """Read a body of this model, and return the options that it gives. `names`: it has names of many backends.

    RequestError: 400 for a body that is not JSON; 408, 413, 415; 422 with all faults, each with its place.
    """
    data = _parse(await _receive(request, limits.names if names else limits.body, limits.body_seconds))
    if not isinstance(data, dict):
        raise RequestError(
            422, "the body is not valid", [f"{show(data)} is not an object; allowed: {', '.join(model.model_fields)}"]
        )
    if not data:
        raise RequestError(
            422, "the body is not valid", [f"the body is empty; allowed: {', '.join(model.model_fields)}"]
        )
    try:
        body = model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(details, model) for details in error.errors(include_url=False)]
        raise RequestError(422, "the body is not valid", problems) from None
    return {key: getattr(body, key) for key in body.model_fields_set}


async def _receive(request: web.Request, most: int, seconds: float) -> bytes:
    """Receive a body of at most `most` bytes within some seconds."""
    if request.content_type != "application/json":
        raise RequestError(
            415,
            f"the content type is {show(request.content_type)}; allowed: application/json",
            headers={"Accept": "application/json"},
        )
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise RequestError(
            415, "the body has a content encoding; allowed: no encoding", headers={"Accept-Encoding": "identity"}
        )
    if (request.content_length or 0) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in _pieces(request):
                body += piece
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        message = f"the body is incomplete after {seconds:g} s; allowed: less time"
        raise RequestError(408, message, headers={"Connection": "close"}) from None
    return bytes(body)


_WHOLE = web.RequestKey("body", bytes)


def keep_body(request: web.Request) -> None:
    """Keep a body that has arrived whole, for `read_body`: the body of a client that leaves can't be read later."""
    if request.content.is_eof():
        request[_WHOLE] = request.content.read_nowait()


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    if _WHOLE in request:
        yield request[_WHOLE]
        return
    async for piece in request.content.iter_any():  # read() has one limit for all routes
        yield piece


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"the body is too large; allowed: {most >> 10} KiB", headers={"Connection": "close"})


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_once, parse_float=_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key occurs twice; allowed: each key once")
    for key in keys:
        if encodable(key) != key:  # half of a character of UTF-16
            raise ValueError(f"the key {show(key)} is no text; allowed: whole characters")
    return keys


def _number(digits: str) -> int | float:
    """Read 2.0 and 2e0 as 2: JSON does not distinguish them."""
    number = float(digits)
    return int(number) if number.is_integer() else number


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number of JSON; allowed: digits")


def _problem(details: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(map(str, details["loc"]))
    match details["type"]:
        case "extra_forbidden":
            return f"{show(where)} is unknown; allowed: {', '.join(model.model_fields)}"
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where}: {details['ctx']['error']}"
    return f"{where}: {details['msg']}"
