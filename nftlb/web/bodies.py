"""What may be in a request's body, and how it is read."""

import asyncio
import json
from functools import partial
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from nftlb.model import Admin, IPAddress
from nftlb.model.fields import BACKEND_NAME, Interface, Port, Reads, Weight, word
from nftlb.model.reading import Unfit, read_address, show

from .errors import Refused
from .limits import Limits


def _read_string(reads: Reads, found: object) -> object:
    """Read what is written in quotes. Without them YAML means it as well; in JSON it is a number."""
    if isinstance(found, str):
        return reads.read(found)
    raise Unfit(found, "not a string", "a string, in quotes")


def _string(reads: Reads) -> Reads:
    return Reads(partial(_read_string, reads), {**reads.written, "type": "string"})


# As close as a schema comes to what can be sent to: what isn't unspecified, broadcast, multicast or a mapped address.
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

State = Annotated[Admin, word(Admin, "a state")]
Name = Annotated[str, _string(BACKEND_NAME)]
Device = Annotated[str, _string(Interface.__metadata__[0])]
Unicast = Annotated[IPAddress, Reads(read_address, _UNICAST)]


def _without_default(schema: dict[str, Any]) -> None:
    """Leave out a default that may not be written."""
    schema.pop("default", None)


def _unset(description: str) -> Any:
    return Field(None, description=description, json_schema_extra=_without_default)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackendChange(_Body):
    """What to set of a backend; at least one of the two."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, "examples": [{"admin": "drain"}, {"admin": "enabled", "weight": 3}]}
    )

    admin: State = _unset("what the operator wants of it, whatever its health")
    weight: Weight = _unset("its share, relative to the other backends; 0 takes nothing")


class NewBackend(_Body):
    """A backend to add: what a file says of one, and its name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "ns9", "address": "10.0.0.19", "port": 5353, "weight": 2}]}
    )

    name: Name = Field(description="a letter or digit, then letters, digits and _ . -, at most 48 in all")
    address: Unicast = Field(description="the address to send to")
    port: Port = _unset("the port to send to; without one, the packet's is kept")
    weight: Weight = _unset("its share, relative to the other backends; 1 by default")
    admin: State = _unset("what the operator wants of it; enabled by default")
    device: Device = _unset("the interface towards it, for the fast path")
    via: Unicast = _unset("the next hop towards it, for the fast path")


Body = TypeVar("Body", bound=_Body)


async def read_body(request: web.Request, model: type[Body], limits: Limits) -> tuple[Body, dict[str, Any]]:
    """Read what the model describes, and give it as it was written too.

    Refused: 400 for what is no JSON, 408, 413, 415, and 422 with all faults, each with its place.
    """
    data = _parse(await _receive(request, limits))
    if not isinstance(data, dict):
        raise Refused(
            422, "the body is bad", [f"{show(data)} is not an object; allowed: {', '.join(model.model_fields)}"]
        )
    if not data:
        raise Refused(422, "the body is bad", [f"nothing is in it; allowed: {', '.join(model.model_fields)}"])
    try:
        return model.model_validate(data), data
    except ValidationError as error:
        problems = [_problem(details, model) for details in error.errors(include_url=False)]
        raise Refused(422, "the body is bad", problems) from None


async def _receive(request: web.Request, limits: Limits) -> bytes:
    if request.content_type != "application/json":
        raise Refused(415, "the content type is not application/json", headers={"Accept": "application/json"})
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(415, "the body is encoded; send it as it is", headers={"Accept-Encoding": "identity"})
    if (request.content_length or 0) > limits.body:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await request.read()
    except TimeoutError:
        message = f"the body did not come within {limits.body_seconds:g} s"
        raise Refused(408, message, headers={"Connection": "close"}) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limits) from None


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is larger than {limits.body >> 10} KiB", headers={"Connection": "close"})


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_once, parse_float=_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key is there twice")
    return keys


def _number(digits: str) -> int | float:
    """Read 2.0 and 2e0 as what they are to JSON: 2."""
    number = float(digits)
    return int(number) if number.is_integer() else number


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number")


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
