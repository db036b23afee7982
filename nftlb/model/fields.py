"""Types for the fields of pydantic models: how a value is read, and its JSON Schema as it is written in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field
from pydantic_core import core_schema

from nftlb.model import reading
from nftlb.model.kinds import Capability, Endpoint, Fallback, IPAddress, Listener, Milliseconds, Source, UnixSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


@dataclass(frozen=True, eq=False)
class Reads:
    """Has pydantic read a value by `read`, and describe it in the JSON Schema as it is `written` in a file."""

    read: Callable[[Any], object]
    written: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.written)


@dataclass(frozen=True, eq=False)
class OneOrMany:
    """Has pydantic take a single value for a list of one."""

    at_least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._as_list, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = {**handler(schema), "minItems": self.at_least}
        return {"anyOf": [many["items"], many]}

    def _as_list(self, found: object) -> list[Any]:
        listed = list(found) if isinstance(found, (list, tuple)) else [found]
        if len(listed) < self.at_least:
            raise reading.Unfit(found, "empty", "at least one")
        return listed


def or_short(short: Mapping[str, Any], schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """Describe a model that may also be written in a `short` form."""
    reference = handler(schema)
    model = handler.resolve_ref_schema(reference)
    mapping = dict(model)
    description = mapping.pop("description", "")
    model.clear()
    model.update({"description": description, "anyOf": [dict(short), mapping]})
    return reference


def written(default: Any, description: str) -> Any:
    """Make a field whose default is given as in a file."""
    return Field(default, validate_default=True, description=description)


def number(what: str, low: int, high: int) -> Reads:
    return Reads(partial(reading.whole_number, what, low, high), {"type": "integer", "minimum": low, "maximum": high})


def mark(high: int) -> Reads:
    forms = [
        {"type": "integer", "minimum": 1, "maximum": high},
        {"type": "string", "pattern": "^0[xX][0-9A-Fa-f]{1,8}$"},
    ]
    return Reads(partial(reading.read_mark, high), {"anyOf": forms})


def word(words: type[StrEnum], what: str) -> Reads:
    digits = [int(word) for word in words if word.isdecimal()]
    return Reads(partial(reading.read_word, words, what), {"enum": [*map(str, words), *digits]})


def text(what: str, allowed: str, pattern: str | re.Pattern[str]) -> Reads:
    compiled = re.compile(pattern)
    types = ["string", "integer"] if compiled.fullmatch("1") else "string"
    written = {"type": types, "pattern": f"^(?:{compiled.pattern})$"}
    return Reads(partial(reading.read_text, what, allowed, compiled), written)


def duration(low: Milliseconds) -> Reads:
    written: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{1,9}(?:ms|s|m|h)$"}
    return Reads(partial(reading.read_duration, low), written if low else {"anyOf": [written, {"const": 0}]})


_V4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_V6 = r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]+"
_ENDPOINT = rf"(?:{_V4}|\[{_V6}\]):[0-9]{{1,5}}"
ADDRESS_WRITTEN = {"type": "string", "pattern": f"^(?:{_V4}|{_V6})$"}
ENDPOINT_WRITTEN = {"type": "string", "pattern": f"^{_ENDPOINT}$"}
# A backend's address may name the interface that a link-local address needs: fe80::1%eth1.
_V6_SCOPED = rf"{_V6}(?:%[A-Za-z0-9_.@:+-]{{1,15}})?"
BACKEND_ADDRESS_WRITTEN = {"type": "string", "pattern": f"^(?:{_V4}|{_V6_SCOPED})$"}
BACKEND_ENDPOINT_WRITTEN = {"type": "string", "pattern": rf"^(?:{_V4}|\[{_V6_SCOPED}\]):[0-9]{{1,5}}$"}
LISTENER_WRITTEN = {"type": "string", "pattern": f"^{_ENDPOINT}(?:-[0-9]{{1,5}})?/(?:udp|tcp|sctp)$"}


def one_per_family(one: dict[str, Any], *words: str) -> dict[str, Any]:
    """What can stand for one of each family: one, a list, or one of these words."""
    forms = [one, {"type": "array", "items": one, "minItems": 1, "maxItems": 2}]
    return {"anyOf": [{"enum": list(words)}, *forms] if words else forms}


Port = Annotated[int, number("a port", 1, 65535)]
Weight = Annotated[int, number("a weight", 0, 256)]
Length = Annotated[int, number("a length", 0, 65535)]
Mark = Annotated[int, mark(0xFFFFFFFF)]
Count = Annotated[int, number("a count", 1, 255)]
Percent = Annotated[int, Reads(reading.read_percent, {"type": "string", "pattern": "^(?:100|[0-9]{1,2})%$"})]
Boolean = Annotated[bool, Reads(reading.read_boolean, {"type": "boolean"})]
Duration = Annotated[Milliseconds, duration(0)]
Timer = Annotated[Milliseconds, duration(10)]  # shorter ones would only keep the daemon busy

Address = Annotated[IPAddress, Reads(reading.read_address, ADDRESS_WRITTEN)]
BackendAddress = Annotated[IPAddress, Reads(reading.read_address, BACKEND_ADDRESS_WRITTEN)]
Addresses = Annotated[tuple[IPAddress, ...], Reads(reading.read_addresses, one_per_family(ADDRESS_WRITTEN))]
ListenerText = Annotated[Listener, Reads(reading.read_listener, LISTENER_WRITTEN)]
SourceText = Annotated[Source, Reads(reading.read_source, one_per_family(ADDRESS_WRITTEN, "masquerade", "keep"))]
FallbackText = Annotated[
    Fallback, Reads(reading.read_fallback, one_per_family(ENDPOINT_WRITTEN, "reject", "drop", "all"))
]
ApiListen = Annotated[
    Endpoint | UnixSocket,
    Reads(reading.read_api_listen, {"anyOf": [ENDPOINT_WRITTEN, {"type": "string", "pattern": "^unix:/.+$"}]}),
]

POOL_NAME = text(
    "a name of a pool",
    "a letter, then letters, digits and _ . -, at most 48 in all",
    r"[A-Za-z][A-Za-z0-9_.-]{0,47}",
)
PoolName = Annotated[str, POOL_NAME]
BACKEND_NAME = text(
    "a name of a backend",
    "a letter or digit, then letters, digits and _ . -, at most 48 in all",
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}",
)
BackendName = Annotated[str, BACKEND_NAME]
TableName = Annotated[
    str,
    text(
        "a name of a table", "a letter, then letters, digits and _ -, at most 32 in all", r"[A-Za-z][A-Za-z0-9_-]{0,31}"
    ),
]
HostName = Annotated[
    str,
    text(
        "a host name",
        "letters, digits and - in parts with . between them, such as lb1.example.net",
        r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*\.?",
    ),
]
# nft writes interfaces in quotes; what is allowed here can't end them, nor be a wildcard.
INTERFACE = text("an interface", "1 to 15 letters, digits and _ . - @ : +", r"(?!\.{1,2}$)[A-Za-z0-9_.@:+-]{1,15}")
Interface = Annotated[str, INTERFACE]
Path = Annotated[str, text("a path", "one that begins with /", reading.PATH)]
UrlPath = Annotated[str, text("a path of a URL", "one that begins with /, without spaces", reading.URL_PATH)]
TEXT = text("text", "text that is not empty, without control characters", reading.LINE)
Text = Annotated[str, TEXT]
Lines = Annotated[str, text("text", "text that is not empty, without control characters", reading.LINES)]
Argv = tuple[Text, ...]
Capabilities = Annotated[tuple[Annotated[Capability, word(Capability, "a capability")], ...], OneOrMany()]

DnsName = Annotated[
    str,
    text(
        "a domain name",
        "labels of letters, digits, - and _, such as example.com",
        r"\.|(?=.{1,253}\.?$)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?",
    ),
]
Digest = Annotated[str, text("an MD5 digest", "32 hexadecimal digits", r"[0-9A-Fa-f]{32}")]
Oid = Annotated[
    str,
    text(
        "an object identifier",
        "numbers and dots, such as 1.3.6.1.2.1.1.3.0",
        r"\.?[0-2](?:\.(?:0|[1-9][0-9]{0,9})){1,127}",
    ),
]
Stratum = Annotated[int, number("a stratum", 1, 15)]
Regex = Annotated[str, Reads(reading.read_regex, {"type": "string"})]
Hex = Annotated[bytes, Reads(reading.read_hex, {"type": "string", "pattern": r"^(?:\s*[0-9A-Fa-f]{2})*\s*$"})]
Status: TypeAlias = Annotated[
    tuple[int, int],
    Reads(
        reading.read_status,
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 999},
                {"type": "string", "pattern": "^[1-9][0-9]{2}(?:-[1-9][0-9]{2})?$"},
            ]
        },
    ),
]
Statuses = Annotated[tuple[Status, ...], OneOrMany(at_least=1)]
